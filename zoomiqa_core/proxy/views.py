"""Random crops of a batch at random scales, against which single pixels are hard to overfit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.proxy.preprocess import MIN_PADDED_SIDE, check_batch


@dataclass(frozen=True)
class ViewConfig:
    """Ranges from which views are drawn.

    >>> ViewConfig(crop=(0.5, 1.2))
    Traceback (most recent call last):
    ValueError: crop is (low, high), 0 < low ≤ high ≤ 1.0; got (0.5, 1.2)
    """

    count: int = 2
    """Views per batch; 0 returns the images themselves."""
    crop: tuple[float, float] = (0.7, 1.0)
    """Fraction of each side that a view covers."""
    scale: tuple[float, float] = (0.75, 1.25)
    """Factor by which both sides are then resized."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is a number of views, ≥ 0; got {self.count}")
        for name, low, high, most in (("crop", *self.crop, 1.0), ("scale", *self.scale, 4.0)):
            if not 0.0 < low <= high <= most:
                raise ValueError(f"{name} is (low, high), 0 < low ≤ high ≤ {most}; got {low, high}")


def random_views(images: Tensor, config: ViewConfig, generator: torch.Generator) -> list[Tensor]:
    """Crop, resize and mirror a batch at random; differentiable.

    Args:
        images: (B, 3, H, W) in [0, 1].
        config: ranges.
        generator: a CPU generator.

    Returns:
        ``count`` batches (B, 3, h, w) in [0, 1], or the images alone when ``count`` is 0. All
        images of a view share its crop, so a batch stays a batch.

    Raises:
        TypeError, ValueError: no such batch (see :func:`~.preprocess.check_batch`).

    >>> images = torch.rand(2, 3, 96, 128)
    >>> views = random_views(images, ViewConfig(count=3), torch.Generator().manual_seed(0))
    >>> len(views), tuple(views[0].shape[:2])
    (3, (2, 3))
    """
    check_batch(images, check_range=False)
    if config.count == 0:
        return [images]
    return [_view(images, config, generator) for _ in range(config.count)]


def _view(images: Tensor, config: ViewConfig, generator: torch.Generator) -> Tensor:
    fraction, factor, down, right, mirror = torch.rand(5, generator=generator).tolist()
    fraction = config.crop[0] + (config.crop[1] - config.crop[0]) * fraction
    factor = config.scale[0] + (config.scale[1] - config.scale[0]) * factor
    sides = images.shape[-2:]
    height, width = (_at_least(fraction * side, side) for side in sides)
    top, left = round(down * (sides[0] - height)), round(right * (sides[1] - width))
    view = images[..., top : top + height, left : left + width]
    size = tuple(_at_least(factor * side, side) for side in (height, width))
    if size != (height, width):
        view = functional.interpolate(
            view, size=size, mode="bilinear", antialias=True, align_corners=False
        )
    return view.flip(-1) if mirror < 0.5 else view


def _at_least(side: float, before: int) -> int:
    """The side in whole pixels, not below what the judge would pad unless it was before."""
    return max(round(side), min(before, MIN_PADDED_SIDE))
