"""Models for tests: one that writes at random, and one that answers at random."""

from __future__ import annotations

import pytest

from tests.core.judges import BROKEN, CROP, FINAL, GOOD
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm, teach_replies


@pytest.fixture(scope="session")
def tiny():
    """A random Qwen2.5-VL and its processor; not to be changed."""
    return build_tiny_vlm()


@pytest.fixture(scope="session")
def answering():
    """One that answers final, crop, good and broken about equally often; not to be changed."""
    model, processor = build_tiny_vlm()
    replies = {FINAL: 8.0, CROP: 8.7, GOOD: 8.0, BROKEN: 7.0}
    teach_replies(model, processor, replies, end=8.5)
    return model, processor
