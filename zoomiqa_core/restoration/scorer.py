"""The restoration judge as a scorer: assess one candidate, or compare several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from zoomiqa_core.assessment import Assessment, BBox, RegionScore, check_bbox
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.images.inputs import (
    ImageInput,
    each_image,
    is_single_image,
    read_or_fail,
    read_to_judge,
)
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageSource
from zoomiqa_core.images.windows import pixel_window
from zoomiqa_core.proxy.inference import for_inference
from zoomiqa_core.proxy.scorer import ModelScorer
from zoomiqa_core.restoration.model import (
    TILE,
    RestorationJudge,
    RestorationOutput,
    SeenInput,
    on_grid,
    probability_better,
)

NO_INPUT = "judged without the degraded input"
MAP_STRIDE = 64
"""Distance in px between the tiles of a quality map."""


@dataclass(frozen=True)
class Comparison:
    """Candidates of one degraded input, compared."""

    ratings: tuple[float, ...]
    """Rating of each candidate, 1–5."""
    gains: tuple[float, ...]
    """Rating of each candidate − rating of the input; 0 without an input."""
    gain_stds: tuple[float, ...]
    """Standard deviation of each gain; 0 for the input itself and without an input."""
    ranking: tuple[int, ...]
    """Indices of the candidates, best first."""
    better: Tensor
    """(N, N) probability that candidate i is better than candidate j; .5 on the diagonal."""


class RestorationScorer(ModelScorer[RestorationJudge]):
    """Rates restorations as full-reference metrics would, given the degraded input.

    What was seen of the last input is kept, so that each further candidate costs one look. It
    judges with folded batch norms (:func:`~zoomiqa_core.proxy.inference.for_inference`).

    >>> from zoomiqa_core.restoration.model import RestorationJudge
    >>> judge = RestorationScorer(RestorationJudge(width=8, members=2))
    >>> degraded = torch.rand(3, 64, 64)
    >>> comparison = judge.compare([degraded, degraded * 0.5], degraded=degraded)
    >>> comparison.gains[0], comparison.gain_stds[0], float(comparison.better[0, 0])
    (0.0, 0.0, 0.5)
    """

    takes_degraded = True
    """``assess`` and ``compare`` take the degraded input."""

    def __init__(
        self,
        model: RestorationJudge,
        device: str | torch.device = "cpu",
        name: str = "restoration",
    ) -> None:
        super().__init__(model, device, name)
        self._folded = for_inference(self.model)
        self._last: tuple[Tensor, SeenInput] | None = None

    @overload
    def assess(
        self,
        images: ImageSource,
        *,
        degraded: ImageSource | None = ...,
        limits: ImageLimits = ...,
    ) -> Assessment: ...
    @overload
    def assess(
        self,
        images: Iterable[ImageSource],
        *,
        degraded: ImageSource | None = ...,
        limits: ImageLimits = ...,
    ) -> list[Assessment]: ...

    def assess(
        self,
        images: ImageInput,
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Assessment | list[Assessment]:
        """Judge one candidate or several of one input.

        Args:
            images: as for :meth:`ModelScorer.assess`.
            degraded: the input all candidates were made from, of the same size or smaller by an
                integer factor. Without it the rating is less certain, and a note says so.
            limits: sizes accepted, e.g. ``ImageLimits(max_pixels=200_000_000)``.

        Raises:
            ImageError: ``degraded`` cannot be read.
            ValueError: sizes do not match.
        """
        given = None if degraded is None else self._pixels(degraded, limits)
        found = [self._assess_with(image, given, limits) for image in each_image(images)]
        return found[0] if is_single_image(images) else found

    def compare(
        self,
        candidates: Iterable[ImageSource],
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Comparison:
        """Rank candidates of one input.

        Raises:
            ImageError: an image cannot be read.
            ValueError: no candidates, or sizes that do not match.
        """
        given = None if degraded is None else self._pixels(degraded, limits)
        outputs = [self._output(self._pixels(image, limits), given) for image in candidates]
        if not outputs:
            raise ValueError("compare() needs at least one candidate")
        ratings = torch.cat([out.rating for out in outputs]).cpu()
        stds = torch.cat([out.rating_std for out in outputs]).cpu()
        ranking = ratings.argsort(descending=True, stable=True)
        return Comparison(
            tuple(ratings.tolist()),
            tuple(float(out.gain) for out in outputs),
            tuple(float(out.gain_std) for out in outputs),
            tuple(ranking.tolist()),
            probability_better(ratings, stds),
        )

    def quality_map(
        self,
        image: ImageSource,
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Tensor:
        """(1, rows, columns) ratings of tiles of 128 px that lie 64 px apart, on the CPU.

        Raises:
            ImageError: an image cannot be read.
        """
        given = None if degraded is None else self._pixels(degraded, limits)
        return self._output(self._pixels(image, limits), given, MAP_STRIDE).map[0].cpu()

    def score_regions(
        self,
        image: ImageSource,
        bboxes: Sequence[BBox],
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[RegionScore]:
        """Rate regions by what is inside them, widened to at least 64 px a side.

        Raises:
            ImageError: an image cannot be read.
            ValueError: a box is malformed.
        """
        pixels = self._pixels(image, limits)
        given = None if degraded is None else self._pixels(degraded, limits)
        height, width = pixels.shape[-2:]
        found = []
        for bbox in bboxes:
            x0, y0, x1, y1 = check_bbox(bbox)
            rows = slice(*pixel_window(y0, y1, height, TILE // 2))
            columns = slice(*pixel_window(x0, x1, width, TILE // 2))
            region = pixels[..., rows, columns]
            theirs = None
            if given is not None:
                factor = height // given.shape[-2]
                full = given.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
                theirs = full[..., rows, columns]
            out = self._output(region, theirs)
            found.append(RegionScore(bbox, float(out.rating), float(out.rating_std)))
        return found

    def _assess(self, source: ImageSource) -> Assessment:
        return self._assess_with(source, None, DEFAULT_LIMITS)

    def _assess_with(
        self, source: ImageSource, degraded: Tensor | None, limits: ImageLimits
    ) -> Assessment:
        image = read_or_fail(source, limits=limits)
        if isinstance(image, Assessment):
            return image
        out = self._output(image.pixels[None].to(self.device), degraded)
        if not (torch.isfinite(out.rating) & torch.isfinite(out.rating_std)).all():
            return Assessment.failed("not_finite", f"{image.name}: not finite", image.name)
        found = Assessment(
            float(out.rating), float(out.rating_std), name=image.name, notes=image.notes
        )
        if degraded is None:
            return replace(found, notes=(*found.notes, NO_INPUT))
        return replace(found, gain=float(out.gain), gain_std=float(out.gain_std))

    def _pixels(self, source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> Tensor:
        return read_to_judge(source, limits=limits).pixels[None].to(self.device)

    @torch.no_grad()
    def _output(
        self, candidate: Tensor, degraded: Tensor | None, stride: int = TILE
    ) -> RestorationOutput:
        if degraded is None:
            return self._folded(candidate, stride=stride)
        degraded = on_grid(degraded, candidate)
        last = self._last  # read once: other threads may replace it
        if last is None or last[1].stride != stride or not torch.equal(last[0], degraded):
            self._last = last = degraded, self._folded.look_at(degraded, stride)
        return self._folded.judge(candidate, last[1])
