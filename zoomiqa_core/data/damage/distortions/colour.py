"""Colour diffusion, shift, quantisation and saturation."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoomiqa_core.data.damage.distortions.blur import gaussian_blur
from zoomiqa_core.data.damage.distortions.codec import from_pil, to_pil

SHIFT_MASK_SIGMA = 4.0
"""Blur in px of the gradient magnitude that masks the colour shift."""
PALETTE_GRID = 64
"""A palette is computed from this many pixels a side: all would take 40× the time for 0.3 dB."""


def colour_diffusion(images: Tensor, amount: float) -> Tensor:
    """Blur CIELAB a, b of (B, 3, H, W) with σ = 1.5·amount + 2 px and multiply them by ``amount``.

    KADID's ``imcolordiffuse``: level 1 spreads the colours, higher levels also exaggerate them.

    >>> grey = torch.full((1, 3, 16, 16), 0.5)  # no colour to spread
    >>> torch.allclose(colour_diffusion(grey, 3.0), grey, atol=1e-3)
    True
    """
    from kornia.color import lab_to_rgb, rgb_to_lab

    lightness, chroma = rgb_to_lab(images).split((1, 2), dim=1)
    chroma = amount * gaussian_blur(chroma, 1.5 * amount + 2.0)
    return lab_to_rgb(torch.cat((lightness, chroma), dim=1))


def colour_shift(images: Tensor, amount: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Displace the green channel of (B, 3, H, W) by ``amount`` px where there is structure.

    KADID's ``imcolorshift``: the direction is the unit vector of two uniform numbers (down and to
    the right), rounded to whole pixels; the blend weight is the blurred gradient magnitude,
    stretched between its 1st and 99th percentiles.
    """
    green = images[:, 1:2]
    weight = _structure_mask(images)
    height, width = green.shape[-2:]
    shifted = []
    for channel, generator in zip(green, generators, strict=True):
        direction = torch.rand(2, generator=generator, dtype=torch.float64) + 1e-9
        step = (amount * direction / direction.norm()).round()
        down, right = min(int(step[0]), height - 1), min(int(step[1]), width - 1)
        padded = F.pad(channel[None], (right, 0, down, 0), mode="replicate")[0]
        shifted.append(padded[:, :height, :width])
    green = torch.lerp(green, torch.stack(shifted), weight)
    return torch.cat((images[:, :1], green, images[:, 2:]), dim=1)


def colour_quantisation(images: Tensor, colours: int) -> Tensor:
    """Reduce each image of (B, 3, H, W) to ``colours`` colours with error diffusion.

    MATLAB's ``rgb2ind(I, n)`` cuts by minimum variance and dithers; here Pillow's median cut on a
    grid of at most 64×64 pixels, refined by k-means (which minimises that variance), and
    Floyd–Steinberg dithering.

    >>> ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    >>> colour_quantisation(ramp, 4).unique().numel()
    4
    """
    from PIL import Image

    results = []
    for image in to_pil(images):
        grid = min(image.width, PALETTE_GRID), min(image.height, PALETTE_GRID)
        sample = image.resize(grid, Image.Resampling.NEAREST)
        palette = sample.quantize(colours, method=Image.Quantize.MEDIANCUT, kmeans=1)
        indexed = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        results.append(indexed.convert("RGB"))
    return from_pil(results).to(images)


def hsv_saturation(images: Tensor, factor: float) -> Tensor:
    """Multiply the HSV saturation of (B, 3, H, W) by ``factor``; hue and value stay the same.

    In HSV a channel is c = V − V·S·g(hue), so c' = V + factor·(c − V) exactly. A negative factor
    gives complementary colours brighter than V.

    >>> orange = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    >>> hsv_saturation(orange, 0.4).flatten()
    tensor([1.0000, 0.8000, 0.6000])
    """
    value = images.amax(dim=1, keepdim=True)
    return value + factor * (images - value)


def lab_chroma(images: Tensor, factor: float) -> Tensor:
    """Multiply CIELAB a, b of (B, 3, H, W) by ``factor``; lightness stays the same.

    >>> orange = torch.tensor([0.8, 0.5, 0.3]).view(1, 3, 1, 1)
    >>> lab_chroma(orange, 0.0).flatten().round(decimals=2)  # grey
    tensor([0.5700, 0.5700, 0.5700])
    """
    from kornia.color import lab_to_rgb, rgb_to_lab

    lightness, chroma = rgb_to_lab(images).split((1, 2), dim=1)
    return lab_to_rgb(torch.cat((lightness, factor * chroma), dim=1))


def _structure_mask(images: Tensor) -> Tensor:
    """Blurred gradient magnitude of (B, 3, H, W), stretched to [0, 1] per image: (B, 1, H, W)."""
    from kornia.color import rgb_to_grayscale
    from kornia.filters import spatial_gradient

    gradient = spatial_gradient(rgb_to_grayscale(images), mode="diff", normalized=False)
    magnitude = torch.linalg.vector_norm(gradient, dim=2)
    mask = gaussian_blur(magnitude, SHIFT_MASK_SIGMA).flatten(1)
    mask = _stretch(mask, mask.amin(dim=1), mask.amax(dim=1)).clamp(min=0.1)
    rank = max(math.ceil(0.01 * mask.shape[1]), 1)
    low = mask.kthvalue(rank, dim=1).values
    high = mask.kthvalue(mask.shape[1] - rank + 1, dim=1).values
    return _stretch(mask, low, high).clamp(0.0, 1.0).view_as(magnitude)


def _stretch(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map ``low`` to 0 and ``high`` to 1 per row of (B, N); a flat row maps to 0."""
    span = (high - low)[:, None]
    return (values - low[:, None]) / torch.where(span > 1e-6, span, torch.ones_like(span))
