"""Damage a part of an image, with a rating of every pixel as label.

A soft mask is a random field (an ellipse, rotated rectangles or smooth noise) thresholded at the
quantile that selects the wanted share of pixels, its border softened by a Gaussian.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoomiqa_core.data.damage.distortions.blur import gaussian_blur
from zoomiqa_core.data.damage.kadid import cell_rating, distort, spawn_generators

CLEAN_RATING = 4.6
"""Rating of undamaged pixels: mean opinion of invisible changes in KADID-10k (Gaussian blur of
σ .1: 4.61; motion blur of 1 px and mean shift of 0: 4.60)."""

BORDER = (0.005, 0.03)
"""Range of σ of the Gaussian that softens a mask's border, in shares of the shorter side."""


class LocalDamage(NamedTuple):
    """A locally damaged batch with its mask and ratings."""

    images: Tensor
    """(B, 3, H, W) in [0, 1]: clean outside the mask, damaged inside, mixed on its border."""
    mask: Tensor
    """(B, 1, H, W) float32 in [0, 1]: share of the damage in each pixel."""
    rating_map: Tensor
    """(B, 1, H, W) float32, 1–5: (1 − mask)·``CLEAN_RATING`` + mask·rating of the damage."""


@torch.no_grad()
def damage_locally(
    images: Tensor,
    name: str,
    level: int,
    *,
    area: tuple[float, float] = (0.1, 0.3),
    generator: torch.Generator,
) -> LocalDamage:
    """Apply a KADID distortion inside a random soft mask, a different one for each image.

    >>> generator = torch.Generator().manual_seed(0)
    >>> local = damage_locally(torch.rand(1, 3, 96, 96), "jpeg", 5, generator=generator)
    >>> [round(float(x), 2) for x in (local.mask.mean(), local.rating_map.min())]
    [0.13, 1.35]

    The rating map interpolates between two mean opinions. It is only a model of local quality:
    KADID's ratings are of whole images.

    Args:
        images: (B, 3, H, W) float RGB in [0, 1], sides of at least 16 px.
        name: Key of ``DISTORTIONS``.
        level: 1–5.
        area: Smallest and largest share of pixels inside the mask, in (0, 1).
        generator: Source of randomness, on the CPU.

    Raises:
        DistortionError: As ``distort``.
        ValueError: ``area`` is not an ascending pair inside (0, 1).
    """
    damaged = distort(images, name, level, generator=generator)
    height, width = images.shape[-2:]
    mask = soft_mask(len(images), height, width, area=area, generator=generator)
    return blend(images, damaged, mask.to(images.device), cell_rating(name, level))


def blend(images: Tensor, damaged: Tensor, mask: Tensor, rating: float) -> LocalDamage:
    """Interpolate between a batch and its damaged version by a mask.

    >>> clean, damaged = torch.ones(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    >>> blend(clean, damaged, torch.tensor([[[[0.0, 0.5]]]]), rating=2.6).rating_map.flatten()
    tensor([4.6000, 3.6000])

    Args:
        images: (B, 3, H, W) in [0, 1].
        damaged: the same, damaged everywhere.
        mask: (B, 1, H, W) in [0, 1].
        rating: of the whole damaged image, 1–5.
    """
    mixed = torch.lerp(images.detach().float(), damaged.float(), mask).clamp(0.0, 1.0)
    rating_map = CLEAN_RATING + mask * (rating - CLEAN_RATING)
    return LocalDamage(mixed.to(images.dtype), mask, rating_map)


def soft_mask(
    batch: int,
    height: int,
    width: int,
    *,
    area: tuple[float, float] = (0.1, 0.3),
    generator: torch.Generator,
) -> Tensor:
    """Random soft masks: ellipses, rotated rectangles and smooth blobs, equally likely.

    Before softening a mask has exactly ⌊share·H·W + ½⌋ pixels (at least 1), the share uniform in
    ``area``; softening changes its mean slightly where the mask touches the image's border.

    >>> masks = soft_mask(2, 64, 96, area=(0.2, 0.2), generator=torch.Generator().manual_seed(0))
    >>> masks.shape, [round(float(mask.mean()), 1) for mask in masks]
    (torch.Size([2, 1, 64, 96]), [0.2, 0.2])

    Args:
        batch: Number of masks, B.
        height: H in px.
        width: W in px.
        area: Smallest and largest share, in (0, 1).
        generator: Source of randomness, on the CPU.

    Returns:
        (B, 1, H, W) float32 in [0, 1] on the CPU.

    Raises:
        ValueError: ``area`` is not an ascending pair inside (0, 1), or a size below 1.
    """
    if min(batch, height, width) < 1:
        raise ValueError(f"batch, height and width must be at least 1, got {batch, height, width}")
    low, high = area
    if not 0.0 < low <= high < 1.0:
        raise ValueError(f"area must be (smallest, largest) share with 0 < … < 1, got {area}")
    masks = [_mask(height, width, low, high, g) for g in spawn_generators(generator, batch)]
    return torch.stack(masks)


def hard_mask(field: Tensor, share: float) -> Tensor:
    """The ``share`` of pixels where ``field`` (H, W) is highest, as 0/1 float32 (H, W).

    Exactly ⌊share·H·W + ½⌋ pixels, at least 1; ties are broken by position.

    >>> hard_mask(torch.tensor([[0.1, 0.9, 0.5, 0.2]]), 0.5)
    tensor([[0., 1., 1., 0.]])
    """
    count = max(math.floor(share * field.numel() + 0.5), 1)
    mask = torch.zeros(field.numel())
    mask[field.flatten().topk(count).indices] = 1.0
    return mask.view_as(field)


def _mask(height: int, width: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One soft mask (1, H, W)."""
    kind, share, border = torch.rand(3, generator=generator).tolist()
    field = _FIELDS[int(kind * len(_FIELDS))](height, width, generator)
    mask = hard_mask(field, low + share * (high - low))
    sigma = (BORDER[0] + border * (BORDER[1] - BORDER[0])) * min(height, width)
    return gaussian_blur(mask[None, None], max(sigma, 0.3))[0].clamp(0.0, 1.0)


def _ellipse(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Field (H, W) whose level sets are concentric ellipses of aspect 1 to 3."""
    u, v = _rotated_axes(height, width, generator)
    return -torch.hypot(u, v)


def _rectangles(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Field (H, W) whose level sets are unions of one to three rotated rectangles."""
    number = int(torch.randint(1, 4, (1,), generator=generator))
    fields = []
    for _ in range(number):
        u, v = _rotated_axes(height, width, generator)
        fields.append(-torch.maximum(u.abs(), v.abs()))
    return torch.stack(fields).amax(dim=0)


def _blobs(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Smooth noise (H, W): 3 to 6 random values a side, enlarged bicubically."""
    cells = int(torch.randint(3, 7, (1,), generator=generator))
    noise = torch.randn(1, 1, cells, cells, generator=generator)
    return F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)[0, 0]


def _rotated_axes(height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates (H, W) along and across a random direction through a random inner point.

    The shorter side measures 2 and the first axis is stretched by 1 to 3.
    """
    row, column, turn, aspect = torch.rand(4, generator=generator).tolist()
    scale = 2.0 / min(height, width)
    y = (torch.arange(height) - (0.15 + 0.7 * row) * (height - 1)) * scale
    x = (torch.arange(width) - (0.15 + 0.7 * column) * (width - 1)) * scale
    cosine, sine = math.cos(math.pi * turn), math.sin(math.pi * turn)
    along = x[None, :] * cosine + y[:, None] * sine
    across = y[:, None] * cosine - x[None, :] * sine
    return along / (1.0 + 2.0 * aspect), across


_FIELDS = (_ellipse, _rectangles, _blobs)
