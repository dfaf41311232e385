"""The alarm as a scorer of images and of regions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from zoomiqa_core.alarm.model import Alarm
from zoomiqa_core.assessment import BBox, RegionScore, check_bbox
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.images.inputs import read_to_judge
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageSource
from zoomiqa_core.images.windows import pixel_window, tile_grid
from zoomiqa_core.proxy.regions import region_score
from zoomiqa_core.proxy.scorer import ModelScorer

TILE = 128
"""Side in pixels of the tiles that the alarm rates for its map."""


class AlarmScorer(ModelScorer[Alarm]):
    """The alarm as a :class:`~zoomiqa_core.scorer.Scorer`.

    It judges statistics of a whole image and has no quality map: a region is judged by the
    statistics of the window around it alone, so its rating is rougher than the image's.

    >>> scorer = AlarmScorer(Alarm.from_pretrained())
    >>> image = torch.rand(3, 256, 384)
    >>> tuple(scorer.quality_map(image).shape)
    (1, 2, 3)
    >>> [region.valid for region in scorer.score_regions(image, [(0, 0, 0.5, 1)])]
    [True]
    """

    def __init__(
        self, model: Alarm, device: str | torch.device | None = None, name: str = "alarm"
    ) -> None:
        super().__init__(model, device, name)

    def score_regions(
        self,
        image: ImageSource,
        bboxes: Sequence[BBox],
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[RegionScore]:
        """Rate regions by what is inside them, and around them up to ``TILE / 2`` px a side.

        Raises:
            ImageError: the image cannot be read, or is one flat colour.
            ValueError: a box is malformed.
        """
        pixels = self._fitted(read_to_judge(image, limits=limits))
        windows = []
        for x0, y0, x1, y1 in map(check_bbox, bboxes):
            (top, bottom), (left, right) = (
                pixel_window(start, stop, side, TILE // 2)
                for start, stop, side in zip((y0, x0), (y1, x1), pixels.shape[2:], strict=True)
            )
            windows.append(pixels[..., top:bottom, left:right])
        ratings = self._rate_windows(windows).tolist()
        return [region_score(bbox, *row) for bbox, row in zip(bboxes, ratings, strict=True)]

    def quality_map(self, image: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> Tensor:
        """(1, h, w) ratings of tiles of about ``TILE`` px, each judged without its surroundings.

        Raises:
            ImageError: the image cannot be read, or is one flat colour.
        """
        pixels = self._fitted(read_to_judge(image, limits=limits))
        tiles, grid = tile_grid(pixels, TILE)
        return self._rate_windows(tiles)[:, 0].view(1, *grid)

    def _rate_windows(self, windows: Sequence[Tensor]) -> Tensor:
        """Rating and standard deviation of (1, 3, h, w) windows, equal sizes together: (N, 2)."""
        same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, window in enumerate(windows):
            same_size[tuple(window.shape)].append(index)
        ratings = torch.empty(len(windows), 2)
        for indices in same_size.values():
            out = self._judge(torch.cat([windows[index] for index in indices]))
            ratings[indices] = torch.stack([out.rating, out.rating_std], 1).cpu()
        return ratings
