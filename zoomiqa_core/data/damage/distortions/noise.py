"""White, YCbCr, impulse and multiplicative noise, and the artefacts of denoising.

Variances are on the [0, 1] intensity scale, as in MATLAB's ``imnoise``.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Generators = Sequence[torch.Generator]

DENOISER_MAX_SIGMA = 55.0 / 255.0
"""Strongest noise that MATLAB's pretrained DnCNN was trained on and can remove."""
DENOISER_THRESHOLD = 3.0
"""DCT coefficients under this many noise deviations are dropped."""
DENOISER_BLOCK, DENOISER_STRIDE = 8, 4
"""Side of the DCT blocks and the step between them, px."""


def white_noise(images: Tensor, variance: float, generators: Generators) -> Tensor:
    """Add Gaussian noise of ``variance`` to (B, 3, H, W), independent per channel.

    >>> grey = torch.full((1, 3, 64, 64), 0.5)
    >>> noisy = white_noise(grey, 0.01, [torch.Generator().manual_seed(0)])
    >>> round(float(noisy.var()), 3)
    0.01
    """
    return images + math.sqrt(variance) * _normal(images, generators)


def ycbcr_noise(images: Tensor, variance: float, generators: Generators) -> Tensor:
    """Add Gaussian noise of ``variance`` to studio-range YCbCr (BT.601) of (B, 3, H, W).

    MATLAB's ``rgb2ycbcr`` puts Y in [16, 235]/255 and Cb, Cr in [16, 240]/255; the noisy YCbCr is
    clamped to [0, 1] as ``imnoise`` does.
    """
    forward, offset = _ycbcr_transform(images)
    ycbcr = torch.einsum("ij,bjhw->bihw", forward, images) + offset
    noisy = (ycbcr + math.sqrt(variance) * _normal(images, generators)).clamp(0.0, 1.0)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(forward), noisy - offset)


def impulse_noise(images: Tensor, share: float, generators: Generators) -> Tensor:
    """Set ``share`` of the values of (B, 3, H, W) to 0 or 1, half each, per channel.

    >>> grey = torch.full((1, 3, 64, 64), 0.5)
    >>> noisy = impulse_noise(grey, 0.1, [torch.Generator().manual_seed(0)])
    >>> noisy.unique(), round(float((noisy != 0.5).float().mean()), 2)
    (tensor([0.0000, 0.5000, 1.0000]), 0.1)
    """
    draw = _uniform(images, generators)
    pepper = torch.where(draw < share / 2.0, 0.0, images)
    return torch.where(draw >= 1.0 - share / 2.0, 1.0, pepper)


def multiplicative_noise(images: Tensor, variance: float, generators: Generators) -> Tensor:
    """Multiply (B, 3, H, W) by 1 + n, n uniform with mean 0 and ``variance`` (MATLAB 'speckle').

    >>> black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    >>> [bool(multiplicative_noise(x, 0.02, [torch.Generator()]).std() > 0) for x in (black, white)]
    [False, True]
    """
    spread = math.sqrt(12.0 * variance)
    return images * (1.0 + spread * (_uniform(images, generators) - 0.5))


def denoise(images: Tensor, variance: float, generators: Generators) -> Tensor:
    """Add white noise of ``variance`` to (B, 3, H, W), clamp, and denoise.

    KADID denoises each channel with MATLAB's pretrained DnCNN. Departure: hard-thresholded
    overlapping 8×8 DCT blocks, with similar artefacts (flattened texture, faint waves). They are
    about 1 dB worse than DnCNN per channel, and equal to it on orthonormal opponent colours, which
    are used. DnCNN was trained on noise up to 55/255, so the threshold is capped there: variances
    above .047 leave coloured grain, as in KADID's two highest levels.
    """
    noisy = white_noise(images, variance, generators).clamp(0.0, 1.0)
    opponent = _cosines(3).to(images)  # intensity, red − blue, green − magenta
    planes = torch.einsum("ij,bjhw->bihw", opponent, noisy)
    planes = dct_shrinkage(planes, min(math.sqrt(variance), DENOISER_MAX_SIGMA))
    return torch.einsum("ji,bjhw->bihw", opponent, planes)


def dct_shrinkage(images: Tensor, sigma: float) -> Tensor:
    """Denoise (B, C, H, W) of noise deviation ``sigma``: hard-thresholded overlapping DCT blocks.

    Overlapping estimates are averaged with weight 1 / (number of kept coefficients), so that sparse
    blocks count more (Guleryuz 2007; Yu & Sapiro, "DCT image denoising", IPOL 2011), times a window
    that fades to the block's edge, so that no block grid is visible.

    >>> noisy = 0.5 + 0.1 * torch.randn(1, 1, 64, 64)
    >>> [round(float(x.std()), 2) for x in (noisy, dct_shrinkage(noisy, 0.1))]
    [0.1, 0.01]
    """
    batch, channels, height, width = images.shape
    block, stride = DENOISER_BLOCK, DENOISER_STRIDE
    bottom = block + (-(height + block)) % stride + stride
    right = block + (-(width + block)) % stride + stride
    padded = F.pad(images, (block, right, block, bottom), mode="replicate")
    planes = padded.view(batch * channels, 1, *padded.shape[-2:])

    basis = _dct_basis(block).to(images)  # (64, 64), orthonormal rows
    coefficients = basis @ F.unfold(planes, block, stride=stride)  # (BC, 64, blocks)
    kept = coefficients.abs() > DENOISER_THRESHOLD * sigma
    kept[:, 0] = True  # the block mean
    weight = 1.0 / kept.sum(dim=1, keepdim=True)
    weight = weight * _fading_window(block).to(images)  # (BC, 64, blocks)
    estimates = basis.T @ (coefficients * kept) * weight
    size = (padded.shape[-2], padded.shape[-1])
    total = F.fold(estimates, size, block, stride=stride)
    norm = F.fold(weight, size, block, stride=stride)
    crop = slice(block, block + height), slice(block, block + width)
    return (total[..., crop[0], crop[1]] / norm[..., crop[0], crop[1]]).view_as(images)


def _normal(images: Tensor, generators: Generators) -> Tensor:
    return torch.stack([torch.randn(images.shape[1:], generator=g) for g in generators]).to(images)


def _uniform(images: Tensor, generators: Generators) -> Tensor:
    return torch.stack([torch.rand(images.shape[1:], generator=g) for g in generators]).to(images)


def _ycbcr_transform(images: Tensor) -> tuple[Tensor, Tensor]:
    """BT.601 studio range: matrix (3, 3) and offset (3, 1, 1) for RGB in [0, 1]."""
    matrix = [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
    offset = [[[16.0]], [[128.0]], [[128.0]]]
    return torch.tensor(matrix).to(images) / 255.0, torch.tensor(offset).to(images) / 255.0


def _dct_basis(size: int) -> Tensor:
    """Orthonormal 2-D DCT-II of ``size`` × ``size`` blocks: (size², size²), rows are functions."""
    return torch.kron(_cosines(size), _cosines(size))


def _cosines(size: int) -> Tensor:
    """Orthonormal 1-D DCT-II matrix (size, size), rows are functions."""
    k = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * (k[None, :] + 0.5) * k[:, None] / size) * math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    return rows


def _fading_window(size: int) -> Tensor:
    """Sine window of a ``size`` × ``size`` block, flattened to (size², 1)."""
    row = torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size)
    return torch.outer(row, row).reshape(-1, 1)
