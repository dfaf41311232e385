"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): tiles with their rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.zoom_iqa.local.families.base import Family, ImageInputs


class Idefics3(Family):
    """Idefics3 and SmolVLM; every tile is announced by a token with its row and column."""

    model_types = ("idefics3", "smolvlm")
    vision_modules = ("vision_model",)
    language_module = "text_model"
    control_tokens = (
        "image_token_id",
        "fake_image_token_id",
        "global_image_token_id",
        "row_col_ids",
    )

    @classmethod
    def pixel_options(cls, processor: Any, max_pixels: int | None) -> dict[str, Any]:
        """Longest side, a multiple of a tile's."""
        if max_pixels is None:
            return {}
        tile = processor.image_processor.max_image_size["longest_edge"]
        if max_pixels < tile**2:
            raise ValueError(
                f"max_pixels must be at least {tile**2}, the pixels of a tile, got {max_pixels}"
            )
        longest = processor.image_processor.size["longest_edge"]
        return {"size": {"longest_edge": min(longest, isqrt(max_pixels) // tile * tile)}}

    @classmethod
    def max_pixels_of(cls, processor: Any, options: Mapping[str, Any]) -> int:
        """Pixels of a square image of the longest side."""
        return options.get("size", processor.image_processor.size)["longest_edge"] ** 2

    def prepare(self, image: Image.Image, count: int = 1) -> ImageInputs:
        """Cut an image into tiles and write a token before each."""
        inputs = self.processor.image_processor(
            [[image]], return_tensors="pt", return_row_col_info=True, **self.image_options
        )
        tensors = {name: inputs[name] for name in ("pixel_values", "pixel_attention_mask")}
        return ImageInputs(self.processor.replace_image_token(inputs, 0), tensors)

    def pixel_arguments(self, rows: Sequence[Sequence[ImageInputs]]) -> dict[str, Tensor]:
        """The tiles of each row's images; missing ones are black, which the model leaves out."""
        found = {}
        for name in ("pixel_values", "pixel_attention_mask"):
            tiles = [torch.cat([i.tensors[name][0] for i in row]) for row in rows]
            found[name] = torch.nn.utils.rnn.pad_sequence(tiles, batch_first=True)
        return found
