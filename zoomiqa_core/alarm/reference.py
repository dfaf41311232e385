"""Full-reference rating: an image's distance to its clean original as a rating on 1–5.

The target that the alarm is trained on. Eleven distances, each 0 for the clean image, compare local
statistics of the luma under a 7 x 7 mean, as in SSIM (Wang et al., TIP 2004), at full, half and
quarter resolution, and local means of all channels. The rating is a logistic function of their
weighted sum; all weights are positive, so that any distance lowers it. They are fitted to the mean
opinions of KADID-10k's 125 cells (``recipes.calibrate_alarm``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING

SCALES = 3
MIN_COMPARED_SIDE = 32
"""Smallest side in px, so that a window fits at quarter resolution."""
WINDOW = 7
VISIBLE = 0.01
"""Standard deviation, in pixel values, below which local contrast is hardly visible."""
DISTANCES = (
    *(f"structure_{scale}" for scale in range(SCALES)),
    *(f"added_{scale}" for scale in range(SCALES)),
    *(f"lost_{scale}" for scale in range(SCALES)),
    "luma",
    "chroma",
)
WEIGHTS = (0.32, 5.03, 0.30, 0.30, 0.30, 0.30, 0.30, 2.46, 0.30, 0.30, 2.66)
"""Of ``DISTANCES``; at least .3 each, so that damage that is rare in KADID-10k counts too."""
OFFSET = 2.57
"""Both from ``python -m recipes.calibrate_alarm --photos PHOTOS``: 24 training photos, seed 0. Over
KADID-10k's 125 cells: SRCC .92 with people's means, root mean square error .41."""


def distances(images: Tensor, clean: Tensor) -> Tensor:
    """Distances of images to their clean originals, in the order of ``DISTANCES``.

    ``structure``: 1 − the mean of SSIM's contrast-structure term. ``added``, ``lost``: local
    contrast added to or missing from the clean image, the mean of the positive and of the negative
    part of ln((σ + VISIBLE) / (σ_clean + VISIBLE)). ``luma``, ``chroma``: RMS difference of means
    over 16 px. All are square roots, which resolves small damage better.

    >>> clean = torch.rand(1, 3, 64, 64)
    >>> apart = distances((clean + 0.1).clamp(0, 1), clean)[0]
    >>> apart.shape, DISTANCES[int(apart.argmax())]
    (torch.Size([11]), 'luma')

    Args:
        images: (B, 3, H, W) in [0, 1], sides ≥ 32.
        clean: the same shape, or (1, 3, H, W).

    Returns:
        (B, 11), ≥ 0.

    Raises:
        ValueError: sides too small.
    """
    if min(images.shape[-2:]) < MIN_COMPARED_SIDE:
        raise ValueError(
            f"sides must be at least {MIN_COMPARED_SIDE} px, got {tuple(images.shape[-2:])}"
        )
    channels, target = opponent(images.float()), opponent(clean.float())
    difference = functional.avg_pool2d(channels - target, 16, 8).square().mean((2, 3))  # (B, 3)
    x, y = channels[:, :1], target[:, :1]
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
        gain = ((_sqrt(var_x) + VISIBLE) / (_sqrt(var_y) + VISIBLE)).log()
        added.append(gain.clamp_min(0).mean((1, 2, 3)))
        lost.append((-gain).clamp_min(0).mean((1, 2, 3)))
    means = [_sqrt(difference[:, 0]), _sqrt(difference[:, 1:].sum(1))]
    return _sqrt(torch.stack([*structure, *added, *lost, *means], 1).clamp_min(0))


def reference_rating(images: Tensor, clean: Tensor) -> Tensor:
    """Rating 1–5 of images by their distance to the clean original: (B,).

    The clean image itself gets the highest possible rating, 4.72, near that of KADID-10k's mildest
    damage.

    >>> clean = torch.rand(1, 3, 64, 64)
    >>> noisy = (clean + 0.2 * torch.randn(1, 3, 64, 64)).clamp(0, 1)
    >>> [round(float(reference_rating(x, clean)), 1) for x in (clean, noisy)]
    [4.7, 2.3]

    Args:
        images: see :func:`distances`.
        clean: likewise.
    """
    return from_distances(distances(images, clean), torch.tensor(WEIGHTS), OFFSET)


def from_distances(apart: Tensor, weights: Tensor, offset: float) -> Tensor:
    """Rating of (B, 11) distances: ``1 + 4 · sigmoid(offset − apart · weights)``, (B,).

    >>> from_distances(torch.zeros(1, 11), torch.tensor(WEIGHTS), 0.0)
    tensor([3.])
    """
    spread = MAX_RATING - MIN_RATING
    return MIN_RATING + spread * torch.sigmoid(offset - apart @ weights.to(apart))


def opponent(images: Tensor) -> Tensor:
    """Luma (BT.601), red − green and blue − yellow of (B, 3, H, W) images, the same shape.

    >>> opponent(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten()  # red
    tensor([ 0.2990,  1.0000, -0.5000])
    """
    red, green, blue = images.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma, red - green, blue - (red + green) / 2], 1)


def local_mean(values: Tensor, window: int, *, border: bool = True) -> Tensor:
    """Means of (…, C, H, W) under a square window of odd side.

    >>> local_mean(torch.tensor([[[1.0, 2.0, 6.0]]]), 3)
    tensor([[[1.5000, 3.0000, 4.0000]]])

    Args:
        values: three or four dimensions.
        window: side in px.
        border: keep the size; at the border, the mean of the pixels inside the image. Otherwise the
            result is ``window − 1`` px smaller.
    """
    half = window // 2 if border else 0
    # one axis after the other: 2 · window terms, not window²
    rows = functional.avg_pool2d(values, (window, 1), 1, (half, 0), count_include_pad=False)
    return functional.avg_pool2d(rows, (1, window), 1, (0, half), count_include_pad=False)


def _mean(values: Tensor) -> Tensor:
    return local_mean(values, WINDOW, border=False)


def _sqrt(values: Tensor) -> Tensor:
    """Square root with zero gradient at 0, where a flat area or the clean image is."""
    return torch.where(values > 0, values.clamp_min(1e-20).sqrt(), 0.0)
