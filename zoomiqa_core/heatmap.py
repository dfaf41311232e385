"""Pictures of quality maps, for people: where is this image good, where is it bad?"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox
from zoomiqa_core.images import ImageSource, read_image, to_pil

COLOUR_MAP = "viridis"
"""Perceptually uniform, ordered for colour-blind eyes and in grey print: dark violet is bad,
yellow is excellent (S. van der Walt and N. Smith, matplotlib 2.0)."""

_TINT = 0.65  # share of the colour map in the overlay; the rest is the image in grey
_PANEL_MIN, _PANEL_MAX = 384, 1024  # longer side of the drawn image, pixels
_BOX_COLOUR = (220, 30, 30)  # absent from the colour map, and edged in white


def worst_region(
    quality_map: Tensor, fraction: float = 0.25, *, weight: Tensor | None = None
) -> BBox:
    """The window of the map with the lowest mean rating, as a normalised xyxy box.

    The window has the map's aspect and covers ``fraction`` of its area, rounded to whole cells
    (at least one). Of equal windows the first in reading order is taken.

    Args:
        quality_map: (1, h, w) ratings, finite.
        fraction: Share of the image's area, in (0, 1].
        weight: (1, h, w) non-negative weights of the mean, e.g. a judge's patch weights; windows
            without weight are passed over.

    Raises:
        ValueError: Another shape, values that are not finite, or no weight anywhere.
    """
    _check_map(quality_map)
    if not 0 < fraction <= 1:
        raise ValueError(f"expected fraction in (0, 1], got {fraction}")
    weights = torch.ones_like(quality_map) if weight is None else weight
    if weights.shape != quality_map.shape or not (weights >= 0).all() or not weights.any():
        raise ValueError("expected weights of the map's shape, none negative and not all zero")
    _, height, width = quality_map.shape
    window_h = max(1, round(height * math.sqrt(fraction)))
    window_w = max(1, round(width * math.sqrt(fraction)))
    weights = weights.double()
    mass = _window_sums(weights, window_h, window_w)
    total = _window_sums(quality_map.double() * weights, window_h, window_w)
    # Sums of differences leave rounding errors near 1e-16 of the whole where there is no weight.
    mean = torch.where(mass > 1e-9 * weights.sum(), total / mass, torch.inf)
    # Rounded, so that windows equal but for the order of summation tie.
    y, x = divmod(int(mean.mul(1e9).round().argmin()), mean.shape[1])
    return (x / width, y / height, (x + window_w) / width, (y + window_h) / height)


def draw_map(
    image: ImageSource,
    quality_map: Tensor,
    bbox: BBox | None = None,
    rating: float | None = None,
) -> Image.Image:
    """Draw a quality map over its image, with a colour bar from 1 (bad) to 5 (excellent).

    The image shows through in grey. The scale is fixed, so that pictures compare; ratings beyond
    it take the colours of its ends. Images with a longer side under 384 or over 1024 pixels are
    resized to those.

    Args:
        image: Whatever :func:`zoomiqa_core.images.read_image` accepts.
        quality_map: (1, h, w) ratings, 1–5; any h and w, stretched over the image.
        bbox: Normalised xyxy box of the worst region, see :func:`worst_region`.
        rating: Rating written at the box.

    Raises:
        ImageError: The image cannot be read.
        ValueError: The map has another shape, or values that are not finite.
    """
    _check_map(quality_map)
    pixels = read_image(image).pixels
    height, width = _panel_size(*pixels.shape[1:])
    mode = "bilinear" if max(height, width) > max(pixels.shape[1:]) else "area"
    pixels = F.interpolate(pixels[None], (height, width), mode=mode)[0]
    ratings = F.interpolate(
        quality_map[None].detach().float().cpu(), (height, width), mode="bilinear"
    )[0, 0]
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    panel = to_pil(_TINT * _colours(ratings) + (1 - _TINT) * grey)

    unit = max(width, height) / 40
    font = ImageFont.load_default(size=unit)
    if bbox is not None:
        _draw_box(ImageDraw.Draw(panel), bbox, rating, font, unit)
    bar = _colour_bar(max(height, round(16 * unit)), font, unit)
    canvas = Image.new("RGB", (width + bar.width, max(height, bar.height)), "white")
    canvas.paste(panel, (0, 0))
    canvas.paste(bar, (width, 0))
    return canvas


def _check_map(quality_map: Tensor) -> None:
    if quality_map.ndim != 3 or quality_map.shape[0] != 1 or quality_map.numel() == 0:
        raise ValueError(f"expected a map (1, h, w), got {tuple(quality_map.shape)}")
    if not quality_map.isfinite().all():
        raise ValueError("the map has NaN or infinite ratings; there is nothing to draw or rank")


def _window_sums(values: Tensor, height: int, width: int) -> Tensor:
    """Sums over all (height, width) windows of (1, h, w), by an integral image."""
    integral = F.pad(values[0].cumsum(0).cumsum(1), (1, 0, 1, 0))
    rows = integral[height:] - integral[:-height]
    return rows[:, width:] - rows[:, :-width]


def _panel_size(height: int, width: int) -> tuple[int, int]:
    longer = max(height, width)
    scale = min(max(longer, _PANEL_MIN), _PANEL_MAX) / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def _colours(ratings: Tensor) -> Tensor:
    """Ratings (h, w) → colours (3, h, w) in [0, 1]."""
    import matplotlib

    share = (ratings - MIN_RATING) / (MAX_RATING - MIN_RATING)
    rgba = matplotlib.colormaps[COLOUR_MAP](share.clamp(0, 1).numpy())
    return torch.from_numpy(np.ascontiguousarray(rgba[..., :3])).permute(2, 0, 1).float()


def _draw_box(
    draw: ImageDraw.ImageDraw, bbox: BBox, rating: float | None, font, unit: float
) -> None:
    width, height = draw.im.size
    line = max(2, round(unit / 5))
    x0, x1 = (round(x * (width - 1)) for x in bbox[::2])
    y0, y1 = (round(y * (height - 1)) for y in bbox[1::2])
    draw.rectangle((x0, y0, x1, y1), outline="white", width=2 * line)
    draw.rectangle((x0, y0, x1, y1), outline=_BOX_COLOUR, width=line)
    if rating is None:
        return
    text, pad = f"worst region: {rating:.2f}", unit / 4
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = max(0, min(x0, width - right - 2 * pad))
    y = max(0, min(y0, height - bottom - 2 * pad))
    draw.rectangle((x, y, x + right + 2 * pad, y + bottom + 2 * pad), fill=_BOX_COLOUR)
    draw.text((x + pad, y + pad), text, fill="white", font=font)


def _colour_bar(height: int, font, unit: float) -> Image.Image:
    """The scale with its five ratings, as high as the panel."""
    bar = Image.new("RGB", (round(9 * unit), height), "white")
    draw = ImageDraw.Draw(bar)
    top, bottom = 2.5 * unit, height - unit
    length = round(bottom - top)
    scale = torch.linspace(MAX_RATING, MIN_RATING, length).unsqueeze(1)
    colours = to_pil(_colours(scale)).resize((round(1.2 * unit), length))
    bar.paste(colours, (round(unit), round(top)))
    draw.text((unit, unit), "rating", fill="black", font=font, anchor="lm")
    names = {5: "excellent", 4: "good", 3: "fair", 2: "poor", 1: "bad"}
    for value, name in names.items():
        y = top + (MAX_RATING - value) / (MAX_RATING - MIN_RATING) * (length - 1)
        draw.text((2.6 * unit, y), f"{value} {name}", fill="black", font=font, anchor="lm")
    return bar
