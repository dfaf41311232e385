"""Gaussian, lens and motion blur, and over-sharpening by an unsharp mask.

Kernels follow MATLAB's ``imgaussfilt``, ``fspecial`` and ``imsharpen``, as used for KADID-10k;
borders are replicated.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

SHARPEN_SIGMA = 3.0
"""Standard deviation in px of the unsharp mask (``'Radius', 3`` in KADID's ``imsharpenHi``)."""


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur (B, C, H, W) with a Gaussian of ``sigma`` px, kernel 2⌈2σ⌉ + 1 as ``imgaussfilt``.

    >>> edge = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).expand(1, 1, 3, 6)
    >>> gaussian_blur(edge, 1.0)[0, 0, 0]
    tensor([0.0000, 0.0545, 0.2987, 0.7013, 0.9455, 1.0000])
    """
    from kornia.filters import gaussian_blur2d

    size = 2 * math.ceil(2 * sigma) + 1
    return gaussian_blur2d(images, size, (sigma, sigma), border_type="replicate")


def lens_blur(images: Tensor, radius: float) -> Tensor:
    """Blur (B, C, H, W) with a disk of ``radius`` px (``fspecial('disk', radius)``).

    >>> point = torch.zeros(1, 1, 5, 5).index_fill(-1, torch.tensor([2]), 1.0)  # a vertical line
    >>> lens_blur(point, 1.0)[0, 0, 2]
    tensor([0.0000, 0.1958, 0.6084, 0.1958, 0.0000])
    """
    from kornia.filters import filter2d

    kernel = disk_kernel(radius).to(images)
    return filter2d(images, kernel[None], border_type="replicate")


def motion_blur(images: Tensor, length: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Blur (B, C, H, W) along a line of ``length`` px; the angle is uniform in [0°, 180°).

    >>> noise = torch.rand(1, 3, 32, 32)
    >>> blurred = motion_blur(noise, 6, [torch.Generator().manual_seed(0)])
    >>> bool(blurred.std() < noise.std())
    True
    """
    from kornia.filters import filter2d

    angles = torch.cat([torch.rand(1, generator=g) for g in generators]) * math.pi
    kernels = torch.stack([motion_kernel(length, float(angle)) for angle in angles]).to(images)
    return filter2d(images, kernels, border_type="replicate")


def over_sharpen(images: Tensor, amount: float) -> Tensor:
    """Add ``amount`` × (L − blurred L) to CIELAB L of (B, 3, H, W), as ``imsharpen`` does.

    >>> edge = torch.tensor([0.4] * 8 + [0.6] * 8).expand(1, 3, 16, 16)
    >>> sharp = over_sharpen(edge, 2.0)[0, 0, 8]
    >>> [round(float(x), 1) for x in (sharp[7], sharp[8])]  # the step grows from .2
    [0.2, 0.8]
    """
    from kornia.color import lab_to_rgb, rgb_to_lab
    from kornia.filters import gaussian_blur2d

    lightness, chroma = rgb_to_lab(images).split((1, 2), dim=1)
    size = 2 * math.ceil(2 * SHARPEN_SIGMA) + 1
    smooth = gaussian_blur2d(lightness, size, (SHARPEN_SIGMA, SHARPEN_SIGMA), "replicate")
    sharp = (lightness + amount * (lightness - smooth)).clamp(0.0, 100.0)
    return lab_to_rgb(torch.cat((sharp, chroma), dim=1))


@functools.lru_cache(maxsize=16)
def disk_kernel(radius: float, *, subsamples: int = 64) -> Tensor:
    """Disk of ``radius`` px as a (2⌈r − ½⌉ + 1)² kernel that sums to 1.

    A pixel's weight is the share of its area inside the disk, counted on ``subsamples``² points
    (``fspecial('disk')`` has the closed form; they agree to 1e-3 of the peak).

    >>> disk_kernel(1.0)
    tensor([[0.0252, 0.1454, 0.0252],
            [0.1454, 0.3177, 0.1454],
            [0.0252, 0.1454, 0.0252]])
    """
    half = max(math.ceil(radius - 0.5), 0)
    side = 2 * half + 1
    points = (torch.arange(side * subsamples) + 0.5) / subsamples - side / 2
    inside = (points[:, None] ** 2 + points[None, :] ** 2 <= radius**2).double()
    kernel = inside.view(side, subsamples, side, subsamples).mean(dim=(1, 3))
    return (kernel / kernel.sum()).float()


def motion_kernel(length: float, angle: float) -> Tensor:
    """Anti-aliased line of ``length`` px at ``angle`` radians, (K, K), sum 1.

    ``fspecial('motion')`` in closed form: a pixel at distance d from the segment of half-length
    (length − 1)/2 weighs max(1 − d, 0). Length 1 is the identity.

    >>> motion_kernel(3, 0.0)[1]
    tensor([0.3333, 0.3333, 0.3333])
    """
    half_length = (max(length, 1.0) - 1.0) / 2.0
    half = math.ceil(half_length)
    offsets = torch.arange(-half, half + 1, dtype=torch.float64)
    y, x = torch.meshgrid(-offsets, offsets, indexing="ij")  # y points up, as angles do
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    beyond = torch.hypot(x, y) >= half_length
    distance = torch.where(beyond, torch.hypot(across, half_length - along.abs()), across.abs())
    kernel = (1.0 - distance).clamp(min=0.0)
    return (kernel / kernel.sum()).float()
