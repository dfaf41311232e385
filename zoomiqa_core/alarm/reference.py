"""Full-reference rating: how far an image lies from its clean original, in rating units.

What the alarm is taught. Local statistics of the luma under a 7 x 7 mean, as in SSIM (Wang et al.,
TIP 2004), at full, half and quarter resolution, and local means of all channels give eleven
distances, each 0 for the clean image itself. A logistic curve of their weighted sum is the rating;
no weight is negative, so no distance ever helps. Few enough numbers to be fitted to the mean
opinions of KADID-10k's 125 cells (``recipes.calibrate_alarm``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING

SCALES = 3
MIN_SIDE = 32
"""Smallest side in px: the quarter resolution still holds a window."""
WINDOW = 7
VISIBLE = 0.01
"""Standard deviation, in pixel values, below which local contrast is hardly seen."""
DISTANCES = (
    *(f"structure_{scale}" for scale in range(SCALES)),
    *(f"added_{scale}" for scale in range(SCALES)),
    *(f"lost_{scale}" for scale in range(SCALES)),
    "luma",
    "chroma",
)
WEIGHTS = (0.32, 5.03, 0.30, 0.30, 0.30, 0.30, 0.30, 2.46, 0.30, 0.30, 2.66)
"""Of ``DISTANCES``; none below .3: what people saw little of in KADID-10k must still count."""
OFFSET = 2.57
"""``python -m recipes.calibrate_alarm --photos PHOTOS`` printed both: 24 training photos, seed 0.
Over KADID-10k's 125 cells, SRCC .92 with people's means, root mean square error .41."""


def distances(images: Tensor, clean: Tensor) -> Tensor:
    """Distances of images to their clean originals, in the order of ``DISTANCES``.

    ``structure``: 1 − the mean of SSIM's contrast-structure term. ``added``, ``lost``: mean of the
    positive and of the negative part of ln((σ + VISIBLE) / (σ_clean + VISIBLE)), local contrast the
    clean image does not have and contrast it has lost. ``luma``, ``chroma``: RMS difference of the
    local means over 16 px. Square roots of all, which spreads small damage.

    Args:
        images: (B, 3, H, W) in [0, 1], sides ≥ 32.
        clean: the same shape, or (1, 3, H, W).

    Returns:
        (B, 11), ≥ 0.

    Raises:
        ValueError: sides too small.
    """
    if min(images.shape[-2:]) < MIN_SIDE:
        raise ValueError(f"sides must be at least {MIN_SIDE} px, got {tuple(images.shape[-2:])}")
    seen, true = opponent(images.float()), opponent(clean.float())
    difference = functional.avg_pool2d(seen - true, 16, 8).square().mean((2, 3))  # (B, 3)
    x, y = seen[:, :1], true[:, :1]
    structure, added, lost = [], [], []
    for scale in range(SCALES):
        if scale:
            x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
        mean_x, mean_y = _mean(x), _mean(y)
        var_x = (_mean(x * x) - mean_x.square()).clamp_min(0)
        var_y = (_mean(y * y) - mean_y.square()).clamp_min(0)
        shared = _mean(x * y) - mean_x * mean_y
        term = (2 * shared + 0.03**2) / (var_x + var_y + 0.03**2)
        structure.append(1 - term.mean((1, 2, 3)))
        gain = ((var_x.sqrt() + VISIBLE) / (var_y.sqrt() + VISIBLE)).log()
        added.append(gain.clamp_min(0).mean((1, 2, 3)))
        lost.append((-gain).clamp_min(0).mean((1, 2, 3)))
    means = [difference[:, 0].sqrt(), difference[:, 1:].sum(1).sqrt()]
    return torch.stack([*structure, *added, *lost, *means], 1).clamp_min(0).sqrt()


def reference_rating(images: Tensor, clean: Tensor) -> Tensor:
    """Rating 1–5 of images by their distance to the clean original: (B,).

    Arguments as for :func:`distances`. The clean image itself gets the highest rating there is,
    that of KADID-10k's mildest damage.
    """
    return from_distances(distances(images, clean), torch.tensor(WEIGHTS), OFFSET)


def from_distances(found: Tensor, weights: Tensor, offset: float) -> Tensor:
    """``1 + 4 · sigmoid(offset − found · weights)`` of (B, 11) distances: (B,)."""
    spread = MAX_RATING - MIN_RATING
    return MIN_RATING + spread * torch.sigmoid(offset - found @ weights.to(found))


def opponent(images: Tensor) -> Tensor:
    """Luma (BT.601), red − green and blue − yellow of (B, 3, H, W) in [0, 1]: the same shape."""
    red, green, blue = images.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma, red - green, blue - (red + green) / 2], 1)


def local_mean(values: Tensor, window: int, *, border: bool = True) -> Tensor:
    """Means of (…, C, H, W) under a square window of odd side.

    Args:
        values: three or four dimensions.
        window: side in px.
        border: also where the window leaves the image, of what lies on it; else the result is
            ``window − 1`` px smaller.
    """
    half = window // 2 if border else 0
    # one axis after the other: 2 · window terms, not window²
    rows = functional.avg_pool2d(values, (window, 1), 1, (half, 0), count_include_pad=False)
    return functional.avg_pool2d(rows, (1, window), 1, (0, half), count_include_pad=False)


def _mean(values: Tensor) -> Tensor:
    return local_mean(values, WINDOW, border=False)
