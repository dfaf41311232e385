"""This process in a launch of ``accelerate launch`` or torchrun, or alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

REPEAT_S = 2.0
"""Seconds within which a second Ctrl-C counts as the first one, forwarded by the launcher."""


class Process(NamedTuple):
    """Index of this process in its launch, and what it shares with the others.

    >>> Process(index=1, count=2).share(["a.png", "b.png", "c.png", "d.png"])
    ['b.png', 'd.png']
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when every process of the launch has called it."""

    @property
    def is_main(self) -> bool:
        """Whether this process reports for all."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every ``count``-th item; the items must be the same list in every process."""
        return list(items[self.index :: self.count])


@contextmanager
def launched_process(device: str = "cpu") -> Iterator[Process]:
    """Join the launch that ``accelerate launch`` or torchrun started; without them, one process.

    Args:
        device: where models will run; ``"cuda"`` becomes each process's own GPU.
    """
    from accelerate import PartialState

    # Processes may finish hours apart, and a timeout would end the launch.
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
    try:
        yield Process(state.process_index, state.num_processes, state.wait_for_everyone)
    finally:
        state.destroy_process_group()


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C or SIGTERM, and ignore their repetition.

    Schedulers end a job with SIGTERM, and on Ctrl-C, which every process gets, launchers send one
    more signal to each, which would interrupt the writing of finished work. A second Ctrl-C after
    :data:`REPEAT_S` seconds raises again.
    """
    first: float | None = None

    def interrupt(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None or (number == signal.SIGINT and now - first > REPEAT_S):
            first = now if first is None else first
            raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
