"""Joining images along the borders of regions, and how much of the join shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_BAND = 4
"""Shorter side in pixels of the coarsest band: the pyramid's filter needs 3."""


def blend(images: Tensor, masks: Tensor, *, levels: int) -> Tensor:
    """Multi-band blending (Burt & Adelson, ACM TOG 1983): fine detail mixes over a narrow band.

    Args:
        images: (K, 3, H, W).
        masks: (K, H, W) ≥ 0 that sum to 1 in every pixel.
        levels: bands, each twice as coarse as the one before; fewer in small images. 1 is the
            masks' weighted mean.

    Returns:
        (3, H, W) clamped to [0, 1]. Far from the borders of its mask an image is itself.

    Raises:
        ValueError: shapes that do not fit, or no level.
    """
    from kornia.geometry.transform import pyrdown, pyrup

    if images.ndim != 4 or masks.shape != (len(images), *images.shape[-2:]) or levels < 1:
        raise ValueError(
            "blend() takes images (K, 3, H, W), masks (K, H, W) and at least one level; got "
            f"{tuple(images.shape)}, {tuple(masks.shape)} and {levels}."
        )
    height, width = images.shape[-2:]
    halvings = min(levels - 1, int(math.log2(max(min(height, width) / SMALLEST_BAND, 1))))
    # the pyramid halves and doubles: both sides must be divisible as often
    pad = (0, -width % 2**halvings, 0, -height % 2**halvings)
    images = functional.pad(images, pad, mode="replicate")
    weights = functional.pad(masks[:, None], pad, mode="replicate")
    bands = []
    for _ in range(halvings):
        coarse = pyrdown(images)
        bands.append((weights * (images - pyrup(coarse))).sum(0, keepdim=True))
        images, weights = coarse, pyrdown(weights)
    blended = (weights * images).sum(0, keepdim=True)
    for band in reversed(bands):
        blended = band + pyrup(blended)
    return blended[0, :, :height, :width].clamp(0, 1)


def seam_step(image: Tensor, sources: Tensor, labels: Tensor) -> float:
    """How much larger than in any source the steps across the borders are.

    Args:
        image: (3, H, W), joined from the sources.
        sources: (K, 3, H, W).
        labels: (H, W), the region of each pixel.

    Returns:
        Mean over all pairs of neighbouring pixels in different regions, in pixel values of [0, 1];
        0 when there is no border.
    """
    excesses = []
    for axis in (0, 1):
        border = labels.diff(dim=axis) != 0
        own = image.diff(dim=axis + 1).abs().mean(0)
        largest = sources.diff(dim=axis + 2).abs().mean(1).amax(0)
        excesses.append((own - largest).clamp_min(0)[border])
    excess = torch.cat(excesses)
    return float(excess.mean()) if len(excess) else 0.0
