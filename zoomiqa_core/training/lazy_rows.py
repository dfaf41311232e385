"""Rows made when they are asked for, as a ``datasets`` table: pictures stay in their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")


class _Rows(Generic[ItemT]):
    def __init__(self, items: Sequence[ItemT], make: Callable[[ItemT], dict[str, Any]]) -> None:
        self.items = items
        self.make = make

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        rows = [self.make(self.items[place]) for place in batch["place"]]
        return {name: [row[name] for row in rows] for name in rows[0]}


def lazy_dataset(
    items: Sequence[ItemT],
    make: Callable[[ItemT], dict[str, Any]],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """A ``datasets.Dataset`` whose rows are ``make(item)``.

    Args:
        items: one a row.
        make: gives all rows the same keys.
        columns: values that can be had of all rows at once, without making any.

    Raises:
        ValueError: no items.
    """
    from datasets import Dataset

    if not items:
        raise ValueError("expected one record or more, got none")
    table = Dataset.from_dict({"place": list(range(len(items))), **(columns or {})})
    return table.with_transform(_Rows(items, make))
