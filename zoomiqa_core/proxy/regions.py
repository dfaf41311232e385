"""Ratings of regions: the proxy's own weighted mean, taken inside a box."""

from __future__ import annotations

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


def region_ratings(
    out: ProxyOutput, bboxes: Sequence[BBox], height: int, width: int
) -> list[RegionScore]:
    """Pool the map of one image inside each box with the proxy's weights.

    The rating of the box (0, 0, 1, 1) equals the image's rating. The error scale is the image's:
    the proxy keeps no map of it.

    Args:
        out: the proxy's output for a batch of one.
        bboxes: normalised boxes.
        height: of the judged image in pixels (see :func:`~.preprocess.fitted_size`).
        width: of the judged image in pixels.
    """
    quality_map, weight = out.map[0, 0], out.weight[0, 0]
    scores = []
    for bbox in bboxes:
        inside = weight * box_coverage(bbox, height, width).to(weight)
        rating = ((quality_map * inside).sum() / inside.sum()).item()
        scores.append(RegionScore(bbox, rating, out.rating_std[0].item()))
    return scores


def _overlap(start: float, stop: float, side: int) -> Tensor:
    """Share of each cell of a side of ``side`` pixels inside [start, stop]; the last may be cut."""
    left = torch.arange(0, side, STRIDE, dtype=torch.float64)
    right = (left + STRIDE).clamp(max=side)
    inside = right.clamp(max=stop * side) - left.clamp(min=start * side)
    return (inside.clamp(min=0) / (right - left)).float()
