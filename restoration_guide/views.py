"""Random views of a batch: what a judge is shown instead of the pixels an optimiser would fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MIN_VIEW_SIDE = 64
"""Pixels. The judge pads smaller images, so views of larger ones do not fall below it."""


@dataclass(frozen=True)
class ViewConfig:
    """How a view is drawn."""

    count: int = 2
    """Views a batch; 0 shows the images themselves."""
    crop: tuple[float, float] = (0.7, 1.0)
    """Share of each side that a view shows."""
    scale: tuple[float, float] = (0.75, 1.25)
    """Factor by which both sides are then resized."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is a number of views, ≥ 0; got {self.count}")
        for name, low, high, most in (("crop", *self.crop, 1.0), ("scale", *self.scale, 4.0)):
            if not 0.0 < low <= high <= most:
                raise ValueError(f"{name} is (low, high), 0 < low ≤ high ≤ {most}; got {low, high}")


def random_views(images: Tensor, config: ViewConfig, generator: torch.Generator) -> list[Tensor]:
    """Crop, resize and mirror a batch at random, each view in its own way; differentiable.

    Args:
        images: (B, 3, H, W) in [0, 1].
        config: ranges.
        generator: a CPU generator.

    Returns:
        ``count`` batches (B, 3, h, w) in [0, 1], or the images alone when ``count`` is 0. All
        images of a view share its crop, so a batch stays a batch.
    """
    if config.count == 0:
        return [images]
    return [_view(images, config, generator) for _ in range(config.count)]


def _view(images: Tensor, config: ViewConfig, generator: torch.Generator) -> Tensor:
    share, factor, down, right, mirror = torch.rand(5, generator=generator).tolist()
    share = config.crop[0] + (config.crop[1] - config.crop[0]) * share
    factor = config.scale[0] + (config.scale[1] - config.scale[0]) * factor
    sides = images.shape[-2:]
    height, width = (_at_least(share * side, side) for side in sides)
    top, left = round(down * (sides[0] - height)), round(right * (sides[1] - width))
    view = images[..., top : top + height, left : left + width]
    size = tuple(_at_least(factor * side, side) for side in (height, width))
    if size != (height, width):
        view = functional.interpolate(
            view, size=size, mode="bilinear", antialias=True, align_corners=False
        )
    return view.flip(-1) if mirror < 0.5 else view


def _at_least(side: float, before: int) -> int:
    """The side in whole pixels, no smaller than what the judge takes unpadded."""
    return max(round(side), min(before, MIN_VIEW_SIDE))
