"""One process among those of a launch: ``accelerate launch``, torchrun, or a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

REPEAT_S = 2.0
"""Seconds within which a second Ctrl-C is the launcher's echo of the first."""


class Process(NamedTuple):
    """This process among those of the launch."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when every process of the launch has called it."""

    @property
    def is_main(self) -> bool:
        """Whether this process reports for all."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """What this process does of the items, which must be the same list in every process."""
        return list(items[self.index :: self.count])


@contextmanager
def launched_process(device: str = "cpu") -> Iterator[Process]:
    """This process as ``accelerate launch`` (or torchrun) started it; alone without them.

    Args:
        device: where models will run; ``"cuda"`` becomes each process's own GPU.
    """
    from accelerate import PartialState

    # Shares may end far apart, and a wait that runs out of time would lose the launch.
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
    try:
        yield Process(state.process_index, state.num_processes, state.wait_for_everyone)
    finally:
        state.destroy_process_group()


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM raise KeyboardInterrupt, and no other soon after it.

    Schedulers end a job with SIGTERM, and launchers answer Ctrl-C, which every process gets, with
    one more signal to each: without this it would hit while finished work is being written down. A
    second Ctrl-C after :data:`REPEAT_S` seconds ends that too.
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
