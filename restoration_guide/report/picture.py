"""Comparison picture of a selection: input and best, quality maps, worst region enlarged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox
from zoomiqa_core.images.heatmap import BOX_COLOUR, RATING_NAMES, draw_box, paint_map
from zoomiqa_core.images.sources import to_pil

PAPER, INK, GREY = "#ffffff", "#16181d", "#5d6470"
LINE = 3
"""Width in pixels of the box's line."""
MARGIN, GAP = 28, 20
DRAWN_SIDE = (320, 640)
"""Range of the long side of a drawn image, pixels; smaller ones are enlarged by a whole factor."""
FOOTER = 70
"""Height in pixels of the legend of box and colours."""
MIN_CELL = (360, 96)
"""Smallest width and height of a cell, so that captions of narrow images fit."""
TARGET_ASPECT = 1.5
"""Preferred width / height of the arrangement of cells."""


@dataclass(frozen=True)
class View:
    """One of the compared images, with its texts and quality map."""

    heading: str
    """Title, e.g. ``"Input"``."""
    rating: str
    """Its rating in words, e.g. ``"rating 2.41 ± 0.22"``."""
    image: Tensor
    """(3, H, W) in [0, 1]."""
    quality_map: Tensor | None = None
    """(1, h, w) in rating units; None draws no map."""
    region: str = ""
    """Rating of the boxed region in words."""


def draw_comparison(
    views: Sequence[View],
    *,
    title: str,
    reason: str,
    bbox: BBox | None = None,
    note: str = "",
) -> Image.Image:
    """Draw images, quality maps and an enlarged region in one picture.

    Each view is a row, or a column where that fits better. ``bbox`` is boxed in every image.

    >>> image, better = torch.rand(2, 3, 64, 64)
    >>> views = [View("Input", "rating 2.41", image), View("Best", "rating 3.10", better)]
    >>> draw_comparison(views, title="photo.png", reason="candidate 3 of 8").size
    (796, 560)

    Args:
        views: the input and, unless it was kept, the chosen image on the same grid; either both
            have a map or neither.
        title: first line.
        reason: second line, wrapped.
        bbox: normalised (x0, y0, x1, y1), the input's worst region; None draws no box.
        note: last line, wrapped.
    """
    width, height = drawn_size(*views[0].image.shape[:0:-1])
    sides = [_cells(view, (width, height), bbox) for view in views]
    cell = (max(width, MIN_CELL[0]), max(height, MIN_CELL[1]))
    caption_height = 34
    kinds = len(sides[0])
    as_rows = _prefers_rows(cell, kinds, len(sides))
    columns, rows = (kinds, len(sides)) if as_rows else (len(sides), kinds)

    content = max(columns * cell[0] + (columns - 1) * GAP, 620)
    header = _wrap(reason, _font(16), content)
    top = MARGIN + 40 + 24 * len(header) + 16
    row_height = caption_height + cell[1] + GAP
    bottom = top + rows * row_height
    size = (content + 2 * MARGIN, bottom + FOOTER + MARGIN - GAP)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 4), _fit(title, _font(26, True), content), INK, _font(26, True))
    for number, line in enumerate(header):
        draw.text((MARGIN, MARGIN + 38 + 24 * number), line, GREY, _font(16))

    left = MARGIN + (content - (columns * cell[0] + (columns - 1) * GAP)) // 2
    for side, cells in enumerate(sides):
        for kind, (caption, picture) in enumerate(cells):
            column, row = (kind, side) if as_rows else (side, kind)
            x, y = left + column * (cell[0] + GAP), top + row * row_height
            bold = _font(19, kind == 0)
            draw.text((x, y + 2), _fit(caption, bold, cell[0]), INK if kind == 0 else GREY, bold)
            canvas.paste(picture, (x, y + caption_height))
    bar = min(500, content * 5 // 9) if kinds > 1 else 0
    if bar:
        _draw_scale(canvas, MARGIN + content - bar, bottom, bar)
    if bbox is not None:
        draw.rectangle((MARGIN, bottom, MARGIN + 24, bottom + 17), outline=BOX_COLOUR, width=LINE)
        draw.text((MARGIN + 34, bottom), "worst region of the input", INK, _font(15))
        bottom += 24
    for number, line in enumerate(_wrap(note, _font(15), content - bar - 16, most=2)):
        draw.text((MARGIN, bottom + 20 * number), line, GREY, _font(15))
    return canvas


def drawn_size(width: int, height: int) -> tuple[int, int]:
    """Size in pixels at which an image is drawn: unchanged, reduced, or enlarged n times.

    >>> drawn_size(100, 60), drawn_size(400, 300), drawn_size(1280, 960)
    ((400, 240), (400, 300), (640, 480))
    """
    low, high = DRAWN_SIDE
    long = max(width, height)
    factor = math.ceil(low / long) if long < low else min(1.0, high / long)
    return max(8, round(width * factor)), max(8, round(height * factor))


def _cells(view: View, size: tuple[int, int], bbox: BBox | None) -> list[tuple[str, Image.Image]]:
    """Caption and picture of each cell of one side."""
    from torchvision.transforms.v2.functional import pil_to_tensor  # slow to import

    picture = to_pil(view.image)
    resized = picture.resize(size, _resampling(picture.size, size))
    cells = [(f"{view.heading}: {view.rating}", _boxed(resized, bbox))]
    if view.quality_map is None:
        return cells
    pixels = pil_to_tensor(resized).float() / 255.0
    # Low contrast, so that the map's colours match the scale on dark and bright pixels.
    painted = paint_map(0.5 + 0.4 * (pixels - pixels.mean()), view.quality_map)
    cells.append(("quality map", _boxed(painted, bbox)))
    if bbox is not None:
        cells.append((f"boxed region: {view.region}", _enlarge(picture, bbox, size)))
    return cells


def _enlarge(picture: Image.Image, bbox: BBox, size: tuple[int, int]) -> Image.Image:
    """Crop the region and enlarge it to the largest size that fits into ``size``."""
    x0, y0, x1, y1 = _pixels(bbox, picture.size)
    crop = picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
    factor = min(size[0] / crop.width, size[1] / crop.height)
    target = (max(8, round(crop.width * factor)), max(8, round(crop.height * factor)))
    return crop.resize(target, _resampling(crop.size, target))


def _resampling(size: tuple[int, int], target: tuple[int, int]) -> Image.Resampling:
    """Nearest neighbour for strong enlargements, so that pixels stay visible."""
    factor = target[0] / size[0]
    if factor == 1 or factor >= 4:
        return Image.Resampling.NEAREST
    return Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC


def _boxed(picture: Image.Image, bbox: BBox | None) -> Image.Image:
    if bbox is None:
        return picture
    picture = picture.copy()
    draw_box(picture, bbox, LINE)
    return picture


def _pixels(bbox: BBox, size: tuple[int, int]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = bbox
    width, height = size
    return round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)


def _prefers_rows(cell: tuple[int, int], kinds: int, sides: int) -> bool:
    """Whether sides as rows are nearer to the target aspect than as columns."""
    aspect = cell[0] / cell[1]
    rows = abs(math.log(aspect * kinds / sides / TARGET_ASPECT))
    columns = abs(math.log(aspect * sides / kinds / TARGET_ASPECT))
    return rows <= columns and kinds > 1


def _draw_scale(canvas: Image.Image, x: int, y: int, width: int) -> None:
    """Draw the colour scale of the maps from 1 to 5."""
    draw, font = ImageDraw.Draw(canvas), _font(15)
    ratings = torch.linspace(MIN_RATING, MAX_RATING, width)[None, None]
    canvas.paste(paint_map(torch.full((3, 18, width), 0.5), ratings), (x, y))
    draw.rectangle((x, y, x + width - 1, y + 17), outline=GREY)
    for rating, word in RATING_NAMES.items():
        tick = x + (rating - MIN_RATING) / (MAX_RATING - MIN_RATING) * (width - 1)
        anchor = {1: "la", 5: "ra"}.get(rating, "ma")
        draw.line((tick, y + 18, tick, y + 23), GREY)
        draw.text((tick, y + 25), f"{rating} {word}", GREY, font, anchor=anchor)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 4) -> list[str]:
    """Wrap to at most ``most`` lines of ``width`` pixels; what does not fit becomes an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        elif len(lines) == most:
            lines[-1] = _fit(f"{lines[-1]} …", font, width)
            break
        else:
            lines.append(_fit(word, font, width))
    return lines


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten a text with an ellipsis to at most ``width`` pixels."""
    # file names may contain control characters, which cannot be drawn
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib, so that pictures are the same on every system."""
    from pathlib import Path

    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
