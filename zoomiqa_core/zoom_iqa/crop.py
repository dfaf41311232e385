"""Crops that a judge requests: from a box to the pixels shown (Zoom-IQA, arXiv 2601.02918).

Boxes are in pixels of the original image, not of the reduced one that the model sees. Boxes and
sizes agree with the released code to the pixel; the only departure is that no crop is empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from zoomiqa_core.assessment import BBox, check_bbox

MIN_AREA, MAX_AREA = 0.25, 0.75
"""Minimum and maximum fraction of the image in a crop; clipping at the border may leave less."""
MIN_CROP_SIDE = 28
"""Minimum side of a crop in pixels: one merged visual token of Qwen2.5-VL."""


@dataclass(frozen=True)
class CropBox:
    """A non-empty crop inside an image, and the size it is enlarged to.

    >>> CropBox((100, 75, 300, 225), (400, 300), (400, 300)).bbox
    (0.25, 0.25, 0.75, 0.75)
    """

    bbox_px: tuple[int, int, int, int]
    """``(x0, y0, x1, y1)``; x1 and y1 are exclusive."""
    size: tuple[int, int]
    """(width, height) of the enlarged crop, with the crop's aspect ratio."""
    image_size: tuple[int, int]
    """(width, height) of the image."""
    central_fallback: bool = False
    """The requested box was unusable, so this is the centre, not enlarged."""

    @property
    def bbox(self) -> BBox:
        """The box in fractions of the image, xyxy."""
        (width, height), (x0, y0, x1, y1) = self.image_size, self.bbox_px
        return x0 / width, y0 / height, x1 / width, y1 / height


def crop_box(bbox: Sequence[float] | None, width: int, height: int) -> CropBox:
    """The crop that is shown for the box that a judge requested.

    1. Four coordinates all in [0, 1] are fractions of the image, otherwise pixels. Corners may have
       any order; they are clamped to the image, and an empty side is widened by one pixel.
    2. The box is scaled about its centre until it covers [0.25, 0.75] of the image.
    3. Each side has at least 28 pixels, or the whole side of a smaller image.
    4. The crop is enlarged to fit the image's width × height.

    No box, not four finite numbers, or all zeros: the central [¼, ¾] of the image, not enlarged.

    Args:
        bbox: ``(x1, y1, x2, y2)`` as the judge wrote it, or None.
        width: of the original image, pixels.
        height: of the original image, pixels.

    >>> crop = crop_box((0.4, 0.4, 0.6, 0.6), 400, 300)  # widened to a quarter of the image
    >>> crop.bbox_px, crop.size
    ((100, 75, 300, 225), (400, 300))
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image has at least 1×1 pixels, got {width}×{height}")
    if bbox is None or len(bbox) != 4 or not all(map(math.isfinite, bbox)) or not any(bbox):
        (x0, x1), (y0, y1) = _middle(width), _middle(height)
        return CropBox((x0, y0, x1, y1), (x1 - x0, y1 - y0), (width, height), True)
    fractions = all(0 <= value <= 1 for value in bbox)
    x_scale, y_scale = (width, height) if fractions else (1, 1)
    x0, x1 = _whole_pixels(bbox[0] * x_scale, bbox[2] * x_scale, width)
    y0, y1 = _whole_pixels(bbox[1] * y_scale, bbox[3] * y_scale, height)
    zoom = _zoom((x1 - x0) * (y1 - y0), width * height)
    x0, x1 = _scaled(x0, x1, zoom, width)
    y0, y1 = _scaled(y0, y1, zoom, height)
    return CropBox((x0, y0, x1, y1), _fitted(x1 - x0, y1 - y0, width, height), (width, height))


def region_box(bbox: Sequence[float], width: int, height: int) -> CropBox:
    """The crop of exactly one region, enlarged; at least 28 pixels (or the image's side) a side.

    Unlike :func:`crop_box`, it does not widen a small region to a quarter of the image.

    Args:
        bbox: normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.
        width: of the image, pixels.
        height: of the image, pixels.

    Raises:
        ValueError: no such box, or no such image.

    >>> region_box((0.4, 0.4, 0.6, 0.6), 400, 300).bbox_px
    (160, 120, 240, 180)
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image has at least 1×1 pixels, got {width}×{height}")
    check_bbox(bbox)
    x0, x1 = _scaled(*_whole_pixels(bbox[0] * width, bbox[2] * width, width), 1.0, width)
    y0, y1 = _scaled(*_whole_pixels(bbox[1] * height, bbox[3] * height, height), 1.0, height)
    return CropBox((x0, y0, x1, y1), _fitted(x1 - x0, y1 - y0, width, height), (width, height))


def crop_image(image: Image.Image, crop: CropBox) -> Image.Image:
    """Crop the image and enlarge the crop (Lanczos).

    Raises:
        ValueError: the box belongs to an image of another size.

    >>> photo = Image.new("RGB", (400, 300))
    >>> crop_image(photo, region_box((0.4, 0.4, 0.6, 0.6), *photo.size)).size
    (400, 300)
    """
    if image.size != crop.image_size:
        raise ValueError(
            f"the box is of a {crop.image_size} image, this one is {image.size}: "
            "crop the original, not a resized copy"
        )
    cropped = image.crop(crop.bbox_px)
    if crop.central_fallback:
        return cropped
    return cropped.resize(crop.size, Image.Resampling.LANCZOS)


def _middle(length: int) -> tuple[int, int]:
    start = length // 4
    return start, max(length * 3 // 4, start + 1)


def _whole_pixels(a: float, b: float, length: int) -> tuple[int, int]:
    """Sort, clamp to [0, length], drop fractions, widen an empty side by one pixel."""
    start, end = (int(min(max(value, 0), length)) for value in sorted((a, b)))
    if start < end:
        return start, end
    return (start, start + 1) if start < length else (start - 1, start)


def _zoom(area: int, image_area: int) -> float:
    """Factor of the sides that brings the area into [0.25, 0.75] of the image."""
    if area < image_area * MIN_AREA:
        return math.sqrt(image_area * MIN_AREA / area)
    if area > image_area * MAX_AREA:
        return math.sqrt(image_area * MAX_AREA / area)
    return 1.0


def _scaled(start: int, end: int, zoom: float, length: int) -> tuple[int, int]:
    """Scale about the centre, clip to [0, length], then widen to the minimum side."""
    centre, half = (start + end) / 2, (end - start) * zoom / 2
    low, high = max(0.0, centre - half), min(float(length), centre + half)
    if high - low >= MIN_CROP_SIDE:
        return int(low), int(high)
    side = min(MIN_CROP_SIDE, length)
    missing = MIN_CROP_SIDE - (high - low)
    first = min(max(int(low - missing // 2), 0), length - side)
    return first, first + side


def _fitted(width: int, height: int, image_width: int, image_height: int) -> tuple[int, int]:
    """Largest size of the crop's aspect inside the image's width × height; at least 1×1."""
    aspect = width / height
    if aspect > image_width / image_height:
        return image_width, max(1, int(image_width / aspect))
    return max(1, int(image_height * aspect)), image_height
