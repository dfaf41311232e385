"""Batches that shrink when device memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

OUT_OF_MEMORY = "memory ran out with this image alone; use fewer pixels (max_pixels) or tokens"


def halve_when_full(
    work: Callable[[Sequence[ItemT]], list[ResultT]],
    items: Sequence[ItemT],
    fitting: dict[int, int] | None = None,
    weight: Callable[[ItemT], int] = lambda item: 1,
) -> list[ResultT | None]:
    """Results of the items in order; when memory runs out, the batch is halved.

    Args:
        work: gives one result per item, independent of the rest of its batch.
        items: all of them.
        fitting: magnitude of the heaviest item → batch size that fitted after a larger one did
            not; kept by the caller, so that the larger one is not tried again.
        weight: of an item, in pixels for example; its power of two is the magnitude.

    Returns:
        One result per item, None for an item that does not fit alone.

    >>> halve_when_full(lambda part: [item * 2 for item in part], [1, 2, 3])
    [2, 4, 6]
    """
    if not items:
        return []
    fitting = {} if fitting is None else fitting
    magnitude = max(weight(item) for item in items).bit_length()
    size = fitting.get(magnitude, len(items))
    if size < len(items):
        parts = [items[first : first + size] for first in range(0, len(items), size)]
        return [result for part in parts for result in halve_when_full(work, part, fitting, weight)]
    try:
        return [*work(items)]
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
    # Outside the handler: the error's traceback keeps tensors alive.
    clear_device_cache(garbage_collection=True)
    if len(items) == 1:
        return [None]
    middle = len(items) // 2
    halves = [
        result
        for half in (items[:middle], items[middle:])
        for result in halve_when_full(work, half, fitting, weight)
    ]
    if None not in halves:  # an item that fits nowhere says nothing of the others' batches
        fitting[magnitude] = min(middle, fitting.get(magnitude, middle))
    return halves
