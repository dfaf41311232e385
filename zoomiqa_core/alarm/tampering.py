"""Imitations of over-optimised images, made without a judge, on which the alarm is trained.

Each operator maps (3, H, W) in [0, 1] to the same shape, with random strength from a CPU generator;
:func:`tamper` picks one and clamps its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.alarm.reference import local_mean, opponent
from zoomiqa_core.data.damage.restoration import gaussian_kernel
from zoomiqa_core.runs.random import below


def tamper(image: Tensor, *, generator: torch.Generator, local: float = 0.25) -> Tensor:
    """Apply a random operator of ``OPERATORS`` to (3, H, W); with probability ``local`` in a part.

    >>> tampered = tamper(torch.rand(3, 64, 64), generator=torch.Generator().manual_seed(0))
    >>> tampered.shape
    torch.Size([3, 64, 64])
    """
    operator = list(OPERATORS.values())[below(len(OPERATORS), generator)]
    changed = operator(image, generator).clamp(0, 1)
    if _uniform(0, 1, generator) < local:
        mask = (3 * _field(image[:1], 32, generator)).sigmoid()
        changed = torch.lerp(image, changed, mask)
    return changed


def sharpened(image: Tensor, generator: torch.Generator) -> Tensor:
    """Sharpen by an unsharp mask of σ .6–2.5 px, gain .2–4."""
    smooth = _smooth(image, _uniform(0.6, 2.5, generator))
    return image + _log_uniform(0.2, 4.0, generator) * (image - smooth)


def blurred(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blur by a Gaussian of σ .3–2.5 px."""
    return _smooth(image, _log_uniform(0.3, 2.5, generator))


def flattened(image: Tensor, generator: torch.Generator) -> Tensor:
    """Remove detail, keep edges: the self-guided filter (He et al., TPAMI 2013)."""
    window, strength = 2 * below(4, generator) + 3, _log_uniform(0.01, 0.1, generator) ** 2
    mean = local_mean(image, window)
    variance = local_mean(image * image, window) - mean * mean
    slope = variance / (variance + strength)
    return local_mean(slope, window) * image + local_mean((1 - slope) * mean, window)


def spectrum(image: Tensor, generator: torch.Generator) -> Tensor:
    """Change the spectrum by a random smooth gain: haloes, ringing, bands lost or raised."""
    height, width = image.shape[-2:]
    rows = torch.fft.fftfreq(height)[:, None]
    columns = torch.fft.rfftfreq(width)[None]
    radius, angle = (rows**2 + columns**2).sqrt() * 2, torch.atan2(rows, columns)
    if _uniform(0, 1, generator) < 0.3:  # a sharp cut: Gibbs ringing
        cut, slope = _uniform(0.3, 0.9, generator), _log_uniform(0.005, 0.1, generator)
        gain = ((cut - radius) / slope).sigmoid()
    else:
        strength = _log_uniform(0.1, 1.2, generator)
        curve = torch.zeros(height, width // 2 + 1)
        for _ in range(3):
            centre, spread = _uniform(0.1, 1.2, generator), _uniform(0.05, 0.4, generator)
            bump = (-0.5 * ((radius - centre) / spread) ** 2).exp()
            if _uniform(0, 1, generator) < 0.3:  # in one direction only
                bump = bump * (angle - _uniform(-1.6, 1.6, generator)).cos() ** 4
            curve += _uniform(-1, 1, generator) * strength * bump
        gain = curve.exp()
    gain[0, 0] = 1.0  # the mean stays
    return torch.fft.irfft2(torch.fft.rfft2(image) * gain, s=(height, width))


def noised(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise of random grain and colour, standard deviation .003–.06."""
    noise = torch.randn(image.shape, generator=generator)
    if _uniform(0, 1, generator) < 0.5:
        noise = _smooth(noise, _uniform(0.4, 2.0, generator))
    if _uniform(0, 1, generator) < 0.5:
        noise = noise.mean(0, keepdim=True).expand_as(image)
    return image + _log_uniform(0.003, 0.06, generator) * noise / noise.std()


def signed(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add ±1–4/255, the sign of random features of the image, as an attack in the max norm does."""
    return image + _log_uniform(1, 4, generator) / 255 * _random_features(image, generator).sign()


def textured(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add a texture of random features of the image, RMS .004–.04."""
    texture = _random_features(image, generator)
    return image + _log_uniform(0.004, 0.04, generator) * texture / (texture.std() + 1e-6)


def patterned(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add stripes or a lattice of period 2–12 px in a random direction and colour, RMS .003–.04."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pattern = torch.ones(height, width)
    for _ in range(1 + below(2, generator)):
        period, angle = _log_uniform(2.0, 12.0, generator), _uniform(0, math.pi, generator)
        phase = _uniform(0, 2 * math.pi, generator)
        across = math.cos(angle) * x + math.sin(angle) * y
        pattern = pattern * (2 * math.pi * across / period + phase).cos()
    return image + _log_uniform(0.003, 0.04, generator) * _coloured(pattern, generator)


def gridded(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add a random tile of 2, 4 or 8 px, repeated over the image, in one colour, RMS .002–.03."""
    period = (2, 4, 8)[below(3, generator)]
    tile = torch.randn(period, period, generator=generator)
    repeats = [-(-side // period) for side in image.shape[-2:]]
    pattern = tile.repeat(*repeats)[: image.shape[-2], : image.shape[-1]]
    if _uniform(0, 1, generator) < 0.5:  # stronger on detail, as in the output of networks
        detail = (image - _smooth(image, 1.5)).abs().mean(0)
        pattern = pattern * _smooth(detail[None], 2.0)[0]
    return image + _log_uniform(0.002, 0.03, generator) * _coloured(pattern, generator)


def drifted(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add a smooth random field of 2–32 px grain, RMS .006–.06, per channel or grey."""
    field = _field(image, 2 ** (1 + below(5, generator)), generator)
    if _uniform(0, 1, generator) < 0.4:
        field = field[:1]
    return image + _log_uniform(0.006, 0.06, generator) * field


def toned(image: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, gamma, saturation and white balance together."""
    mean = image.mean((1, 2), keepdim=True)
    image = (image - mean) * _ratio(1.4, generator) + mean + _uniform(-0.08, 0.08, generator)
    image = image.clamp(1e-4, 1) ** _ratio(1.4, generator)
    grey = opponent(image[None])[0, :1]
    image = grey + (image - grey) * _ratio(1.8, generator)
    return image * (1 + 0.06 * torch.randn(3, 1, 1, generator=generator))


OPERATORS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    operator.__name__: operator
    for operator in (
        sharpened, blurred, flattened, spectrum, noised, signed, textured, patterned, gridded,
        drifted, toned,
    )
}  # fmt: skip


def _random_features(image: Tensor, generator: torch.Generator) -> Tensor:
    """(3, H, W) of zero mean: the image's detail through two layers of random filters."""
    hidden = 8
    weights = torch.randn(hidden, 3, 3, 3, generator=generator)
    weights = weights - weights.mean((2, 3), keepdim=True)  # no response to flat regions
    features = functional.conv2d(image[None], weights, padding=1)
    features = torch.tanh(features / (features.std() + 1e-3) * _log_uniform(0.5, 4.0, generator))
    mixing = torch.randn(3, hidden, 3, 3, generator=generator)
    out = functional.conv2d(features, mixing, padding=1)[0]
    return out - out.mean((1, 2), keepdim=True)


def _coloured(pattern: Tensor, generator: torch.Generator) -> Tensor:
    """An (H, W) pattern as (3, H, W) of unit RMS, grey or in a random colour."""
    if _uniform(0, 1, generator) < 0.5:
        colour = torch.ones(3, 1, 1)
    else:
        colour = torch.randn(3, 1, 1, generator=generator)
    coloured = colour * pattern
    return coloured / (coloured.square().mean().sqrt() + 1e-6)


def _field(like: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """A smooth random field of unit RMS with ``like``'s shape (C, H, W)."""
    coarse = [max(2, -(-side // factor)) for side in like.shape[-2:]]
    field = torch.randn(1, len(like), *coarse, generator=generator)
    field = functional.interpolate(field, size=like.shape[-2:], mode="bicubic")[0]
    return field / (field.square().mean().sqrt() + 1e-6)


def _smooth(image: Tensor, sigma: float) -> Tensor:
    kernel = gaussian_kernel(sigma, sigma, 0.0)
    row = kernel.sum(0)
    radius = len(row) // 2
    padded = functional.pad(image[:, None], (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, row.view(1, 1, 1, -1))
    return functional.conv2d(across, row.view(1, 1, -1, 1))[:, 0]


def _ratio(most: float, generator: torch.Generator) -> float:
    """Log-uniform factor between 1 / most and most."""
    return math.exp(_uniform(-1, 1, generator) * math.log(most))


def _log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Log-uniform draw from [low, high]."""
    return math.exp(_uniform(math.log(low), math.log(high), generator))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
