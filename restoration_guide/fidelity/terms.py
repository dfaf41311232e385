"""Fidelity of a restored candidate to its degraded input, without the clean image.

A restorer may add the fine detail that the damage destroyed; what the damage left standing, the
coarse structure and the colours, it must keep. Every term therefore looks only at what survives
blur, noise and compression. All are differentiable in the candidate. Against the clean image, where
there is one: :mod:`restoration_guide.fidelity.full_reference`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

PSNR_CAP_DB = 100.0
"""PSNR of identical images: the mean squared error is floored at 1e-10."""

BLURS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Standard deviations in pixels that :func:`explained_psnr` tries."""

TERMS = {
    "low_pass_distance": ("RMS of pixel values in [0, 1]", "lower is better"),
    "degraded_psnr": (f"dB, at most {PSNR_CAP_DB:g}", "higher is better"),
    "explained_psnr": (f"dB, at most {PSNR_CAP_DB:g}", "higher is better"),
    "ll_distance": ("RMS of pixel values in [0, 1]", "lower is better"),
    "structure": ("SSIM of the low band, at most 1", "higher is better"),
    "colour_drift": ("RMS of a*b* in CIELAB units", "lower is better"),
}
"""Unit and direction of each term of :class:`Fidelity`."""


@dataclass(frozen=True)
class FidelityLimits:
    """How far a candidate may leave its input before it counts as another picture.

    The defaults were measured on 256² centre crops of 60 training photos, each degraded by the six
    presets of ``zoomiqa_core.data.damage.restoration`` (seed 0).
    The perfect restoration, the clean photo itself, must pass: the largest low-pass distance of the
    360 pairs was .028 and the smallest coarse PSNR 26.5 dB, so that all pass. What must not pass is
    the clean photo altered: of another photo (distance ≥ .127, ≤ 16.7 dB) none passed, of a foreign
    64² patch 2.8 %, of brightness + .08 4.7 %, of red + .1 5.0 %, of contrast × 1.3 11.4 %. No
    threshold separates them perfectly: in a chart that is nearly all white, clipping undoes the
    alteration, and contrast changes a flat or dark photo little. The other terms have no limit: at
    the tightest ones that all clean photos keep, they stop nothing that the low-pass distance lets
    pass.
    """

    max_low_pass_distance: float = 0.04
    """Largest :func:`low_pass_distance`, in pixel values of [0, 1]."""
    min_degraded_psnr: float = 24.0
    """Smallest :func:`degrade_and_compare`, in dB."""

    def __post_init__(self) -> None:
        if not self.max_low_pass_distance >= 0:
            got = f"got {self.max_low_pass_distance}; inf switches the limit off."
            raise ValueError(f"max_low_pass_distance is a distance ≥ 0 in pixel values, {got}")
        if math.isnan(self.min_degraded_psnr):
            raise ValueError("min_degraded_psnr is a number of dB, not NaN; -inf switches it off.")


@dataclass(frozen=True)
class Fidelity:
    """Every term for one candidate; units and directions in :data:`TERMS`. NaN: not measured."""

    low_pass_distance: float
    """RMS difference of the Gaussian low-pass, pixel values of [0, 1]; lower is better."""
    degraded_psnr: float
    """PSNR on the coarse grid, dB; higher is better."""
    explained_psnr: float = math.nan
    """PSNR of the candidate, blurred as the input seems to be, dB; higher is better."""
    ll_distance: float = math.nan
    """RMS difference of the wavelet's low band, pixel values of [0, 1]; lower is better."""
    structure: float = math.nan
    """SSIM of the low band, at most 1; higher is better."""
    colour_drift: float = math.nan
    """RMS difference of the coarse a*b*, CIELAB units; lower is better."""

    def violations(self, limits: FidelityLimits) -> tuple[str, ...]:
        """The limits this candidate breaks, in words; empty when it is faithful.

        A NaN term breaks its limit.
        """
        broken = []
        if not self.low_pass_distance <= limits.max_low_pass_distance:
            broken.append(
                f"low_pass_distance {self.low_pass_distance:.4f} > {limits.max_low_pass_distance:g}"
            )
        if not self.degraded_psnr >= limits.min_degraded_psnr:
            broken.append(
                f"degraded_psnr {self.degraded_psnr:.2f} dB < {limits.min_degraded_psnr:g} dB"
            )
        return tuple(broken)

    def is_faithful(self, limits: FidelityLimits) -> bool:
        """Whether every term keeps its limit."""
        return not self.violations(limits)

    def to_dict(self) -> dict[str, float]:
        """Terms by name."""
        return asdict(self)


def low_pass_distance(candidate: Tensor, degraded: Tensor, *, sigma: float = 3.0) -> Tensor:
    """RMS difference of the two images' Gaussian low-pass.

    The filter is linear, so the difference is blurred once. Borders are replicated, which allows
    images smaller than the kernel (radius ⌈3σ⌉).

    Args:
        candidate: (B, 3, H, W) in [0, 1].
        degraded: (B, 3, H, W) in [0, 1], the restorer's input.
        sigma: standard deviation of the low-pass in pixels; 0 compares the images unfiltered.

    Returns:
        (B,) in [0, 1], pixel values; 0 for identical images (with zero gradient there).

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), or ``sigma`` is negative.
    """
    _check_pair(candidate, degraded)
    return _rms(gaussian_blur(candidate - degraded, sigma))


def degrade_and_compare(
    candidate: Tensor, degraded: Tensor, *, factor: int = 4, sigma: float = 1.0
) -> Tensor:
    """PSNR after the same blur and area down-scaling of both images.

    A ``factor`` × ``factor`` cell of the coarse grid averages most of the noise and of the
    compression error away, and what is smaller than a cell is free for the restorer to draw.

    Args:
        candidate: (B, 3, H, W) in [0, 1].
        degraded: (B, 3, H, W) in [0, 1], the restorer's input.
        factor: side of a cell in pixels; a last, partial cell averages the pixels it has.
        sigma: blur before the down-scaling, in pixels.

    Returns:
        (B,) dB for a peak of 1, at most :data:`PSNR_CAP_DB`.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W); ``factor`` < 1; ``sigma`` < 0.
    """
    _check_pair(candidate, degraded)
    return _psnr(_shrink(gaussian_blur(candidate - degraded, sigma), factor))


def explained_psnr(
    candidate: Tensor, degraded: Tensor, *, factor: int = 2, sigma: float | None = None
) -> Tensor:
    """PSNR of the degraded image against the blurred candidate, both shrunk by area.

    A restoration that only sharpened is explained perfectly by the right blur; one that drew
    something else by none.

    Args:
        candidate, degraded: (B, 3, H, W) in [0, 1].
        factor: how much both are shrunk.
        sigma: the blur that degraded the image, in pixels; None tries :data:`BLURS` and takes, for
            each image, the one that explains it best.

    Returns:
        (B,) dB for a peak of 1, at most :data:`PSNR_CAP_DB`.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W); ``factor`` < 1; ``sigma`` < 0.
    """
    _check_pair(candidate, degraded)
    target = _shrink(degraded, factor)
    blurs = BLURS if sigma is None else (sigma,)
    tried = [_shrink(gaussian_blur(candidate, blur), factor) - target for blur in blurs]
    return torch.stack([_psnr(difference) for difference in tried]).amax(0)


def ll_distance(candidate: Tensor, degraded: Tensor, *, level: int = 3) -> Tensor:
    """RMS difference of the low-low band of the Haar wavelet: means of 2^level × 2^level blocks.

    Args:
        candidate, degraded: (B, 3, H, W) in [0, 1].
        level: depth of the transform, ≥ 0.

    Returns:
        (B,) in [0, 1], pixel values; 0 for identical images (with zero gradient there).

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W); ``level`` < 0.
    """
    _check_pair(candidate, degraded)
    if level < 0:
        raise ValueError(f"level is the depth of the wavelet transform, ≥ 0; got {level}.")
    return _rms(_shrink(candidate - degraded, 2**level))


def structure(candidate: Tensor, degraded: Tensor, *, factor: int = 4) -> Tensor:
    """SSIM (torchmetrics: Gaussian window of 11, σ 1.5) of both images shrunk by area.

    Args:
        candidate, degraded: (B, 3, H, W) in [0, 1].
        factor: how much they are shrunk; grids below the window's 11 are extended by their border.

    Returns:
        (B,) at most 1; 1 for identical images.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W); ``factor`` < 1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_pair(candidate, degraded)
    pair = [_shrink(image, factor) for image in (candidate, degraded)]
    height, width = pair[0].shape[-2:]
    missing = 0, max(11 - width, 0), 0, max(11 - height, 0)
    a, b = (functional.pad(image, missing, mode="replicate") for image in pair)
    similarity = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    return torch.as_tensor(similarity).reshape(len(candidate))


def colour_drift(candidate: Tensor, degraded: Tensor, *, factor: int = 16) -> Tensor:
    """RMS difference of a* and b* (CIELAB) of both images shrunk by area.

    Args:
        candidate, degraded: (B, 3, H, W) sRGB in [0, 1].
        factor: how much they are shrunk.

    Returns:
        (B,) ≥ 0 in CIELAB units; about 2 is just noticeable.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W); ``factor`` < 1.
    """
    from kornia.color import rgb_to_lab

    _check_pair(candidate, degraded)
    chroma = [rgb_to_lab(_shrink(image, factor))[:, 1:] for image in (candidate, degraded)]
    return _rms(chroma[0] - chroma[1])


def measure_fidelity(candidates: Tensor, degraded: Tensor) -> list[Fidelity]:
    """Every term, in fp32 and without gradients, for each of a batch of candidates.

    Args:
        candidates: (B, 3, H, W) in [0, 1].
        degraded: (B, 3, H, W), or (1, 3, H, W) for candidates of one input.
    """
    functions = {
        "low_pass_distance": low_pass_distance,
        "degraded_psnr": degrade_and_compare,
        "explained_psnr": explained_psnr,
        "ll_distance": ll_distance,
        "structure": structure,
        "colour_drift": colour_drift,
    }
    with torch.no_grad():
        candidates = candidates.float()
        degraded = degraded.float().expand_as(candidates)
        terms = {name: term(candidates, degraded).tolist() for name, term in functions.items()}
    columns = zip(*terms.values(), strict=True)
    return [Fidelity(**dict(zip(terms, column, strict=True))) for column in columns]


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with replicated borders; ``sigma`` 0 is the identity."""
    if not sigma >= 0:
        raise ValueError(f"sigma is a standard deviation in pixels, ≥ 0; got {sigma}.")
    if sigma == 0:
        return images
    from kornia.filters import gaussian_blur2d  # kornia is heavy: imported when it is used

    size = 2 * math.ceil(3 * sigma) + 1
    return gaussian_blur2d(images, (size, size), (sigma, sigma), border_type="replicate")


def _shrink(images: Tensor, factor: int) -> Tensor:
    """Means of ``factor`` × ``factor`` cells; the last ones average the pixels they have."""
    if factor < 1:
        raise ValueError(f"factor is the side of a coarse cell in pixels, ≥ 1; got {factor}.")
    return functional.avg_pool2d(images, factor, ceil_mode=True, count_include_pad=False)


def _psnr(difference: Tensor) -> Tensor:
    """(B,) dB of (B, …) for a peak of 1."""
    mse = difference.square().flatten(1).mean(dim=1)
    return -10.0 * torch.log10(mse.clamp_min(10 ** (-PSNR_CAP_DB / 10)))


def _rms(difference: Tensor) -> Tensor:
    """(B,) of (B, …), with zero gradient at zero."""
    flat = difference.flatten(1)
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1])


def _check_pair(candidate: Tensor, degraded: Tensor) -> None:
    if candidate.ndim != 4 or candidate.shape[1] != 3 or candidate.shape != degraded.shape:
        raise ValueError(
            "fidelity compares two batches (B, 3, H, W) of one shape; got "
            f"{tuple(candidate.shape)} and {tuple(degraded.shape)}. Add a batch axis with "
            "image[None], and resize the candidate to its input's grid."
        )
