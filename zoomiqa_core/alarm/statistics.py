"""Statistics of natural scenes: what a photo's detail follows and damage or tampering breaks.

Hand-made, of fixed filters, differentiable. At three scales, of the luma and two colour
differences: how strong each band of detail is and how its values are spread, how neighbours go
together along and across every direction, how local contrast is spread over the image; and of the
whole, its tone, its colourfulness and what repeats every eight pixels.

After Mittal et al., "No-reference image quality assessment in the spatial domain" (TIP 2012), and
Ghadiyaram and Bovik, "Perceptual quality prediction on authentically distorted images using a bag
of features approach" (JoV 2017). Departures: instead of a generalised Gaussian's fitted shape, the
logarithms of three norms, of whose differences the shape is a function; 7 x 7 means, no Gaussian
window; soft counts, no quantiles, so that every number has a gradient everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.alarm.reference import WINDOW, local_mean, opponent

SCALES = 3
MIN_SIDE = 48
"""Sides below it, in px, are continued by their border."""
FAINT = 0.25 / 255
"""Softens every absolute value and logarithm: a quarter of an 8-bit step."""
CONTRASTS = (0.004, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Local standard deviations whose share of the image is counted."""
LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2))
"""(down, right) in px between neighbours."""
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
"""Each is divided by its root of the sum of squares: white noise answers all alike."""
_OF_COLOUR = ("across", "down", "checkered", "laplacian")


def statistics(images: Tensor) -> Tensor:
    """All statistics of (B, 3, H, W) in [0, 1]: (B, ``COUNT``), in fp32 at least."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    bottom, right = (max(0, MIN_SIDE - side) for side in images.shape[-2:])
    images = functional.pad(images, (0, right, 0, bottom), mode="replicate")
    channels = opponent(images)
    found, finer = [tone(images, channels), periodicity(channels)], None
    for scale in range(SCALES):
        if scale:
            channels = functional.avg_pool2d(channels, 2)
        mean, logs = local_contrast(channels)
        found += [bands(channels), contrast(logs), structure(channels[:, :1] - mean[:, :1], logs)]
        if finer is not None:  # edges of photos have contrast at all scales, tampering often at one
            found.append(
                _correlation(*map(_centred, (functional.avg_pool2d(finer, 2), logs[:, :1])))
            )
        finer = logs[:, :1]
    return torch.cat(found, 1)


def tone(images: Tensor, channels: Tensor) -> Tensor:
    """Means and spreads of colour, saturation, contrast over 16 px, shares of black and white."""
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
    """How far the strength of steps depends on a pixel's place in a period of eight: (B, 24).

    The profile over the eight places, along rows and along columns, as amplitudes of its waves of
    8, 4, 8/3 and 2 px relative to its mean: blocks of JPEG wherever they begin, and grids.
    """
    found = []
    for dim in (-1, -2):
        steps = _softened(channels.diff(dim=dim)).mean(-2 if dim == -1 else -1)  # (B, 3, places)
        steps = steps[..., : steps.shape[-1] // PERIOD * PERIOD]
        profile = steps.unflatten(-1, (-1, PERIOD)).mean(-2)
        profile = profile / profile.mean(-1, keepdim=True) - 1
        turns = 2 * math.pi * torch.arange(PERIOD, device=channels.device) / PERIOD
        for wave in range(1, PERIOD // 2 + 1):
            real = (profile * (wave * turns).cos()).mean(-1)
            imaginary = (profile * (wave * turns).sin()).mean(-1)
            found.append((real.square() + imaginary.square() + 1e-6).log() / 2)
    return torch.cat(found, 1)


def bands(channels: Tensor) -> Tensor:
    """Three norms of every band of each channel, and how colours' detail goes with the luma's."""
    found = []
    for name in _FILTERS:
        detail = _filtered(channels if name in _OF_COLOUR else channels[:, :1], name)
        found.append(_norms(detail))
        if name in _OF_COLOUR:
            found.append(_correlation(detail[:, 1:], detail[:, :1]))
    return torch.cat(found, 1)


def local_contrast(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the standard deviation over 7 x 7 px: (B, C, h, w) both."""
    mean = local_mean(channels, WINDOW)
    variance = (local_mean(channels.square(), WINDOW) - mean.square()).clamp_min(0)
    return mean, (variance + FAINT**2).log() / 2


def contrast(logs: Tensor) -> Tensor:
    """Of the logarithm of local contrast (B, 3, h, w): (B, 14).

    Mean and spread of each channel's, how the colours' goes with the luma's, and the share of the
    image whose luma lies below each of ``CONTRASTS``.
    """
    centred = _centred(logs)
    shares = [((math.log(c) - logs[:, 0]) / 0.3).sigmoid().mean((1, 2)) for c in CONTRASTS]
    together = _correlation(centred[:, 1:], centred[:, :1])
    return torch.cat([logs.mean((2, 3)), _log_rms(centred), together, torch.stack(shares, 1)], 1)


def structure(detail: Tensor, logs: Tensor) -> Tensor:
    """Of the luma's detail divided by its local contrast (MSCN): (B, 19).

    Three norms and the skewness; the correlation of neighbours at every lag, and the mean magnitude
    of the four nearest ones' products; how much is the same in every 2nd, 4th and 8th pixel.
    """
    normalised = detail / (logs[:, :1].exp() + 4 * FAINT)
    power = normalised.square().mean((1, 2, 3)) + 1e-3
    found = [_norms(normalised), _column(normalised.pow(3).mean((1, 2, 3)) / power.pow(1.5))]
    for number, (down, right) in enumerate(LAGS):
        products = _neighbours(normalised, down, right)
        found.append(_column(products.mean((1, 2, 3)) / power))
        if number < 4:
            found.append(_column(_softened(products).mean((1, 2, 3)) / power))
    for period in (2, 4, 8):
        height, width = (side // period * period for side in normalised.shape[-2:])
        tile = functional.pixel_unshuffle(normalised[..., :height, :width], period).mean((2, 3))
        found.append(_column((tile.square().mean(1) + 1e-6).log() / 2))
    return torch.cat(found, 1)


def _norms(values: Tensor) -> Tensor:
    """Logarithms of root mean square, mean and geometric mean magnitude: (B, C, h, w) → (B, 3C)."""
    squares = values.square() + FAINT**2
    found = [squares.mean((2, 3)).log() / 2, squares.sqrt().mean((2, 3)).log()]
    return torch.cat([*found, squares.log().mean((2, 3)) / 2], 1)


def _correlation(values: Tensor, other: Tensor) -> Tensor:
    """(B, C, h, w) with (B, 1, h, w), both of about zero mean: (B, C) in [−1, 1]."""
    power = values.square().mean((2, 3)) + FAINT**2, other.square().mean((2, 3)) + FAINT**2
    return (values * other).mean((2, 3)) / (power[0] * power[1]).sqrt()


def _neighbours(values: Tensor, down: int, right: int) -> Tensor:
    """Products of pixels and those ``down`` and ``right`` of them."""
    height, width = values.shape[-2:]
    first = values[..., : height - down, max(0, -right) : width - max(0, right)]
    second = values[..., down:, max(0, right) : width + min(0, right)]
    return first * second


def _filtered(channels: Tensor, name: str) -> Tensor:
    """(B, C, h, w) → (B, C, h', w'), channel by channel, without a border."""
    kernel = _FILTERS[name]
    height = channels.shape[-2] - len(kernel) + 1
    width = channels.shape[-1] - len(kernel[0]) + 1
    norm = math.sqrt(sum(weight**2 for row in kernel for weight in row))
    found = channels.new_zeros(*channels.shape[:2], height, width)
    for y, row in enumerate(kernel):
        for x, weight in enumerate(row):
            if weight:
                found = found + weight / norm * channels[..., y : y + height, x : x + width]
    return found


def _centred(values: Tensor) -> Tensor:
    return values - values.mean((2, 3), keepdim=True)


def _log_rms(values: Tensor) -> Tensor:
    """(B, C, h, w) or (B, h, w) → (B, C) or (B,)."""
    return (values.square().mean((-2, -1)) + FAINT**2).log() / 2


def _softened(values: Tensor) -> Tensor:
    """Magnitudes, smooth at zero."""
    return (values.square() + FAINT**2).sqrt()


def _column(values: Tensor) -> Tensor:
    return values[:, None]


COUNT = 14 + 24 + SCALES * (56 + 14 + 19) + (SCALES - 1)
"""Statistics of one image."""
