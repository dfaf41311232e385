"""Ratings of regions: the proxy's weighted mean, taken inside a box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoomiqa_core.assessment import BBox, RegionScore, check_bbox
from zoomiqa_core.proxy.model import ProxyOutput
from zoomiqa_core.proxy.preprocess import STRIDE


def box_coverage(bbox: BBox, height: int, width: int) -> Tensor:
    """Share of each map cell's part of the image that lies inside a normalised box.

    Args:
        bbox: normalised (x0, y0, x1, y1).
        height: of the judged image in pixels.
        width: of the judged image in pixels.

    Returns:
        (⌈height/16⌉, ⌈width/16⌉) in [0, 1]; exact area overlap, so the whole box gives all ones.

    Raises:
        ValueError: not 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.
    """
    x0, y0, x1, y1 = check_bbox(bbox)
    return _overlap(y0, y1, height)[:, None] * _overlap(x0, x1, width)[None, :]


def pool_regions(out: ProxyOutput, bboxes: Sequence[BBox], height: int, width: int) -> Tensor:
    """Rating of each box: the map's weighted mean inside it.

    Cells count by their exact area inside the box, a box average without sampling points: what
    RoIAlign (He et al., *Mask R-CNN*, ICCV 2017) approaches with more of them, here weighted.
    Differentiable in the images; the box (0, 0, 1, 1) has the image's rating.

    Args:
        out: the proxy's output for a batch of B images of one size.
        bboxes: R normalised boxes, the same for every image.
        height: of the judged images in pixels (see :func:`~.preprocess.fitted_size`).
        width: of the judged images in pixels.

    Returns:
        (B, R) in [1, 5].

    Raises:
        ValueError: a box is malformed, or the map is not that of such images.

    >>> from zoomiqa_core.proxy.model import QualityProxy
    >>> out = QualityProxy.from_pretrained()(torch.rand(2, 3, 64, 96))
    >>> left, right = (0, 0, 0.5, 1), (0.5, 0, 1, 1)
    >>> tuple(pool_regions(out, [left, right], 64, 96).shape)
    (2, 2)
    """
    cells = (-(-height // STRIDE), -(-width // STRIDE))
    if out.map.shape[-2:] != cells:
        raise ValueError(
            f"images of {height}×{width} px have a map of {cells} cells, this one has "
            f"{tuple(out.map.shape[-2:])}; give the judged size, fitted_size(height, width, "
            "proxy.max_pixels)"
        )
    return _pool(out.map, out.weight, bboxes, height, width)


def region_ratings(
    out: ProxyOutput, bboxes: Sequence[BBox], height: int, width: int
) -> list[RegionScore]:
    """Rating and standard deviation of regions of one image, pooled from its two maps.

    Args:
        out: the proxy's output for a batch of one.
        bboxes, height, width: see :func:`pool_regions`.

    Returns:
        One score per box; one whose rating is not finite has the error ``"not_finite"``.
    """
    if not bboxes:
        return []
    ratings = pool_regions(out, bboxes, height, width)[0]
    stds = _pool(out.map_std, out.weight, bboxes, height, width)[0]
    return [
        region_score(bbox, *values)
        for bbox, values in zip(bboxes, torch.stack([ratings, stds], 1).tolist(), strict=True)
    ]


def region_score(bbox: BBox, rating: float, std: float) -> RegionScore:
    """A region's score; where rating or standard deviation is not finite, a failed one.

    >>> region_score((0, 0, 1, 1), math.nan, 0.3).error
    'not_finite'
    """
    if math.isfinite(rating) and math.isfinite(std):
        return RegionScore(bbox, rating, std)
    message = f"rating {rating}, standard deviation {std}"
    return RegionScore(bbox, math.nan, math.nan, "not_finite", message)


def _pool(values: Tensor, weight: Tensor, bboxes: Sequence[BBox], height: int, width: int):
    """(B, 1, h, w) values inside each box under the weights: (B, R)."""
    boxes = torch.stack([box_coverage(bbox, height, width) for bbox in bboxes]).to(weight)
    inside = weight * boxes  # (B, R, h, w)
    # outside of the box a NaN, too, counts nothing
    return (values.where(inside > 0, 0.0) * inside).sum((2, 3)) / inside.sum((2, 3))


def _overlap(start: float, stop: float, side: int) -> Tensor:
    """Share of each cell of a side of ``side`` pixels inside [start, stop]; the last may be cut."""
    left = torch.arange(0, side, STRIDE, dtype=torch.float64)
    right = (left + STRIDE).clamp(max=side)
    inside = right.clamp(max=stop * side) - left.clamp(min=start * side)
    return (inside.clamp(min=0) / (right - left)).float()
