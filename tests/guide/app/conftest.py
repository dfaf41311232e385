"""The page's handlers on the bundled demo photo with fast, scripted models."""

from pathlib import Path

import pytest

from restoration_guide.app.config import AppConfig
from restoration_guide.app.handlers import Handlers
from restoration_guide.app.session import Session


@pytest.fixture
def config(stubs) -> AppConfig:
    second = stubs.Restorer()
    second.name = "other"
    return AppConfig(restorers=[stubs.Restorer(), second], scorers=[stubs.Scorer()], max_n=6)


@pytest.fixture
def handlers(config: AppConfig) -> Handlers:
    return Handlers(config)


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def restored(handlers: Handlers, session: Session, photo_file: Path) -> list[dict]:
    """What the page was sent during a search of three candidates."""
    return list(handlers.restore(session, str(photo_file), ["scripted"], "noise", 3, 5))
