"""Batches that shrink when device memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

OUT_OF_MEMORY = "memory ran out with this image alone; use fewer pixels (max_pixels) or tokens"


def halve_when_full(
    work: Callable[[Sequence[ItemT]], list[ResultT]], items: Sequence[ItemT]
) -> list[ResultT | None]:
    """Results of the items in order; when memory runs out, the batch is halved.

    Args:
        work: gives one result per item, independent of the rest of its batch.
        items: all of them.

    Returns:
        One result per item, None for an item that does not fit alone.

    >>> halve_when_full(lambda part: [item * 2 for item in part], [1, 2, 3])
    [2, 4, 6]
    """
    if not items:
        return []
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
    return halve_when_full(work, items[:middle]) + halve_when_full(work, items[middle:])
