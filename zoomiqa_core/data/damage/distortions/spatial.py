"""Distortions of place: jitter, misplaced patches, pixelation and colour blocks.

KADID's images measure 512×384 px. Patches and blocks keep their size in pixels, and their number
is scaled with the image's area so that a cell's density, and with it its human rating, is kept.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoomiqa_core.data.damage.distortions.codec import KADID_SIZE

Generators = Sequence[torch.Generator]

KADID_AREA = KADID_SIZE[0] * KADID_SIZE[1]
JITTER_ITERATIONS = 5
PATCH_SIDE, PATCH_RADIUS = 16, 16
BLOCK_SIDE = 32


def jitter(images: Tensor, amount: float, generators: Generators) -> Tensor:
    """Displace every pixel of (B, C, H, W) by Gaussian noise of ``amount`` px, five times over.

    KADID's ``imjitter``: each pass resamples bicubically at independent offsets, borders
    replicated.
    """
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((x, y), dim=-1).to(images)  # (H, W, 2)
    for _ in range(JITTER_ITERATIONS):
        steps = torch.stack([torch.randn(height, width, 2, generator=g) for g in generators])
        images = sample_bicubic(images, places + amount * steps.to(images)).clamp(0.0, 1.0)
    return images


def sample_bicubic(images: Tensor, places: Tensor) -> Tensor:
    """Read (B, C, H, W) at ``places`` (B, h, w, 2), x and y in px, with Keys' cubic, a = −½.

    ``grid_sample`` has a = −¾, which moves a ramp by up to 1.5× a small displacement. The kernel is
    linear in a, and at a = 0 it is bilinear reading with smoothstep weights, hence ⅓ of that and ⅔
    of ``grid_sample``: exact along each axis, off only in the mixed term of oblique displacements.
    """
    size = torch.tensor([images.shape[3] - 1, images.shape[2] - 1]).to(places)
    whole = places.floor()
    part = places - whole
    smooth = whole + part * part * (3.0 - 2.0 * part)

    def read(at: Tensor, mode: str) -> Tensor:
        grid = 2.0 * at / size - 1.0
        return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=True)

    return torch.lerp(read(smooth, "bilinear"), read(places, "bicubic"), 2.0 / 3.0)


def misplaced_patches(images: Tensor, count: int, generators: Generators) -> Tensor:
    """Copy ``count`` 16×16 patches of (B, C, H, W) onto places at most 8 px away (per 512×384).

    KADID's ``imnoneccentricity``. Departure: images under 48 px a side have smaller patches and
    reaches, a third of the shorter side.
    """
    height, width = images.shape[-2:]
    side = min(PATCH_SIDE, min(height, width) // 3)
    reach = min(PATCH_RADIUS, side)
    spans = torch.tensor([height - side - 2 * reach, width - side - 2 * reach])
    images = images.clone()
    for image, generator in zip(images, generators, strict=True):
        draws = torch.rand(scaled_count(count, height, width), 4, generator=generator)
        sources = (draws[:, :2] * spans).round().long() + reach
        targets = sources + ((draws[:, 2:] - 0.5) * reach).round().long()
        for (top, left), (to_top, to_left) in zip(sources.tolist(), targets.tolist(), strict=True):
            patch = image[:, top : top + side, left : left + side].clone()
            image[:, to_top : to_top + side, to_left : to_left + side] = patch
    return images


def pixelate(images: Tensor, strength: float) -> Tensor:
    """Shrink (B, C, H, W) by .95 − strength^.6 and enlarge it again, both by nearest neighbour."""
    scale = 0.95 - strength**0.6
    height, width = images.shape[-2:]
    small = max(round(height * scale), 1), max(round(width * scale), 1)
    shrunk = F.interpolate(images, size=small, mode="nearest-exact")
    return F.interpolate(shrunk, size=(height, width), mode="nearest-exact")


def colour_blocks(images: Tensor, count: int, generators: Generators) -> Tensor:
    """Cover (B, C, H, W) with ``count`` 32×32 squares of random colour (per 512×384).

    Departure: a square is at most half of the shorter side.
    """
    height, width = images.shape[-2:]
    side = min(BLOCK_SIDE, min(height, width) // 2)
    spans = torch.tensor([height - side, width - side])
    images = images.clone()
    for image, generator in zip(images, generators, strict=True):
        number = scaled_count(count, height, width)
        corners = (torch.rand(number, 2, generator=generator) * spans).long().tolist()
        colours = torch.rand(number, 3, 1, 1, generator=generator).to(images)
        for (top, left), colour in zip(corners, colours, strict=True):
            image[:, top : top + side, left : left + side] = colour
    return images


def scaled_count(count: int, height: int, width: int) -> int:
    """``count`` per 512×384 px at this size, at least 1."""
    return max(round(count * height * width / KADID_AREA), 1)
