"""Spatial distortions: jitter, misplaced patches, pixelation and colour blocks.

KADID's images measure 512×384 px. Patches and blocks have the same size in pixels here, and their
number scales with the image's area, so that their density, and with it people's rating, is kept.
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
    points = torch.stack((x, y), dim=-1).to(images)  # (H, W, 2)
    for _ in range(JITTER_ITERATIONS):
        steps = torch.stack([torch.randn(height, width, 2, generator=g) for g in generators])
        images = sample_bicubic(images, points + amount * steps.to(images)).clamp(0.0, 1.0)
    return images


def sample_bicubic(images: Tensor, points: Tensor) -> Tensor:
    """Sample (B, C, H, W) at ``points`` (B, h, w, 2), x and y in px, with Keys' cubic, a = −½.

    ``grid_sample`` has a = −¾, which shifts a ramp by up to 1.5× a small displacement. The kernel
    is linear in a, and a = 0 is bilinear interpolation with smoothstep weights; ⅓ of that plus ⅔ of
    ``grid_sample`` is a = −½, exact but for the mixed term of oblique displacements.

    >>> ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    >>> sample_bicubic(ramp, torch.tensor([[[[2.25, 3.0]]]])).item()
    2.25
    """
    size = torch.tensor([images.shape[3] - 1, images.shape[2] - 1]).to(points)
    whole = points.floor()
    part = points - whole
    smooth = whole + part * part * (3.0 - 2.0 * part)

    def sample(at: Tensor, mode: str) -> Tensor:
        grid = 2.0 * at / size - 1.0
        return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=True)

    return torch.lerp(sample(smooth, "bilinear"), sample(points, "bicubic"), 2.0 / 3.0)


def misplaced_patches(images: Tensor, count: int, generators: Generators) -> Tensor:
    """Copy ``count`` 16×16 patches of (B, C, H, W) to positions at most 8 px away (per 512×384).

    KADID's ``imnoneccentricity``. Departure: below 48 px a side, patches and distances are limited
    to a third of the shorter side.
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
    """Shrink (B, C, H, W) by .95 − strength^.6 and enlarge it again, both by nearest neighbour.

    >>> pixelate(torch.arange(8.0).expand(1, 1, 8, 8), 0.25)[0, 0, 0]
    tensor([1., 1., 3., 3., 5., 5., 7., 7.])
    """
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
    """``count``, given for 512×384 px, scaled to another area; at least 1.

    >>> scaled_count(40, 192, 256)
    10
    """
    return max(round(count * height * width / KADID_AREA), 1)
