"""Ratings of candidates by their distance to the clean photo: a mixture of teachers.

Each teacher is a full-reference distance, 0 for the clean photo. Their weighted sum is mapped to
ratings by a logistic curve, so no distance ever raises a rating. The result is what full-reference
metrics say of a candidate, not what people say. On KADID-10k's 125 cells, made again on one photo
(``python -m benchmarks.check_restoration_teachers --count 1 --crop 128``), SRCC with people's means
is .82 for ``reference``, .76 for ``ms_ssim``, .86 for ``gmsd``, .76 for ``texture``, .48 for
``colour`` and .85 for the mixture, whose ratings are off by 1.01 (root mean square).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.alarm.reference import opponent, reference_rating
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING

TEACHERS = ("reference", "ms_ssim", "gmsd", "texture", "colour")
WEIGHTS = (0.25, 0.05, 0.30, 0.30, 0.10)
"""Of ``TEACHERS``, chosen by hand among six mixtures; none decides alone."""
SCALES = (1.0, 0.30, 0.16, 0.35, 0.10)
"""Distance of each teacher at which an image is about fair (3 of 5)."""


@torch.no_grad()
def teacher_distances(images: Tensor, clean: Tensor, pyramids: Sequence[Tensor]) -> Tensor:
    """Distance of each image to the clean photo by each of ``TEACHERS``: (N, 5), ≥ 0.

    ``reference``: how far :func:`zoomiqa_core.alarm.reference.reference_rating` falls below the
    clean photo's, over 2. ``ms_ssim``: √(1 − MS-SSIM) over three scales. ``gmsd``: standard
    deviation of the gradient magnitude similarity (Xue et al., TIP 2014). ``texture``: structure
    and texture similarity of features (Ding et al., *DISTS*, 2020) with equal weights for all
    layers and channels, on ImageNet features instead of VGG's. ``colour``: mean distance of the
    two opponent colours, smoothed over 8 px, with constant saturation of large shifts.

    Args:
        images: (N, 3, H, W) in [0, 1].
        clean: (1, 3, H, W).
        pyramids: feature maps (N + 1, C, h, w) of the images, then of the clean photo.
    """
    best = reference_rating(clean, clean)
    reference = (best - reference_rating(images, clean)).clamp_min(0) / 2
    ms_ssim = (1 - _ms_ssim(images, clean)).clamp_min(0).sqrt()
    seen, true = opponent(images)[:, 1:], opponent(clean)[:, 1:]
    colour = functional.avg_pool2d(seen - true, 8, 4).square().sum(1).sqrt().mean((1, 2))
    found = (reference, ms_ssim, _gmsd(images, clean), texture_distance(pyramids), colour)
    return torch.stack(found, 1)


def mixture_rating(distances: Tensor, weights: Sequence[float] = WEIGHTS) -> Tensor:
    """Rating of (N, 5) teacher distances: (N,) in [1, 5]; 4.8 for the clean photo.

    >>> mixture_rating(torch.tensor([[0.0] * 5, [1.0, 0.3, 0.16, 0.35, 0.1]])).round(decimals=2)
    tensor([4.8000, 3.0000])
    """
    total = (distances / torch.tensor(SCALES) * torch.tensor(weights)).sum(1) / sum(weights)
    return MIN_RATING + (MAX_RATING - MIN_RATING) * torch.sigmoid(2.96 * (1 - total))


def _ms_ssim(images: Tensor, clean: Tensor) -> Tensor:
    x, y = opponent(images)[:, :1], opponent(clean)[:, :1]
    found = torch.ones(len(images))
    for scale in range(3):
        mean_x, mean_y, square_x, square_y, product = (
            functional.avg_pool2d(v, 8, 1) for v in (x, y, x * x, y * y, x * y)
        )
        shared = product - mean_x * mean_y
        variances = square_x - mean_x.square() + square_y - mean_y.square()
        term = (2 * shared + 0.03**2) / (variances + 0.03**2)
        if scale == 2:
            term = term * (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        found = found * term.mean((1, 2, 3)).clamp_min(0) ** (1 / 3)
        x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
    return found


def _gmsd(images: Tensor, clean: Tensor) -> Tensor:
    prewitt = torch.tensor([[1.0, 0, -1], [1, 0, -1], [1, 0, -1]]) / 3
    kernels = torch.stack([prewitt, prewitt.T])[:, None]

    def gradient(x: Tensor) -> Tensor:
        luma = functional.avg_pool2d(opponent(x)[:, :1], 2)
        return functional.conv2d(luma, kernels).square().sum(1).sqrt()

    x, y = gradient(images), gradient(clean)
    similarity = (2 * x * y + 0.0026) / (x * x + y * y + 0.0026)
    return similarity.flatten(1).std(1)


def texture_distance(pyramids: Sequence[Tensor]) -> Tensor:
    """Structure and texture distance (as DISTS) of N images to the last one: (N,), ≥ 0.

    Args:
        pyramids: feature maps (N + 1, C, h, w), finest first.
    """
    distances = []
    for features in pyramids:
        x, y = features[:-1], features[-1:]
        mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
        var_x, var_y = x.var((2, 3), correction=0), y.var((2, 3), correction=0)
        shared = (x * y).mean((2, 3)) - mean_x * mean_y
        texture = (2 * mean_x * mean_y + 1e-3) / (mean_x**2 + mean_y**2 + 1e-3)
        structure = (2 * shared + 1e-3) / (var_x + var_y + 1e-3)
        distances.append(1 - (texture + structure).mean(1) / 2)
    return torch.stack(distances).mean(0).clamp_min(0)
