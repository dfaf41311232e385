"""From the input's pixel grid to the one a model works on, and back; large images in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """The grid of a pipeline or network.

    The image is padded on the right and below, by reflection (by repetition where it is smaller
    than its padding), and then reduced by the pipeline's scale, so that what comes out lies on the
    padded image's grid.
    """

    multiple: int
    """Sides of the model's input are multiples of this many pixels."""
    scale: int = 1
    """Output pixels per input pixel."""

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) after padding, before the reduction."""
        unit = self.multiple * self.scale
        height, width = size
        return height + -height % unit, width + -width % unit

    def fit(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] on the input's grid → on the model's; differentiable."""
        height, width = image.shape[-2:]
        full = self.padded_size((height, width))
        right, below = full[1] - width, full[0] - height
        image = F.pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
        image = F.pad(image, (0, 0, 0, below), mode="reflect" if below < height else "replicate")
        if self.scale > 1:
            image = _resized(image, (full[0] // self.scale, full[1] // self.scale))
        return image

    def back(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, h, w) as the model gives it → (B, 3, *size); differentiable.

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


def restore_in_tiles(
    image: Tensor, tile: int | None, restore: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int]:
    """Restore a large image tile by tile, without seams.

    Tiles overlap by a quarter or more. The eighth of a tile next to its border, where a network
    sees no surroundings, is dropped wherever a neighbour has these pixels; the tiles are blended
    linearly between there and the quarter.

    Args:
        image: (1, C, h, w).
        tile: side of a tile in px of ``image``; None restores it whole.
        restore: (1, C, h, w) → (1, C, h·k, w·k) for a whole k.

    Returns:
        (1, C, h·k, w·k), and the number of tiles.

    >>> image = torch.rand(1, 3, 40, 56)
    >>> double = torch.nn.Upsample(scale_factor=2)
    >>> doubled, count = restore_in_tiles(image, 32, double)
    >>> tuple(doubled.shape), count
    ((1, 3, 80, 112), 4)
    """
    height, width = image.shape[-2:]
    if tile is None or max(height, width) <= tile:
        return restore(image), 1
    rows, columns = min(tile, height), min(tile, width)
    total, weights, count = torch.empty(0), torch.empty(0), 0
    for top, left in tile_corners((height, width), tile):
        part = restore(image[..., top : top + rows, left : left + columns])
        scale = part.shape[-1] // columns
        if count == 0:
            total = part.new_zeros(*part.shape[:-2], height * scale, width * scale)
            weights = part.new_zeros(height * scale, width * scale)
            weight = torch.outer(*(_inner_ramp(side * scale) for side in (rows, columns)))
        y, x = top * scale, left * scale
        total[..., y : y + part.shape[-2], x : x + part.shape[-1]] += weight * part
        weights[y : y + part.shape[-2], x : x + part.shape[-1]] += weight
        count += 1
    return total / weights, count


def _inner_ramp(length: int) -> Tensor:
    """Weights along a side: almost 0 in the outer eighth, then linear, 1 from the quarter."""
    distance = torch.minimum(torch.arange(1, length + 1), torch.arange(length, 0, -1))
    width = max(1, length // (2 * OVERLAP))
    return ((distance - width) / width).clamp(1e-6, 1.0)


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
