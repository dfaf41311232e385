"""Ratings of regions: the proxy's own weighted mean, taken inside a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoomiqa_core.assessment import BBox, RegionScore
from zoomiqa_core.proxy.model import ProxyOutput


def box_coverage(bbox: BBox, height: int, width: int) -> Tensor:
    """Share of each cell of a (height, width) map that lies inside a normalised box.

    Returns:
        (height, width) in [0, 1]; exact area overlap, so the whole box gives all ones.

    Raises:
        ValueError: not 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.
    """
    x0, y0, x1, y1 = bbox
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"bbox {bbox} is not a normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and "
            "0 ≤ y0 < y1 ≤ 1; divide pixel boxes by the image's width and height"
        )
    return _overlap(y0, y1, height)[:, None] * _overlap(x0, x1, width)[None, :]


def region_ratings(out: ProxyOutput, bboxes: Sequence[BBox]) -> list[RegionScore]:
    """Pool the map of one image inside each box with the proxy's weights.

    The rating of the box (0, 0, 1, 1) equals the image's rating. The error scale is the image's:
    the proxy keeps no map of it.

    Args:
        out: the proxy's output for a batch of one.
        bboxes: normalised boxes.
    """
    quality_map, weight = out.map[0, 0], out.weight[0, 0]
    scores = []
    for bbox in bboxes:
        inside = weight * box_coverage(bbox, *quality_map.shape).to(weight)
        rating = float((quality_map * inside).sum() / inside.sum())
        scores.append(RegionScore(bbox, rating, float(out.rating_std[0])))
    return scores


def _overlap(start: float, stop: float, cells: int) -> Tensor:
    """Share of each of ``cells`` equal cells of [0, 1] inside [start, stop]."""
    edges = torch.arange(cells + 1, dtype=torch.float64) / cells
    return ((edges[1:].clamp(max=stop) - edges[:-1].clamp(min=start)).clamp(min=0) * cells).float()
