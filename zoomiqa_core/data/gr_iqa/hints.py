"""Hints: six measurements of an image that need no model, for checking what is written about it.

Zoom-IQA (arXiv 2601.02918) names brightness, contrast, colourfulness, artifact and blur without
giving formulas; these are ours, from the literature. All are computed from sRGB values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B (BT.601)."""
MIN_HINT_SIDE = 24
"""Smallest side that can be measured, pixels."""
BLOCK = 8
"""Side of the blocks of JPEG, px."""
_BLUR_TAPS = 11
"""Width of the box filter of the blur measure."""
_PATCH = 16
"""Side of the patches the noise is measured in, px."""
_QUIET_SHARE = 0.25
"""Noise is measured at this quantile of the patches: a smooth patch, with little texture."""


@dataclass(frozen=True)
class Hints:
    """Measurements of an image or a region."""

    brightness: float
    """Mean luma, 0 black – 1 white."""
    contrast: float
    """Standard deviation of the luma, 0 flat – 0.5."""
    colourfulness: float
    """Hasler & Süsstrunk (2003) on 0–255 values: 0 grey, 15 slightly, 33 moderately, 59 quite, 82
    highly, 109 extremely colourful."""
    blur: float
    """Crete et al. (2007): share of the detail a further blur leaves untouched, 0 sharp – 1."""
    noise: float
    """Standard deviation of the noise in luma on [0, 1] (Immerkær, 1996), in smooth parts."""
    blockiness: float
    """Mean step across the 8-px grid over the mean step elsewhere; 1 without blocks."""


@torch.no_grad()
def measure_hints(image: Tensor) -> Hints:
    """Measure an image, (3, H, W) or (1, 3, H, W) in [0, 1], sides of at least 24 px.

    >>> grey = torch.full((3, 64, 64), 0.5)
    >>> hints = measure_hints(grey + 0.1 * torch.randn(3, 64, 64))
    >>> round(hints.brightness, 2), round(hints.noise, 2)
    (0.5, 0.07)

    Raises:
        ValueError: not an image of that shape, or too small.
    """
    pixels = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
    if pixels.ndim != 3 or pixels.shape[0] != 3 or min(pixels.shape[1:]) < MIN_HINT_SIDE:
        raise ValueError(
            f"expected (3, H, W) with sides of at least {MIN_HINT_SIDE} px, "
            f"got {tuple(image.shape)}"
        )
    pixels = pixels.detach().float().cpu()
    luma = torch.einsum("c,chw->hw", torch.tensor(LUMA), pixels)
    return Hints(
        brightness=float(luma.mean()),
        contrast=float(luma.std(correction=0)),
        colourfulness=colourfulness(pixels),
        blur=blur_effect(luma),
        noise=noise_deviation(luma),
        blockiness=blockiness(luma),
    )


def colourfulness(pixels: Tensor) -> float:
    """σ + 0.3·µ of the opponent colours rg = R − G and yb = (R + G)/2 − B, on 0–255 values.

    Hasler & Süsstrunk, "Measuring colourfulness in natural images", SPIE 2003, Eq. 2 (M̂⁽³⁾).
    """
    red, green, blue = pixels * 255
    opponents = torch.stack((red - green, (red + green) / 2 - blue)).flatten(1)
    spread = float(opponents.std(1, correction=0).norm())
    return spread + 0.3 * float(opponents.mean(1).norm())


def blur_effect(luma: Tensor) -> float:
    """Share of the detail that survives another blur of 11 px, 0 (sharp) – 1 (blurred).

    Crete et al., "The blur effect", SPIE 2007: along each axis, steps between neighbours are summed
    before and after the blur; the larger remaining share of the two axes counts. Steps are Sobel
    derivatives, as in scikit-image. A flat image counts as blurred: 1.
    """
    shares = []
    for plane in (luma, luma.T):
        before = _sobel(plane).abs()
        after = _sobel(_box_blur(plane)).abs()
        inner = (slice(2, -1), slice(2, -1))
        taken = (before - after).clamp(min=0)[inner].sum()
        total = before[inner].sum()
        shares.append(1.0 if total <= 1e-6 else float(1 - taken / total))
    return max(shares)


def noise_deviation(luma: Tensor) -> float:
    """Standard deviation of white noise, from a filter that ignores smooth gradients.

    Immerkær, "Fast noise variance estimation", CVIU 1996: σ = √(π/2)·mean|I ∗ N| / 6. Departure:
    the lower quartile over 16-px patches instead of the mean, which texture inflates.
    """
    kernel = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = functional.conv2d(luma[None, None], kernel[None, None]).abs()
    patches = functional.avg_pool2d(response, min(_PATCH, *response.shape[-2:]))
    calm = float(patches.flatten().quantile(_QUIET_SHARE))
    return math.sqrt(math.pi / 2) * calm / 6


def blockiness(luma: Tensor) -> float:
    """Mean step at the phase of 8 px where steps are largest, over that of the other phases.

    The mean of both directions. The phase is searched, so that a crop off the grid measures the
    same.
    """
    ratios = []
    for plane in (luma, luma.T):
        steps = plane.diff(dim=1).abs().mean(0)
        phases = torch.stack([steps[phase::BLOCK].mean() for phase in range(BLOCK)])
        others = (phases.sum() - phases.max()) / (BLOCK - 1)
        ratios.append(float(phases.max() / others) if others > 1e-6 else 1.0)
    return sum(ratios) / 2


def _sobel(plane: Tensor) -> Tensor:
    """Derivative along the rows, smoothed across them; the border is reflected."""
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 8
    padded = _mirrored(plane, 1, 1)
    return functional.conv2d(padded, kernel[None, None])[0, 0]


def _box_blur(plane: Tensor) -> Tensor:
    """Mean of 11 pixels along the rows."""
    padded = _mirrored(plane, 0, _BLUR_TAPS // 2)
    return functional.avg_pool2d(padded, (1, _BLUR_TAPS), stride=1)[0, 0]


def _mirrored(plane: Tensor, rows: int, columns: int) -> Tensor:
    """(1, 1, H + 2·rows, W + 2·columns), the edge pixel repeated, then the one inside it."""
    height, width = plane.shape
    y = torch.arange(-rows, height + rows)
    x = torch.arange(-columns, width + columns)
    y = torch.where(y < 0, -y - 1, torch.where(y >= height, 2 * height - 1 - y, y))
    x = torch.where(x < 0, -x - 1, torch.where(x >= width, 2 * width - 1 - x, x))
    return plane[y][:, x][None, None]
