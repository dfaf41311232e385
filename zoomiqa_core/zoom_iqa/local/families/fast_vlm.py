"""FastVLM (arXiv 2412.13303): a convolutional vision tower of timm and a Qwen2 decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from zoomiqa_core.zoom_iqa.local.families.base import Family, ImageInputs, VisualFeatures


class FastVLM(Family):
    """FastVLM; the cells of the tower's feature map are the image's tokens."""

    model_types = ("fast_vlm",)

    def encode(self, images: Sequence[ImageInputs]) -> list[VisualFeatures]:
        """Visual features of each image; neighbours of one size are one batch."""
        found = []
        for _, same in groupby(images, key=lambda image: image.tensors["pixel_values"].shape):
            pixels = torch.cat([image.tensors["pixel_values"] for image in same])
            out = self.model.model.get_image_features(
                **self.on_device({"pixel_values": pixels}), return_dict=True
            )
            found += [VisualFeatures(tokens) for tokens in out.pooler_output]
        return found
