"""The models behind the page: loaded once, when first asked for, and shared by all sessions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from restoration_guide.app.words import PageError
from restoration_guide.restorers import load_restorer
from zoomiqa_core.scorer import load_scorer

if TYPE_CHECKING:
    from restoration_guide.app.config import AppConfig
    from restoration_guide.restorers.base import Restorer
    from zoomiqa_core.scorer import Scorer


class Models:
    """Restorers and judges by name.

    >>> from restoration_guide.app.config import AppConfig
    >>> models = Models(AppConfig(scorers=("proxy", "restoration")))
    >>> list(models.restorers), list(models.scorers), models.scorer("proxy").name
    (['builtin'], ['proxy', 'restoration'], 'proxy')
    >>> models.restorer(["my_model"])
    Traceback (most recent call last):
    restoration_guide.app.words.PageError: my_model is not offered here; choose one of: builtin.
    """

    def __init__(self, config: AppConfig) -> None:
        self.restorers = {_name(each): each for each in config.restorers}
        self.scorers = {_name(each): each for each in config.scorers}
        self.device = config.device
        self.in_use = threading.Lock()
        """Held while models compute: one computation at a time."""
        self._loading = threading.Lock()
        self._loaded: dict[tuple[str, str], Any] = {}

    def restorer(self, names: Sequence[str]) -> Restorer:
        """One restorer, or several as a pool.

        Raises:
            PageError: none, or one that is not offered.
        """
        if not names:
            raise PageError("Choose at least one restorer.")
        members = [self._load("restorers", name) for name in dict.fromkeys(names)]
        return members[0] if len(members) == 1 else load_restorer(members)

    def scorer(self, name: str) -> Scorer:
        """A judge.

        Raises:
            PageError: one that is not offered.
        """
        return self._load("scorers", name)

    def _load(self, kind: str, name: str) -> Any:
        offered: dict[str, Any] = getattr(self, kind)
        if name not in offered:
            raise PageError(f"{name} is not offered here; choose one of: {', '.join(offered)}.")
        with self._loading:
            if (kind, name) not in self._loaded:
                try:
                    self._loaded[kind, name] = self._made(kind, offered[name])
                # Absent libraries or files, a hub out of reach, weights of another shape.
                except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
                    raise PageError(f"{name} cannot be loaded: {error}") from error
            return self._loaded[kind, name]

    def _made(self, kind: str, given: Any) -> Any:
        if kind == "scorers":
            return load_scorer(given, device=self.device) if isinstance(given, str) else given
        if isinstance(given, str) and self.device != "cpu":
            return load_restorer(given, device=self.device)
        return load_restorer(given)


def _name(given: Any) -> str:
    return str(getattr(given, "name", getattr(given, "__name__", given)))
