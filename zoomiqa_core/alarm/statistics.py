"""Natural-scene statistics: features of an image that damage and tampering change.

Fixed, differentiable filters. At three scales, for the luma and two colour
differences: strength and distribution of each band of detail, correlation of neighbouring pixels
in eight directions, distribution of local contrast. For the whole image: tone, colourfulness, and
patterns that repeat every eight pixels.

After Mittal et al., "No-reference image quality assessment in the spatial domain" (TIP 2012), and
Ghadiyaram and Bovik, "Perceptual quality prediction on authentically distorted images using a bag
of features approach" (JoV 2017). Departures: the logarithms of three norms replace the fitted shape
of a generalised Gaussian, which is a function of their differences; 7 x 7 means replace the
Gaussian window; soft counts replace quantiles, so that every feature has a gradient everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.alarm.reference import WINDOW, local_mean, opponent

SCALES = 3
PADDED_SIDE = 48
"""Shorter sides, in px, are padded to this by repeating the border."""
FAINT = 0.25 / 255
"""Keeps magnitudes and logarithms smooth at zero: a quarter of an 8-bit step."""
CONTRASTS = (0.004, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Local standard deviations; the share of the image below each is a feature."""
LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2))
"""Offsets (down, right) in px between correlated neighbours."""
PERIOD = 8

_FILTERS = {
    "across": ((-1, 1),),
    "down": ((-1,), (1,)),
    "diagonal": ((-1, 0), (0, 1)),
    "antidiagonal": ((0, -1), (1, 0)),
    "checkered": ((1, -1), (-1, 1)),
    "laplacian": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    "stripes": ((-1, 2, -1),),
    "rungs": ((-1,), (2,), (-1,)),
}
"""Kernels, each scaled to unit norm: white noise has the same strength in all of them."""
_OF_COLOUR = ("across", "down", "checkered", "laplacian")


def statistics(images: Tensor) -> Tensor:
    """All features of (B, 3, H, W) images in [0, 1]: (B, ``COUNT``), at least fp32.

    >>> statistics(torch.rand(2, 3, 64, 80)).shape
    torch.Size([2, 307])
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    bottom, right = (max(0, PADDED_SIDE - side) for side in images.shape[-2:])
    images = functional.pad(images, (0, right, 0, bottom), mode="replicate")
    channels = opponent(images)
    features, finer = [tone(images, channels), periodicity(channels)], None
    for scale in range(SCALES):
        if scale:
            channels = functional.avg_pool2d(channels, 2)
        mean, logs = local_contrast(channels)
        detail = channels[:, :1] - mean[:, :1]
        features += [bands(channels), contrast(logs), structure(detail, logs)]
        if finer is not None:  # edges of photos have contrast at all scales, tampering often at one
            features.append(
                _correlation(*map(_centred, (functional.avg_pool2d(finer, 2), logs[:, :1])))
            )
        finer = logs[:, :1]
    return torch.cat(features, 1)


def tone(images: Tensor, channels: Tensor) -> Tensor:
    """Tone and colour of the whole image: (B, 14).

    Means and spreads of colour and saturation, contrast between 16 px blocks, shares of black and
    white pixels, skewness of the luma.

    >>> images = torch.rand(2, 3, 64, 80)
    >>> tone(images, opponent(images)).shape
    torch.Size([2, 14])
    """
    saturation = images.amax(1) - images.amin(1)
    coarse = functional.avg_pool2d(channels, 16, 8)
    clipped = [((0.02 - images) / 0.01).sigmoid(), ((images - 0.98) / 0.01).sigmoid()]
    centred = channels[:, 0] - channels[:, 0].mean((1, 2), keepdim=True)
    spread = _log_rms(centred)
    parts = [
        channels.mean((2, 3)),
        _log_rms(_centred(channels)),
        _log_rms(_centred(coarse)),
        *(_column(x.mean((1, 2, 3))) for x in clipped),
        _column(saturation.mean((1, 2))),
        _column(_log_rms(saturation - saturation.mean((1, 2), keepdim=True))),
        _column(centred.pow(3).mean((1, 2)) / (3 * spread).exp()),
    ]
    return torch.cat(parts, 1)


def periodicity(channels: Tensor) -> Tensor:
    """Strength of patterns that repeat every eight pixels, such as JPEG's blocks: (B, 24).

    The mean step between neighbours as a function of the pixel's index modulo 8, along rows and
    along columns; of that profile, log-amplitudes of its waves of 8, 4, 8/3 and 2 px relative to
    its mean. They do not depend on where the blocks begin.

    >>> smooth = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    >>> blocks = torch.nn.functional.avg_pool2d(smooth, 8).repeat_interleave(8, -1)
    >>> blocks = blocks.repeat_interleave(8, -2)
    >>> [round(float(periodicity(x)[0, 0]), 1) for x in (smooth, blocks)]
    [-6.9, -0.1]
    """
    amplitudes = []
    for dim in (-1, -2):
        steps = _softened(channels.diff(dim=dim)).mean(-2 if dim == -1 else -1)  # (B, 3, steps)
        steps = steps[..., : steps.shape[-1] // PERIOD * PERIOD]
        profile = steps.unflatten(-1, (-1, PERIOD)).mean(-2)
        profile = profile / profile.mean(-1, keepdim=True) - 1
        turns = 2 * math.pi * torch.arange(PERIOD, device=channels.device) / PERIOD
        for wave in range(1, PERIOD // 2 + 1):
            real = (profile * (wave * turns).cos()).mean(-1)
            imaginary = (profile * (wave * turns).sin()).mean(-1)
            amplitudes.append((real.square() + imaginary.square() + 1e-6).log() / 2)
    return torch.cat(amplitudes, 1)


def bands(channels: Tensor) -> Tensor:
    """Strength of each band of detail, and its correlation between colours and luma: (B, 56)."""
    features = []
    for name in _FILTERS:
        detail = _filtered(channels if name in _OF_COLOUR else channels[:, :1], name)
        features.append(_norms(detail))
        if name in _OF_COLOUR:
            features.append(_correlation(detail[:, 1:], detail[:, :1]))
    return torch.cat(features, 1)


def local_contrast(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log of the standard deviation over 7 x 7 px: two (B, C, h, w)."""
    mean = local_mean(channels, WINDOW)
    variance = (local_mean(channels.square(), WINDOW) - mean.square()).clamp_min(0)
    return mean, (variance + FAINT**2).log() / 2


def contrast(logs: Tensor) -> Tensor:
    """Features of the log local contrast (B, 3, h, w) of one scale: (B, 14).

    Mean and spread of each channel, correlation of the colours' with the luma's, and the share of
    the image where the luma's is below each of ``CONTRASTS``.
    """
    centred = _centred(logs)
    shares = [((math.log(c) - logs[:, 0]) / 0.3).sigmoid().mean((1, 2)) for c in CONTRASTS]
    together = _correlation(centred[:, 1:], centred[:, :1])
    return torch.cat([logs.mean((2, 3)), _log_rms(centred), together, torch.stack(shares, 1)], 1)


def structure(detail: Tensor, logs: Tensor) -> Tensor:
    """Features of the luma's detail divided by its local contrast (MSCN): (B, 19).

    Three norms and the skewness; the correlation of neighbours at every lag, and the mean magnitude
    of the products of the four nearest; the strength of patterns of period 2, 4 and 8 px.
    """
    normalised = detail / (logs[:, :1].exp() + 4 * FAINT)
    power = normalised.square().mean((1, 2, 3)) + 1e-3
    features = [_norms(normalised), _column(normalised.pow(3).mean((1, 2, 3)) / power.pow(1.5))]
    for index, (down, right) in enumerate(LAGS):
        products = _neighbour_products(normalised, down, right)
        features.append(_column(products.mean((1, 2, 3)) / power))
        if index < 4:
            features.append(_column(_softened(products).mean((1, 2, 3)) / power))
    for period in (2, 4, 8):
        height, width = (side // period * period for side in normalised.shape[-2:])
        tile = functional.pixel_unshuffle(normalised[..., :height, :width], period).mean((2, 3))
        features.append(_column((tile.square().mean(1) + 1e-6).log() / 2))
    return torch.cat(features, 1)


def _norms(values: Tensor) -> Tensor:
    """Logs of root mean square, mean and geometric mean magnitude: (B, C, h, w) → (B, 3C)."""
    squares = values.square() + FAINT**2
    logs = [squares.mean((2, 3)).log() / 2, squares.sqrt().mean((2, 3)).log()]
    return torch.cat([*logs, squares.log().mean((2, 3)) / 2], 1)


def _correlation(values: Tensor, other: Tensor) -> Tensor:
    """Correlation of (B, C, h, w) with (B, 1, h, w), both of about zero mean: (B, C)."""
    power = values.square().mean((2, 3)) + FAINT**2, other.square().mean((2, 3)) + FAINT**2
    return (values * other).mean((2, 3)) / (power[0] * power[1]).sqrt()


def _neighbour_products(values: Tensor, down: int, right: int) -> Tensor:
    """Each pixel times the one ``down`` and ``right`` of it."""
    height, width = values.shape[-2:]
    first = values[..., : height - down, max(0, -right) : width - max(0, right)]
    second = values[..., down:, max(0, right) : width + min(0, right)]
    return first * second


def _filtered(channels: Tensor, name: str) -> Tensor:
    """Each channel filtered without padding: (B, C, h, w) → (B, C, h', w')."""
    kernel = _FILTERS[name]
    height = channels.shape[-2] - len(kernel) + 1
    width = channels.shape[-1] - len(kernel[0]) + 1
    norm = math.sqrt(sum(weight**2 for row in kernel for weight in row))
    filtered = channels.new_zeros(*channels.shape[:2], height, width)
    for y, row in enumerate(kernel):
        for x, weight in enumerate(row):
            if weight:
                filtered = filtered + weight / norm * channels[..., y : y + height, x : x + width]
    return filtered


def _centred(values: Tensor) -> Tensor:
    return values - values.mean((2, 3), keepdim=True)


def _log_rms(values: Tensor) -> Tensor:
    """Log of the root mean square over the last two axes."""
    return (values.square().mean((-2, -1)) + FAINT**2).log() / 2


def _softened(values: Tensor) -> Tensor:
    """Magnitudes that are smooth at zero."""
    return (values.square() + FAINT**2).sqrt()


def _column(values: Tensor) -> Tensor:
    return values[:, None]


COUNT = 14 + 24 + SCALES * (56 + 14 + 19) + (SCALES - 1)
"""Features of one image."""
