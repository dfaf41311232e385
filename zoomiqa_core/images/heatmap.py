"""Pictures of quality maps, for people: where is this image good, where is it bad?"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox
from zoomiqa_core.images.sources import ImageSource, read_image, to_pil

COLOUR_MAP = "viridis"
"""Perceptually uniform, ordered for colour-blind eyes and in grey print: dark violet is bad,
yellow is excellent (S. van der Walt and N. Smith, matplotlib 2.0)."""

RATING_NAMES = {1: "bad", 2: "poor", 3: "fair", 4: "good", 5: "excellent"}
"""Words of the rating scale (ITU-R BT.500)."""

BOX_COLOUR = (220, 30, 30)
"""Of boxes; absent from the colour map, and edged in white."""

_TINT = 0.65  # share of the colour map in the overlay; the rest is the image in grey
_PANEL_MIN, _PANEL_MAX = 384, 1024  # longer side of the drawn image, pixels


def worst_region(quality_map: Tensor, fraction: float = 0.25) -> BBox:
    """The window of the map with the lowest mean rating, as a normalised xyxy box.

    The window has the map's aspect and covers ``fraction`` of its area, rounded to whole cells
    (at least one). Of equal windows the first in reading order is taken.

    Args:
        quality_map: (1, h, w) ratings; NaN where there is none, which no mean counts.
        fraction: Share of the image's area, in (0, 1].

    Raises:
        ValueError: Another shape, infinite values, or no rating at all.
    """
    _check_map(quality_map)
    if not 0 < fraction <= 1:
        raise ValueError(f"expected fraction in (0, 1], got {fraction}")
    _, height, width = quality_map.shape
    window_h = max(1, round(height * math.sqrt(fraction)))
    window_w = max(1, round(width * math.sqrt(fraction)))
    rated = quality_map.isfinite().double()
    total = _window_sums(quality_map.double().nan_to_num(), window_h, window_w)
    count = _window_sums(rated, window_h, window_w).round()
    mean = torch.where(count > 0, total / count.clamp(min=1), math.inf)
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

    The image shows through in grey, and stays grey where there is no rating. The scale is fixed, so
    that pictures compare; ratings beyond it take the colours of its ends. Images with a longer side
    under 384 or over 1024 pixels are resized to those.

    Args:
        image: Whatever :func:`zoomiqa_core.images.sources.read_image` accepts.
        quality_map: (1, h, w) ratings, 1–5; any h and w, stretched over the image. NaN where
            there is none.
        bbox: Normalised xyxy box of the worst region, see :func:`worst_region`.
        rating: Rating written at the box.

    Raises:
        ImageError: The image cannot be read.
        ValueError: The map has another shape, infinite values, or no rating at all.
    """
    _check_map(quality_map)
    pixels = read_image(image).pixels
    height, width = _panel_size(*pixels.shape[1:])
    mode = "bilinear" if max(height, width) > max(pixels.shape[1:]) else "area"
    pixels = F.interpolate(pixels[None], (height, width), mode=mode)[0]
    panel = paint_map(pixels, quality_map)

    unit = max(width, height) / 40
    font = ImageFont.load_default(size=unit)
    if bbox is not None:
        draw_box(panel, bbox, max(2, round(unit / 5)))
        if rating is not None:
            _label_box(panel, bbox, rating, font, unit)
    bar = _colour_bar(max(height, round(16 * unit)), font, unit)
    canvas = Image.new("RGB", (width + bar.width, max(height, bar.height)), "white")
    canvas.paste(panel, (0, 0))
    canvas.paste(bar, (width, 0))
    return canvas


def paint_map(pixels: Tensor, quality_map: Tensor) -> Image.Image:
    """The map's colours over the image in grey, on the image's grid.

    Args:
        pixels: (3, H, W) in [0, 1].
        quality_map: (1, h, w) ratings, 1–5, stretched over the image.
    """
    ratings = quality_map[None].detach().float().cpu()
    size, rated = pixels.shape[1:], ratings.isfinite().float()
    # Cells without a rating neither colour their own place nor their neighbours'.
    share = F.interpolate(rated, size, mode="bilinear")[0, 0]
    sums = F.interpolate(ratings.nan_to_num(), size, mode="bilinear")[0, 0]
    tint = _TINT * F.interpolate(rated, size, mode="nearest")[0]
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    return to_pil(tint * _colours(sums / share.clamp(min=1e-6)) + (1 - tint) * grey)


def draw_box(picture: Image.Image, bbox: BBox, line: int) -> None:
    """Draw a normalised xyxy box into the picture, ``line`` pixels wide and edged in white."""
    x0, y0, x1, y1 = _corners(bbox, picture.size)
    line = max(1, min(line, min(x1 - x0, y1 - y0) // 4))  # never filled, however small
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x0, y0, x1, y1), outline="white", width=2 * line)
    draw.rectangle((x0, y0, x1, y1), outline=BOX_COLOUR, width=line)


def colour_strip(length: int, thickness: int) -> Image.Image:
    """The colour scale as a horizontal strip, from 1 at the left to 5 at the right."""
    ratings = torch.linspace(MIN_RATING, MAX_RATING, length)
    return to_pil(_colours(ratings.expand(thickness, length)))


def _check_map(quality_map: Tensor) -> None:
    if quality_map.ndim != 3 or quality_map.shape[0] != 1 or quality_map.numel() == 0:
        raise ValueError(f"expected a map (1, h, w), got {tuple(quality_map.shape)}")
    if quality_map.isinf().any() or not quality_map.isfinite().any():
        raise ValueError("the map has infinite ratings, or none; there is nothing to draw or rank")


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


def _corners(bbox: BBox, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box's first and last pixels: x0, y0, x1, y1."""
    width, height = size
    x0, x1 = (round(x * (width - 1)) for x in bbox[::2])
    y0, y1 = (round(y * (height - 1)) for y in bbox[1::2])
    return x0, y0, x1, y1


def _label_box(picture: Image.Image, bbox: BBox, rating: float, font, unit: float) -> None:
    """Write the rating at the box's upper left corner, inside the picture."""
    draw = ImageDraw.Draw(picture)
    x0, y0, _, _ = _corners(bbox, picture.size)
    text, pad = f"worst region: {rating:.2f}", unit / 4
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = max(0, min(x0, picture.width - right - 2 * pad))
    y = max(0, min(y0, picture.height - bottom - 2 * pad))
    draw.rectangle((x, y, x + right + 2 * pad, y + bottom + 2 * pad), fill=BOX_COLOUR)
    draw.text((x + pad, y + pad), text, fill="white", font=font)


def _colour_bar(height: int, font, unit: float) -> Image.Image:
    """The scale with its five ratings, as high as the panel."""
    bar = Image.new("RGB", (round(9 * unit), height), "white")
    draw = ImageDraw.Draw(bar)
    top, bottom = 2.5 * unit, height - unit
    length = round(bottom - top)
    strip = colour_strip(length, round(1.2 * unit)).transpose(Image.Transpose.ROTATE_90)
    bar.paste(strip, (round(unit), round(top)))
    draw.text((unit, unit), "rating", fill="black", font=font, anchor="lm")
    for value, name in RATING_NAMES.items():
        y = top + (MAX_RATING - value) / (MAX_RATING - MIN_RATING) * (length - 1)
        draw.text((2.6 * unit, y), f"{value} {name}", fill="black", font=font, anchor="lm")
    return bar
