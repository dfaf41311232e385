"""What GRPO's roll-outs are about: rated images, as rows for the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from PIL import Image

from zoomiqa_core.assessment import BBox
from zoomiqa_core.training.lazy_rows import lazy_dataset
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.prompts import BUILTIN, Prompts


class RatedRecord(Protocol):
    """A rated image and a question about it; ``GRIQARecord`` is one."""

    @property
    def question(self) -> str:
        """What is asked about it."""
        ...

    @property
    def mos(self) -> float:
        """Mean opinion score, 1–5."""
        ...

    @property
    def image_id(self) -> str:
        """Names the image, and no other, in the whole training."""
        ...

    @property
    def region_truth(self) -> Sequence[BBox]:
        """Where its damage is, normalised xyxy; empty when unknown or everywhere."""
        ...


RecordT = TypeVar("RecordT", bound=RatedRecord)


def rollout_dataset(
    records: Sequence[RecordT],
    picture: Callable[[RecordT], Image.Image],
    prompts: Prompts = BUILTIN,
) -> Any:
    """Rows for ``ZoomGRPOTrainer``: the first prompt with its image, and what the rewards need.

    Images keep their own size: the processor scales them, as it does for the judge, and the crop is
    cut from the original.

    Args:
        records: one an image.
        picture: reads the image of a record, RGB, when its row is asked for.
        prompts: the texts.

    Raises:
        ValueError: no records.
    """

    def row(record: RecordT) -> dict[str, Any]:
        image = picture(record)
        request = Chain(image, prompts, record.question).request
        return {
            "prompt": request.messages if request else [],
            "images": [image],
            "question": record.question,
            "mos": float(record.mos),
            "image_id": str(record.image_id),
            "region_truth": list(record.region_truth),
        }

    return lazy_dataset(records, row, {"mos": [float(record.mos) for record in records]})
