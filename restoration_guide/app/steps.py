"""A search in steps: each candidate as it is judged, then the outcome."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.selection import SearchInterrupted

if TYPE_CHECKING:
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.selection import Row, Selection
    from zoomiqa_core.images.sources import ImageSource


def search_in_steps(
    search: BestOfN,
    image: ImageSource,
    seed: int,
    stop: threading.Event,
    in_use: threading.Lock,
) -> Iterator[tuple[Candidate, Row] | Selection]:
    """Yield each candidate with its row as soon as it is judged, then the selection.

    The search runs in a thread of its own. Closing the iterator ends it after the candidate in
    progress.

    >>> import torch, zoomiqa_core as zi
    >>> from restoration_guide import load_restorer
    >>> search = BestOfN(load_restorer("builtin"), zi.load_scorer("proxy"), n=2)
    >>> steps = search_in_steps(
    ...     search, torch.rand(3, 48, 48), 0, threading.Event(), threading.Lock()
    ... )
    >>> [type(step).__name__ for step in steps]
    ['tuple', 'tuple', 'Selection']

    Args:
        search: restorer, judge and settings.
        image: the photo.
        seed: of the candidates.
        stop: once set, the search ends after the candidate in progress and chooses among those
            that are finished.
        in_use: held while the search runs.

    Raises:
        Exception: whatever the search raises.
    """
    events: SimpleQueue[tuple[Candidate, Row] | Selection | BaseException] = SimpleQueue()

    def judged(candidate: Candidate, row: Row) -> None:
        events.put((candidate, row))
        if stop.is_set():
            raise KeyboardInterrupt

    def work() -> None:
        try:
            with in_use:
                events.put(search(image, seed, judged=judged))
        except SearchInterrupted as interrupted:
            events.put(interrupted.selection)
        except BaseException as error:
            events.put(error)

    threading.Thread(target=work, daemon=True).start()
    finished = 0
    try:
        while finished == 0:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            finished = 0 if isinstance(event, tuple) else 1
            yield event
    finally:
        stop.set()
