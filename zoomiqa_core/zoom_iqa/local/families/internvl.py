"""InternVL (arXiv 2404.16821): an image as square tiles and a thumbnail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoomiqa_core.zoom_iqa.local.families.base import Family


class InternVL(Family):
    """InternVL in transformers' own form (``…-hf``)."""

    model_types = ("internvl",)
    control_tokens = ("image_token_id", "start_image_token_id", "end_image_token_id")

    @classmethod
    def pixel_options(cls, processor: Any, max_pixels: int | None) -> dict[str, Any]:
        """Most tiles of an image."""
        if max_pixels is None:
            return {}
        tile = _tile(processor)
        if max_pixels < tile:
            raise ValueError(
                f"max_pixels must be at least {tile}, the pixels of a tile, got {max_pixels}"
            )
        return {"max_patches": min(max_pixels // tile, processor.image_processor.max_patches)}

    @classmethod
    def max_pixels_of(cls, processor: Any, options: Mapping[str, Any]) -> int:
        """Pixels of all tiles, without the thumbnail."""
        return options.get("max_patches", processor.image_processor.max_patches) * _tile(processor)


def _tile(processor: Any) -> int:
    """Pixels of a tile."""
    size = processor.image_processor.size
    return int(size["height"]) * int(size["width"])
