"""What GRPO's roll-outs are about: rated images, as rows for the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from zoomiqa_core.assessment import BBox
from zoomiqa_core.chain import Chain
from zoomiqa_core.images import ImageSource, read_image, to_pil
from zoomiqa_core.prompts import BUILTIN, Prompts
from zoomiqa_core.training.lazy_rows import lazy_dataset


class RatedRecord(Protocol):
    """A rated image and a question about it; ``zoomiqa_core.data.gr_iqa.GRIQARecord`` is one."""

    @property
    def image(self) -> ImageSource:
        """The image, or where it is."""
        ...

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
    def region_truth(self) -> BBox | None:
        """Where its damage is, normalised xyxy, if that is known."""
        ...


def rollout_dataset(records: Sequence[RatedRecord], prompts: Prompts = BUILTIN) -> Any:
    """Rows for ``ZoomGRPOTrainer``: the first prompt with its image, and what the rewards need.

    Images keep their own size: the processor scales them, as it does for the judge, and the crop is
    cut from the original.

    Raises:
        ValueError: no records.
    """

    def row(record: RatedRecord) -> dict[str, Any]:
        picture = to_pil(read_image(record.image).pixels)
        request = Chain(picture, prompts, record.question).request
        return {
            "prompt": request.messages if request else [],
            "images": [picture],
            "question": record.question,
            "mos": float(record.mos),
            "image_id": str(record.image_id),
            "region_truth": record.region_truth,
        }

    return lazy_dataset(records, row, {"mos": [float(record.mos) for record in records]})
