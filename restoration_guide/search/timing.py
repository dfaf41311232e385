"""Where the seconds of a search go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of a search and of its parts."""

    total: float
    restoring: float
    judging: float
    fidelity: float

    @property
    def judging_share(self) -> float:
        """Share of the total spent judging, 0–1."""
        return self.judging / self.total if self.total > 0 else 0.0

    @property
    def fidelity_share(self) -> float:
        """Share of the total spent measuring fidelity, 0–1."""
        return self.fidelity / self.total if self.total > 0 else 0.0


class Stopwatch:
    """Adds up seconds under names, and knows the total since it was made.

    Parts may nest: what is judged in the middle of restoring counts as judging alone.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self._inside = 0.0
        self.seconds = {"restoring": 0.0, "judging": 0.0, "fidelity": 0.0}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the seconds inside the ``with`` block towards ``part``."""
        start = time.perf_counter()
        outside, self._inside = self._inside, 0.0
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[part] += elapsed - self._inside
            self._inside = outside + elapsed

    def read(self) -> Timing:
        """The figures so far."""
        return Timing(total=time.perf_counter() - self.start, **self.seconds)
