"""Differentiable preparation of images of any size for the proxy's backbone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

STRIDE = 16
"""Side in pixels of one cell of the quality map."""
ALIGNMENT = 32
"""Sides are padded to a multiple of the backbone's total stride."""
MIN_SIDE = 64
"""Smaller sides are padded up to this: the deepest feature map keeps two cells."""


def check_batch(images: Tensor) -> None:
    """Refuse anything but a floating (B, 3, H, W) batch.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not four dimensions, not three channels, or an empty side.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = f"{images.dtype} tensor" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"expected a floating-point tensor (B, 3, H, W) in [0, 1], got {got}; "
            "zoomiqa_core.images.sources.to_batch reads paths, PIL images and arrays"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")


def fit(images: Tensor, max_pixels: int) -> Tensor:
    """Shrink images of more than ``max_pixels`` pixels to that area, aspect kept.

    Args:
        images: (B, 3, H, W) in [0, 1].
        max_pixels: largest H·W passed on unchanged.

    Returns:
        (B, 3, h, w) with h·w ≤ max_pixels up to rounding (a side never falls below one pixel);
        the input itself when it fits. Bilinear with antialiasing: every pixel keeps a gradient.
    """
    height, width = images.shape[-2:]
    size = fitted_size(height, width, max_pixels)
    if size == images.shape[-2:]:
        return images
    return functional.interpolate(
        images, size=size, mode="bilinear", antialias=True, align_corners=False
    )


def fitted_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """Sides in pixels at which an image is judged (see :func:`fit`)."""
    if height * width <= max_pixels:
        return height, width
    scale = math.sqrt(max_pixels / (height * width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def pad(images: Tensor) -> Tensor:
    """Repeat the border to the right and below up to the backbone's grid.

    Args:
        images: (B, 3, H, W).

    Returns:
        (B, 3, H', W') with sides ≥ ``MIN_SIDE`` and multiples of ``ALIGNMENT``.
    """
    height, width = images.shape[-2:]
    bottom, right = _aligned(height) - height, _aligned(width) - width
    if not (bottom or right):
        return images
    return functional.pad(images, (0, right, 0, bottom), mode="replicate")


def coverage(height: int, width: int, like: Tensor) -> Tensor:
    """Share of each map cell that lies on the image.

    Returns:
        (1, 1, ⌈height/16⌉, ⌈width/16⌉) in (0, 1]: 1 inside, less in a cut last row or column;
        dtype and device of ``like``.
    """
    rows, columns = (_covered(side, like) for side in (height, width))
    return (rows[:, None] * columns[None, :])[None, None]


def _aligned(side: int) -> int:
    return max(MIN_SIDE, math.ceil(side / ALIGNMENT) * ALIGNMENT)


def _covered(side: int, like: Tensor) -> Tensor:
    starts = torch.arange(0, side, STRIDE, device=like.device)
    return ((side - starts).clamp(max=STRIDE) / STRIDE).to(like.dtype)
