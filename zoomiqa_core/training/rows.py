"""Training rows as ``datasets`` tables whose images stay in their files until a row is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

from zoomiqa_core.assessment import BBox
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.prompts import BUILTIN, Prompts

ItemT = TypeVar("ItemT")


class RatedRecord(Protocol):
    """A rated image and a question about it, e.g. a ``GRIQARecord``."""

    @property
    def question(self) -> str:
        """The question about the image."""
        ...

    @property
    def mos(self) -> float:
        """Mean opinion score, 1–5."""
        ...

    @property
    def label_source(self) -> str:
        """Where ``mos`` comes from; images are ranked only among those of one source."""
        ...

    @property
    def image_id(self) -> str:
        """Identifies the image in the whole training set."""
        ...

    @property
    def region_truth(self) -> Sequence[BBox]:
        """Damaged regions, normalised xyxy; empty if unknown or everywhere."""
        ...


RecordT = TypeVar("RecordT", bound=RatedRecord)


def lazy_dataset(
    items: Sequence[ItemT],
    make: Callable[[ItemT], dict[str, Any]],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """A ``datasets.Dataset`` whose rows are ``make(item)``, computed when they are read.

    >>> rows = lazy_dataset([2, 3], lambda n: {"square": n * n}, columns={"n": [2, 3]})
    >>> rows[1], list(rows.with_format(None)["n"])
    ({'square': 9}, [2, 3])

    Args:
        items: one a row.
        make: returns a dictionary with the same keys for every item.
        columns: values that can be read for all rows without calling ``make``.

    Raises:
        ValueError: no items.
    """
    from datasets import Dataset

    if not items:
        raise ValueError("expected at least one record, got none")
    table = Dataset.from_dict({"index": list(range(len(items))), **(columns or {})})
    return table.with_transform(_Rows(items, make))


class _Rows(Generic[ItemT]):
    """The transform of :func:`lazy_dataset`; a class, so that it can be pickled for workers."""

    def __init__(self, items: Sequence[ItemT], make: Callable[[ItemT], dict[str, Any]]) -> None:
        self.items = items
        self.make = make

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        rows = [self.make(self.items[index]) for index in batch["index"]]
        return {name: [row[name] for row in rows] for name in rows[0]}


def rollout_dataset(
    records: Sequence[RecordT],
    picture: Callable[[RecordT], Image.Image],
    prompts: Prompts = BUILTIN,
) -> Any:
    """Rows for ``ZoomGRPOTrainer``: the first prompt, its picture, and the rewards' columns.

    Images keep their size: the processor scales them, as it does for the judge, and a crop is cut
    from the original.

    Args:
        records: one an image.
        picture: reads the image of a record, RGB, when its row is read.
        prompts: texts of the judge.

    Raises:
        ValueError: no records.
    """

    def row(record: RecordT) -> dict[str, Any]:
        image = picture(record)
        request = Chain(image, prompts, record.question).request
        return {
            "prompt": request.messages if request else [],
            "picture": image,
            "question": record.question,
            "mos": float(record.mos),
            "label_source": record.label_source,
            "image_id": record.image_id,
            "region_truth": list(record.region_truth),
        }

    return lazy_dataset(records, row, {"mos": [float(record.mos) for record in records]})
