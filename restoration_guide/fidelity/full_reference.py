"""Full-reference figures: how near an image comes to the clean one (PSNR, SSIM, LPIPS …)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

PSNR_CAP_DB = 100.0
"""PSNR of identical images: the mean squared error is floored at 1e-10."""
SSIM_MIN_SIDE = 11
"""Side of SSIM's window in pixels."""
MS_SSIM_MIN_SIDE = 176
"""Smallest side torchmetrics accepts for five scales of an 11-pixel window: ⌊side / 16⌋ > 10."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of its five scales, from fine to coarse (Wang et al. 2003, table 1)."""

Learned = Literal["lpips", "dists"]
"""Distances with a trained backbone, which torchvision downloads when it is first used."""

UNITS = {
    "psnr": (f"dB, at most {PSNR_CAP_DB:g}", "higher is better"),
    "ms_ssim": ("0 to 1", "higher is better"),
    "ssim": ("at most 1", "higher is better"),
    "lpips": ("distance", "lower is better"),
    "dists": ("distance", "lower is better"),
}
"""Unit and direction of each of :class:`ReferenceFigures`."""


class LearnedMetricError(RuntimeError):
    """The backbone of a learned distance is not on this machine and cannot be downloaded."""


@dataclass(frozen=True)
class ReferenceFigures:
    """Full-reference figures of one image; units and directions in :data:`UNITS`."""

    psnr: float
    """dB for a peak of 1, at most ``PSNR_CAP_DB`` (identical images)."""
    ms_ssim: float | None
    """Multi-scale SSIM in [0, 1]; None for sides below 176 px."""
    ssim: float | None = None
    """SSIM, at most 1; None for sides below 11 px."""
    lpips: float | None = None
    """Learned perceptual distance (AlexNet), ≥ 0; None unless it was asked for."""
    dists: float | None = None
    """Structure and texture distance, 0 to 1; None unless it was asked for."""


def reference_figures(
    image: Tensor, reference: Tensor, *, learned: Sequence[Learned] = ()
) -> ReferenceFigures:
    """Figures of (3, H, W) in [0, 1] to a reference of the same shape, by torchmetrics.

    Negative contrast terms of MS-SSIM count as zero (``normalize="relu"``).

    Args:
        image: (3, H, W) in [0, 1].
        reference: the clean image, of the same shape.
        learned: learned distances to add; they may download their backbones.

    Raises:
        ValueError: shapes differ.
        LearnedMetricError: the backbone of a learned distance is not available.

    >>> clean = torch.full((3, 16, 16), 0.5)
    >>> figures = reference_figures(clean + 0.1, clean)
    >>> round(figures.psnr, 2), round(figures.ssim, 3)
    (20.0, 0.984)
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as ms_ssim,
    )
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    decibels = float(psnr(image, reference))
    pair = image[None].float(), reference[None].float()
    side = min(image.shape[-2:])
    figures: dict[str, float | None] = {"ms_ssim": None, "ssim": None}
    with torch.no_grad():
        if side >= SSIM_MIN_SIDE:
            figures["ssim"] = float(torch.as_tensor(ssim(*pair, data_range=1.0)))
        if side >= MS_SSIM_MIN_SIDE:
            figures["ms_ssim"] = float(ms_ssim(*pair, data_range=1.0, normalize="relu"))
        for name in learned:
            figures[name] = learned_distance(image, reference, name)
    return ReferenceFigures(decibels, **figures)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images in [0, 1], differentiable.

    Args:
        images, truth: (…, 3, H, W) of one shape.

    Returns:
        (…) dB for a peak of 1, at most :data:`PSNR_CAP_DB`.

    Raises:
        ValueError: shapes differ.

    >>> clean = torch.full((3, 8, 8), 0.5)
    >>> psnr(clean + 0.1, clean)  # -10 log10(0.1²)
    tensor(20.0000)
    """
    if images.shape != truth.shape:
        raise ValueError(
            f"the clean image is {tuple(truth.shape)} and the other {tuple(images.shape)}; give "
            "the clean image on the same pixel grid."
        )
    return psnr_of_error(images.float() - truth.float())


def psnr_of_error(error: Tensor) -> Tensor:
    """PSNR of a difference of images: (…, 3, H, W) → (…) dB for a peak of 1."""
    mse = error.square().flatten(-3).mean(dim=-1)
    return -10.0 * torch.log10(mse.clamp_min(10 ** (-PSNR_CAP_DB / 10)))


def ms_ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Differentiable MS-SSIM of images (B, 3, H, W) in [0, 1], (B,), by torchmetrics.

    >>> clean = torch.rand(1, 3, 32, 32)
    >>> ms_ssim(clean, clean)
    tensor([1.])

    Departs from Wang et al. (2003) in that small images are compared at the first of its five
    scales alone, as many as leave the 11-pixel window room, with their weights made to sum to 1;
    negative contrast terms count as 0.

    Raises:
        ValueError: a side is below 11 px.
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as measure,
    )

    side = min(images.shape[-2:])
    if side < SSIM_MIN_SIDE:
        raise ValueError(f"MS-SSIM needs sides of {SSIM_MIN_SIDE} px or more, got {side}")
    # the window must fit after k halvings, and torchmetrics wants more of four scales and five
    scales = sum(side // max(2**k, k**2) >= SSIM_MIN_SIDE for k in range(len(MS_SSIM_WEIGHTS)))
    weights = MS_SSIM_WEIGHTS[:scales]
    betas = tuple(weight / sum(weights) for weight in weights)
    found = measure(images, truth, data_range=1.0, betas=betas, normalize="relu", reduction="none")
    return torch.as_tensor(found)


def learned_distance(image: Tensor, reference: Tensor, name: Learned) -> float:
    """LPIPS or DISTS of (3, H, W) in [0, 1] to a reference of the same shape.

    Raises:
        LearnedMetricError: its backbone is not available.
    """
    try:  # DISTS loads its backbone when it is first used, LPIPS when it is made
        return float(_learned(name)(image[None].float(), reference[None].float()))
    except OSError as error:
        raise LearnedMetricError(
            f"{name} needs a backbone that torchvision downloads once: run it with a network, or "
            f"copy the file into {torch.hub.get_dir()}/checkpoints. ({error})"
        ) from error


@cache
def _learned(name: Learned) -> nn.Module:
    from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    if name == "lpips":
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    return DeepImageStructureAndTextureSimilarity()
