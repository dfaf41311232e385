"""LLaVA-OneVision (arXiv 2408.03326): an image alone in tiles, several images whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.zoom_iqa.local.families.base import Family, ImageInputs


class LlavaOneVision(Family):
    """LLaVA-OneVision; beside another image, an image is not cut into tiles."""

    model_types = ("llava_onevision",)
    features_are_listed = True
    depends_on_count = True

    @classmethod
    def max_pixels_of(cls, processor: Any, options: Mapping[str, Any]) -> int:
        """Pixels of the largest grid of tiles."""
        return max(
            int(height) * int(width)
            for height, width in processor.image_processor.image_grid_pinpoints
        )

    def prepare(self, image: Image.Image, count: int = 1) -> ImageInputs:
        """Resize and normalise an image of a request with ``count`` images; expand its token."""
        together = [image] * min(count, 2)
        inputs = self.processor.image_processor([together], return_tensors="pt")
        text = self.processor.replace_image_token(inputs, 0)
        tensors = {name: inputs[name][:1] for name in ("pixel_values", "image_sizes")}
        return ImageInputs(text, {**tensors, "batch_num_images": torch.tensor([len(together)])})

    def pixel_arguments(self, rows: Sequence[Sequence[ImageInputs]]) -> dict[str, Tensor]:
        """The images of each row; padded to equal numbers of tiles."""
        images = [image.tensors for row in rows for image in row]
        tiles = max(image["pixel_values"].shape[1] for image in images)
        padded = [
            functional.pad(pixels, (0, 0) * 3 + (0, tiles - pixels.shape[1]))
            for pixels in (image["pixel_values"] for image in images)
        ]
        return {
            "pixel_values": torch.cat(padded),
            "image_sizes": torch.cat([image["image_sizes"] for image in images]),
            "batch_num_images": torch.tensor([len(row) for row in rows]),
        }
