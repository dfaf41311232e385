"""From the input's pixel grid to the one a pipeline works on, and back; large images in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 4
"""Neighbouring tiles share this part of their side: a quarter."""
ASPECT_TOLERANCE = 0.05
"""Output whose aspect ratio is off by more than this is not the same picture: it is not resized,
and the search sees the wrong size."""


@dataclass(frozen=True)
class Grid:
    """The grid of a pipeline.

    The image is padded on the right and below, by reflection (by repetition where it is smaller
    than its padding), and then reduced by the pipeline's scale, so that what comes out lies on the
    padded image's grid.
    """

    multiple: int
    """Sides of the pipeline's input are multiples of this many pixels."""
    scale: int = 1
    """Output pixels per input pixel."""

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) after padding, before the reduction."""
        unit = self.multiple * self.scale
        height, width = size
        return height + -height % unit, width + -width % unit

    def fit(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] on the input's grid → on the pipeline's; differentiable."""
        height, width = image.shape[-2:]
        full = self.padded_size((height, width))
        right, below = full[1] - width, full[0] - height
        image = F.pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
        image = F.pad(image, (0, 0, 0, below), mode="reflect" if below < height else "replicate")
        if self.scale > 1:
            image = _resized(image, (full[0] // self.scale, full[1] // self.scale))
        return image

    def back(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, h, w) as the pipeline gives it → (B, 3, *size); differentiable.

        Other sizes than asked for are resized when the aspect ratio is the same, and otherwise
        returned as they are.
        """
        full, came = self.padded_size(size), (images.shape[-2], images.shape[-1])
        if not _same_shape(came, full):
            return images
        images = images if came == full else _resized(images, full)
        return images[..., : size[0], : size[1]]

    def notes(self, size: tuple[int, int], output: tuple[int, int]) -> tuple[str, ...]:
        """What `fit` and `back` did to a picture of `size` of which `output` came."""
        full = self.padded_size(size)
        said = []
        if full != size:
            said.append(f"padded to {full[1]}×{full[0]} and cropped back")
        if self.scale > 1:
            said.append(f"reduced {self.scale} times, as the pipeline enlarges")
        if output != full and _same_shape(output, full):
            said.append(f"came as {output[1]}×{output[0]}, resized to {full[1]}×{full[0]}")
        return tuple(said)


def tile_corners(size: tuple[int, int], tile: int) -> Iterator[tuple[int, int]]:
    """Upper left corners of square tiles that cover (H, W) and overlap by a quarter or more."""
    for top in _starts(size[0], tile):
        for left in _starts(size[1], tile):
            yield top, left


def tile_weight(height: int, width: int) -> Tensor:
    """(H, W) weights of a tile: 1 inside, falling linearly towards its border, never 0."""
    return torch.outer(_ramp(height), _ramp(width))


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [0]
    stride = tile - tile // OVERLAP
    count = -(-(length - tile) // stride) + 1
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def _ramp(length: int) -> Tensor:
    width = max(1, length // OVERLAP)
    distance = torch.minimum(torch.arange(1, length + 1), torch.arange(length, 0, -1))
    return (distance / width).clamp(max=1.0)


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= ASPECT_TOLERANCE


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 1)
