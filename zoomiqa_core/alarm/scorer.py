"""The alarm as a scorer of images and of regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoomiqa_core.alarm.model import Alarm
from zoomiqa_core.assessment import BBox, RegionScore, check_bbox
from zoomiqa_core.images.inputs import read_to_judge
from zoomiqa_core.images.sources import ImageSource
from zoomiqa_core.proxy.preprocess import fit
from zoomiqa_core.proxy.scorer import ModelScorer

TILE = 128
"""Side in pixels of the tiles that the alarm rates for its map."""


class AlarmScorer(ModelScorer[Alarm]):
    """The alarm as a :class:`~zoomiqa_core.scorer.Scorer`.

    It judges statistics of a whole image and has no quality map: a region is judged by the
    statistics of the window around it alone, so its rating is rougher than the image's.
    """

    def __init__(
        self, model: Alarm, device: str | torch.device = "cpu", name: str = "alarm"
    ) -> None:
        super().__init__(model, device, name)

    def score_regions(self, image: ImageSource, bboxes: Sequence[BBox]) -> list[RegionScore]:
        """Rate regions by what is inside them, and around them up to ``TILE / 2`` px a side.

        Raises:
            ImageError: the image cannot be read.
            ValueError: a box is malformed.
        """
        pixels = self._fitted(image)
        regions = []
        for bbox in bboxes:
            x0, y0, x1, y1 = check_bbox(bbox)
            (top, bottom), (left, right) = (
                _window(start, stop, side)
                for start, stop, side in zip((y0, x0), (y1, x1), pixels.shape[1:], strict=True)
            )
            regions.append(RegionScore(bbox, *self._rate(pixels[:, top:bottom, left:right])))
        return regions

    def quality_map(self, image: ImageSource) -> Tensor:
        """(1, h, w) ratings of tiles of about ``TILE`` px, each judged by itself.

        Raises:
            ImageError: the image cannot be read.
        """
        pixels = self._fitted(image)
        rows = pixels.tensor_split(max(1, round(pixels.shape[1] / TILE)), 1)
        columns = max(1, round(pixels.shape[2] / TILE))
        ratings = [[self._rate(t)[0] for t in row.tensor_split(columns, 2)] for row in rows]
        return torch.tensor([ratings])

    def _fitted(self, image: ImageSource) -> Tensor:
        return fit(read_to_judge(image).pixels[None], self.model.max_pixels)[0]

    def _rate(self, pixels: Tensor) -> tuple[float, float]:
        out = self._judge(pixels)
        return float(out.rating), float(out.rating_std)


def _window(start: float, stop: float, side: int) -> tuple[int, int]:
    """First pixel and end of a share of ``side``, widened to ``TILE / 2`` px if it can be."""
    first, end = math.floor(start * side), math.ceil(stop * side)
    length = max(end - first, min(TILE // 2, side))
    first = min(max(0, first - (length - (end - first)) // 2), side - length)
    return first, first + length
