"""Qwen2.5-VL and Qwen3-VL: images of any size, and positions in time, height and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoomiqa_core.zoom_iqa.local.families.base import Family, ImageInputs, VisualFeatures


class QwenVL(Family):
    """Qwen2.5-VL and Qwen3-VL; the features of Qwen3-VL also enter its first layers."""

    model_types = ("qwen2_5_vl", "qwen3_vl")
    vision_modules = ("visual",)
    control_tokens = (
        "image_token_id",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    )
    max_aspect = 200
    features_are_listed = True

    @classmethod
    def pixel_options(cls, processor: Any, max_pixels: int | None) -> dict[str, Any]:
        """Minimum and maximum number of pixels, under the processor's names for them."""
        size = processor.image_processor.size
        smallest, largest = size["shortest_edge"], size["longest_edge"]
        if max_pixels is not None and max_pixels < smallest:
            raise ValueError(f"max_pixels must be at least {smallest}, got {max_pixels}")
        return {"size": {"shortest_edge": smallest, "longest_edge": max_pixels or largest}}

    @classmethod
    def max_pixels_of(cls, processor: Any, options: Mapping[str, Any]) -> int:
        """How many pixels of an image the model sees, at most."""
        return options["size"]["longest_edge"]

    def tensors(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Patches, and their number in time, height and width."""
        return {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}

    def encode(self, images: Sequence[ImageInputs]) -> list[VisualFeatures]:
        """Visual features of each image; the patches of all are one sequence."""
        tensors = self.on_device(self.pixel_arguments([images]))
        out = self.model.model.get_image_features(**tensors, return_dict=True)
        deep = getattr(out, "deepstack_features", None) or []
        return [
            VisualFeatures(tokens, tuple(layer[index] for layer in deep))
            for index, tokens in enumerate(out.pooler_output)
        ]

    def encoder_output(self, features: Sequence[VisualFeatures]) -> Any:
        """The features in the form in which the model's own vision tower returns them."""
        out = super().encoder_output(features)
        if features and features[0].deep:
            layers = zip(*(f.deep for f in features), strict=True)
            out.deepstack_features = [tuple(layer) for layer in layers]
        return out

    def position_ids(self, ids: Tensor, mask: Tensor, images: Sequence[ImageInputs]) -> Tensor:
        """(3, B, L) positions in time, height and width, which follow the images' grids."""
        grids = [image.tensors["image_grid_thw"] for image in images]
        return self.model.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == self.image_token_id).long(),
            image_grid_thw=torch.cat(grids).to(ids.device),
            attention_mask=mask,
        )[0]

    def next_positions(self, start: Tensor, count: int) -> Tensor:
        """Text has the same position on all three axes."""
        return super().next_positions(start, count).expand(3, -1, -1)

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """1 on image tokens."""
        return {"mm_token_type_ids": (ids == self.image_token_id).long()}
