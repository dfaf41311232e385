"""Pictures of the page: thumbnails, quality maps with the worst region, several worst regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.images.heatmap import draw_map, worst_region
from zoomiqa_core.images.sources import to_pil

if TYPE_CHECKING:
    from restoration_guide.search.selection import Index, Selection
    from zoomiqa_core.assessment import BBox, RegionScore
    from zoomiqa_core.scorer import Scorer

THUMBNAIL_SIDE = 384
REGION_SHARE = 1 / 16
"""Share of the image that each of several worst regions covers."""


def thumbnail(image: Tensor | Image.Image) -> Image.Image:
    """A small copy of (3, H, W) in [0, 1] for the gallery."""
    picture = image.copy() if isinstance(image, Image.Image) else to_pil(image)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return picture


def paired_maps(selection: Selection, index: Index) -> list[Image.Image | None]:
    """Quality maps of the input and of another image, the input's worst region boxed in both.

    None where the judge draws no map.
    """
    before = selection.quality_map("input")
    if before is None:
        return [None, None]
    bbox = worst_region(before)
    drawn: list[Image.Image | None] = []
    indices: tuple[Index, ...] = ("input", index)
    for each in indices:
        quality_map = before if each == "input" else selection.quality_map(each)
        if quality_map is None:
            drawn.append(None)
            continue
        rating = selection.region_rating(each, bbox)
        drawn.append(draw_map(selection.image(each), quality_map, bbox, rating))
    return drawn


class JudgedPhoto(NamedTuple):
    """The map of a photo and its worst regions."""

    quality_map: Image.Image
    """Drawn over the photo, with the worst region boxed."""
    regions: list[RegionScore]
    """The worst first."""


def judge_regions(scorer: Scorer, pixels: Tensor, count: int = 3) -> JudgedPhoto | None:
    """Draw a photo's quality map and rate its worst regions; None without a map.

    >>> import zoomiqa_core as zi
    >>> photo = torch.rand(3, 96, 128)
    >>> photo[:, :, :64] = 0.5
    >>> judged = judge_regions(zi.load_scorer("proxy"), photo)
    >>> len(judged.regions), judged.quality_map.size[0] > 128
    (3, True)

    Args:
        scorer: the judge.
        pixels: (3, H, W) in [0, 1].
        count: most regions to rate.
    """
    with torch.no_grad():
        quality_map = scorer.quality_map(pixels).float().cpu()
    if not quality_map.isfinite().any():
        return None
    regions = scorer.score_regions(pixels, worst_regions(quality_map, count))
    regions = sorted(regions, key=lambda region: (not region.valid, region.rating))
    first = regions[0]
    rating = first.rating if first.valid else None
    return JudgedPhoto(draw_map(pixels, quality_map, first.bbox, rating), regions)


def worst_regions(quality_map: Tensor, count: int) -> list[BBox]:
    """Boxes of the worst regions of a map, the worst first; none overlaps another's centre.

    >>> worst_regions(torch.tensor([[[1.0, 4.0], [2.0, 5.0]]]), 2)
    [(0.0, 0.0, 0.5, 0.5), (0.0, 0.5, 0.5, 1.0)]

    Args:
        quality_map: (1, h, w) ratings.
        count: most boxes.
    """
    left = quality_map.clone()
    height, width = left.shape[1:]
    boxes: list[BBox] = []
    while len(boxes) < count and left.isfinite().any():
        x0, y0, x1, y1 = worst_region(left, REGION_SHARE)
        boxes.append((x0, y0, x1, y1))
        rows = slice(round(y0 * height), round(y1 * height))
        columns = slice(round(x0 * width), round(x1 * width))
        left[:, rows, columns] = torch.nan
    return boxes
