"""Differentiable preparation of images of any size for the proxy's backbone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.images.pixels import is_in_range, out_of_range

STRIDE = 16
"""Side in pixels of one cell of the quality map."""
ALIGNMENT = 32
"""Sides are padded to a multiple of the backbone's total stride."""
MIN_PADDED_SIDE = 64
"""Smaller sides are padded up to this: the deepest feature map keeps two cells."""


def check_batch(images: Tensor, *, check_range: bool = True) -> None:
    """Refuse anything but a floating-point batch (B, 3, H, W) in [0, 1].

    NaN and infinite values pass: they give ratings that are not finite.

    Args:
        images: any object.
        check_range: look at the values too. On an accelerator this waits for the device; under
            ``torch.compile`` it is left out.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not four dimensions, not three channels, or an empty side.
        BadValuesError: values more than 1e-3 outside [0, 1].

    >>> check_batch(torch.rand(1, 3, 8, 8) * 255)
    Traceback (most recent call last):
    zoomiqa_core.images.errors.BadValuesError: images: values from ... divide by 255
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = f"{images.dtype} tensor" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"expected a floating-point tensor (B, 3, H, W) in [0, 1], got {got}; "
            "zoomiqa_core.images.sources.to_batch reads paths, PIL images and arrays"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
    if check_range and not torch.compiler.is_compiling():
        low, high = torch.stack(images.detach().aminmax()).tolist()  # one wait for the device
        if not is_in_range(low, high) and math.isfinite(low) and math.isfinite(high):
            raise out_of_range(images, low, high, "images")


def at_least_fp32(values: Tensor) -> Tensor:
    """The values in single precision, or in double where they have it.

    Statistics, ratings and resizing are computed so: half precision would lose their decimals.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def fit(images: Tensor, max_pixels: int) -> Tensor:
    """Shrink images of more than ``max_pixels`` pixels to that area, aspect kept.

    Args:
        images: (B, 3, H, W) in [0, 1].
        max_pixels: largest H·W returned unchanged.

    Returns:
        (B, 3, h, w) with h·w ≤ max_pixels up to rounding (a side never falls below one pixel);
        the input itself when it fits. Bilinear with antialiasing: every pixel keeps a gradient.

    >>> tuple(fit(torch.rand(1, 3, 300, 400), max_pixels=100 * 100).shape)
    (1, 3, 87, 115)
    """
    height, width = images.shape[-2:]
    size = fitted_size(height, width, max_pixels)
    if size == images.shape[-2:]:
        return images
    shrunk = functional.interpolate(
        at_least_fp32(images), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return shrunk.to(images.dtype)


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
        (B, 3, H', W') with sides ≥ ``MIN_PADDED_SIDE`` and multiples of ``ALIGNMENT``.
    """
    height, width = images.shape[-2:]
    bottom, right = padded_side(height) - height, padded_side(width) - width
    if not (bottom or right):
        return images
    return functional.pad(images, (0, right, 0, bottom), mode="replicate")


def padded_side(side: int) -> int:
    """Length in pixels to which :func:`pad` brings a side."""
    return max(MIN_PADDED_SIDE, math.ceil(side / ALIGNMENT) * ALIGNMENT)


def coverage(height: int, width: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Share of each cell of the padded image that lies on the image.

    Args:
        height, width: of the image in pixels.
        rows, columns: pixel at which each cell of the padded image starts.

    Returns:
        (1, 1, rows, columns) fp32 in [0, 1]: 1 inside, less in a partial last row or column, 0 on
        the padding.

    >>> coverage(20, 64, torch.arange(0, 64, 16), torch.arange(0, 64, 16))[0, 0, :, 0].tolist()
    [1.0, 0.25, 0.0, 0.0]
    """
    shares = [
        ((side - starts).clamp(0, STRIDE) / STRIDE).float()
        for side, starts in ((height, rows), (width, columns))
    ]
    return (shares[0][:, None] * shares[1][None, :])[None, None]


def map_cells(images: Tensor) -> tuple[Tensor, int, int]:
    """:func:`coverage` of the padded images (B, 3, h, w); rows ⌈h/16⌉ and columns ⌈w/16⌉."""
    height, width = images.shape[-2:]
    starts = [
        torch.arange(0, padded_side(side), STRIDE, device=images.device) for side in (height, width)
    ]
    return coverage(height, width, *starts), -(-height // STRIDE), -(-width // STRIDE)
