"""Differences of a restored candidate from its degraded input that count as unfaithful.

A restorer may add fine detail that was lost; it must keep the coarse structure and the colours.
Every term therefore compares only what survives blur, noise and compression, and is differentiable
in the candidate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.fidelity.full_reference import psnr_of_error

BLURS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Standard deviations in pixels that :func:`explained_psnr` tries."""


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

    >>> grey = torch.full((1, 3, 16, 16), 0.5)
    >>> low_pass_distance(grey + 0.1, grey)
    tensor([0.1000])
    """
    _check_pair(candidate, degraded)
    return rms(gaussian_blur(candidate - degraded, sigma))


def degrade_and_compare(
    candidate: Tensor, degraded: Tensor, *, factor: int = 4, sigma: float = 1.0
) -> Tensor:
    """PSNR after the same blur and area down-scaling of both images.

    Each ``factor`` × ``factor`` cell of the coarse grid averages out most noise and compression
    error, and ignores the detail inside it, which a restorer may add.

    >>> grey = torch.full((1, 3, 16, 16), 0.5)
    >>> degrade_and_compare(grey + 0.1, grey)
    tensor([20.0000])

    Args:
        candidate: (B, 3, H, W) in [0, 1].
        degraded: (B, 3, H, W) in [0, 1], the restorer's input.
        factor: side of a cell in pixels; a last, partial cell averages the pixels it has.
        sigma: blur before the down-scaling, in pixels.

    Returns:
        (B,) dB for a peak of 1, at most 100.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W); ``factor`` < 1; ``sigma`` < 0.
    """
    _check_pair(candidate, degraded)
    return psnr_of_error(_shrink(gaussian_blur(candidate - degraded, sigma), factor))


def explained_psnr(
    candidate: Tensor, degraded: Tensor, *, factor: int = 2, sigma: float | None = None
) -> Tensor:
    """PSNR of the degraded image against the blurred candidate, both shrunk by area.

    If the restoration only sharpened, blurring it by the right amount gives the input back; if it
    added something else, no blur does.

    Args:
        candidate, degraded: (B, 3, H, W) in [0, 1].
        factor: how much both are shrunk.
        sigma: the blur that degraded the image, in pixels; None tries :data:`BLURS` and takes, for
            each image, the one that explains it best.

    Returns:
        (B,) dB for a peak of 1, at most 100.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W); ``factor`` < 1; ``sigma`` < 0.
    """
    _check_pair(candidate, degraded)
    target = _shrink(degraded, factor)
    blurs = BLURS if sigma is None else (sigma,)
    tried = [_shrink(gaussian_blur(candidate, blur), factor) - target for blur in blurs]
    return torch.stack([psnr_of_error(difference) for difference in tried]).amax(0)


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
    return rms(_shrink(candidate - degraded, 2**level))


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
    return rms(chroma[0] - chroma[1])


def rms(difference: Tensor) -> Tensor:
    """Root mean square of (B, …) over everything but the batch, with zero gradient at zero.

    >>> rms(torch.full((1, 3, 2, 2), -0.5))
    tensor([0.5000])
    """
    flat = difference.flatten(1)
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1])


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


def _check_pair(candidate: Tensor, degraded: Tensor) -> None:
    if candidate.ndim != 4 or candidate.shape[1] != 3 or candidate.shape != degraded.shape:
        raise ValueError(
            "fidelity compares two batches (B, 3, H, W) of one shape; got "
            f"{tuple(candidate.shape)} and {tuple(degraded.shape)}. Add a batch axis with "
            "image[None], and resize the candidate to its input's grid."
        )
