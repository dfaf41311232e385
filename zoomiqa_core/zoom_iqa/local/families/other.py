"""A class of image-text-to-text models without a family here, through its processor alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoomiqa_core.zoom_iqa.local.families.base import Family

_log = logging.getLogger(__name__)


class Other(Family):
    """Any decoder of transformers that continues images and text.

    Every prompt is encoded with its pixels, by itself; the chains of a prompt share it. Not
    possible: to encode an image once for several prompts, to read the expected rating of a written
    answer, a pixel budget, and GRPO.

    Raises:
        ValueError: an encoder-decoder, or a pixel budget.
    """

    vision_modules = ("vision_tower", "vision_model", "visual")
    encodes_once = False

    def __init__(self, model: Any, processor: Any, max_pixels: int | None = None) -> None:
        kind = model.config.model_type
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"{kind} is an encoder-decoder, whose replies cannot be continued here; serve it "
                'and load it by its address: load_scorer("http://…/v1", model=…)'
            )
        super().__init__(model, processor, max_pixels)
        _log.warning(
            "%s has no family in zoom_iqa/local/families: images are encoded again for every "
            "prompt, ratings are read as written, and GRPO is not possible",
            kind,
        )

    @classmethod
    def pixel_options(cls, processor: Any, max_pixels: int | None) -> dict[str, Any]:
        """None: how this processor limits images is not known."""
        if max_pixels is not None:
            raise ValueError(
                f"how {type(processor).__name__} limits images is not known here: leave max_pixels "
                "out and set the limit in the processor"
            )
        return {}

    @classmethod
    def max_pixels_of(cls, processor: Any, options: Mapping[str, Any]) -> int | None:
        """Not known."""
        return None

    @property
    def _has_axes(self) -> bool:
        """Whether positions have axes for time, height and width, as in Qwen's models."""
        return hasattr(self.model.model, "get_rope_index")

    def first_position(self, length: int) -> int:
        """Position of the token after a prompt that the model has just processed."""
        deltas = getattr(self.model.model, "rope_deltas", None) if self._has_axes else None
        return length + (0 if deltas is None else int(deltas.flatten()[0]))

    def next_positions(self, start: Tensor, count: int) -> Tensor:
        """Positions of ``count`` text tokens from ``start`` (B,), as the model takes them."""
        positions = super().next_positions(start, count)
        return positions.expand(3, -1, -1) if self._has_axes else positions
