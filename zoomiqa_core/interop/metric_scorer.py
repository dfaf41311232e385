"""Any metric of image quality as a judge: a function of a batch, rescaled to 1–5."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from zoomiqa_core.assessment import (
    MAX_RATING,
    MIN_RATING,
    Assessment,
    BBox,
    RegionScore,
    check_bbox,
)
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.images.inputs import (
    ImageInput,
    each_image,
    is_single_image,
    read_or_fail,
    read_to_judge,
)
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageSource
from zoomiqa_core.images.windows import pixel_window, tile_grid
from zoomiqa_core.interop.values import MetricError, linear_rating, metric_values
from zoomiqa_core.proxy.preprocess import check_batch

TILE = 128
"""Side in pixels of the tiles of the quality map."""
LEAST_WINDOW = 64
"""Regions are widened to this many pixels a side: many metrics fail on smaller images."""


class MetricScorer:
    """Judges with any metric: a function of images, or of images and the degraded input.

    Ratings are a straight line from the metric's worst value (1) to its best (5); values beyond
    are clamped, with a note. The line keeps the metric's order but knows nothing of the five-point
    scale that people rated on: a 4 of one metric is not a 4 of another. Calibrate thresholds for
    each metric (``restoration-guide calibrate-gate``).

    Images are judged one at a time, so a rating does not depend on a batch. Regions and the map's
    cells are judged as images of their own.

    Args:
        metric: (B, 3, H, W) RGB in [0, 1] → (B,), (B, 1), or one number when B is 1.
        lowest, highest: range of its values.
        lower_is_better: whether the lowest value is the best.
        differentiable: whether values have a gradient in the images.
        deterministic: whether the same image always has the same value.
        takes_degraded: call ``metric(images, degraded)``, both of one size. Against the degraded
            input, a full-reference metric measures how little was changed.
        rating_std: standard deviation of a rating, where you measured it; with 0, lower confidence
            bounds are the rating itself.
        device: where the metric expects images.
        name: for reports; the metric's name by default.

    >>> def contrast(images):
    ...     return images.std((1, 2, 3))
    >>> judge = MetricScorer(contrast, lowest=0, highest=0.5)
    >>> print(judge.assess(torch.rand(3, 64, 64)))
    3.31 ± 0.00
    >>> broken = MetricScorer(lambda images: "good", lowest=0, highest=1)
    >>> print(broken.assess(torch.rand(3, 64, 64)))
    wrong_type (<lambda> must return numbers, a tensor (1,); got str)
    """

    def __init__(
        self,
        metric: Callable[..., Any],
        *,
        lowest: float,
        highest: float,
        lower_is_better: bool = False,
        differentiable: bool = False,
        deterministic: bool = True,
        takes_degraded: bool = False,
        rating_std: float = 0.0,
        device: str | torch.device = "cpu",
        name: str | None = None,
    ) -> None:
        if not callable(metric):
            raise TypeError(f"expected a function of (B, 3, H, W) images, got {metric!r}")
        if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
            raise ValueError(
                "expected finite lowest < highest, the range of the metric's values, got "
                f"{lowest} and {highest}; where lower is better, say so with lower_is_better=True"
            )
        if not 0 <= rating_std < math.inf:
            raise ValueError(f"expected a finite rating_std ≥ 0, got {rating_std}")
        self.metric = metric
        self.lowest, self.highest, self.lower_is_better = lowest, highest, lower_is_better
        self.differentiable, self.deterministic = differentiable, deterministic
        self.takes_degraded, self.rating_std = takes_degraded, rating_std
        self.device = torch.device(device)
        self.name = name or getattr(metric, "__name__", type(metric).__name__)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that may change a rating, as plain values."""
        keys = ("lowest", "highest", "lower_is_better", "rating_std")
        return {key: getattr(self, key) for key in keys}

    def values(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """The metric's own values of (B, 3, H, W) images: (B,), with their gradient.

        Raises:
            MetricError: the metric raised, or returned something else than one number an image.
            TypeError, ValueError: not such batches.
        """
        check_batch(images)
        inputs = [images.to(self.device)]
        if not self.takes_degraded and degraded is not None:
            raise TypeError(f"{self.name} takes no degraded input; see takes_degraded=True")
        if self.takes_degraded:
            if degraded is None:
                raise MetricError(
                    "needs_degraded",
                    f"{self.name} compares with the degraded input: give degraded=",
                )
            check_batch(degraded)
            if degraded.shape[-2:] != images.shape[-2:] or len(degraded) not in (1, len(images)):
                raise ValueError(
                    f"expected a degraded input of the images' shape {tuple(images.shape)}, or one "
                    f"for all of them, got {tuple(degraded.shape)}; resize it first"
                )
            inputs.append(degraded.to(self.device).expand_as(images))
        return metric_values(self.metric, inputs, self.name)

    def ratings(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Ratings (B,), not clamped: their gradient does not end at 1 and 5."""
        return self._rating(self.values(images, degraded))

    @overload
    def assess(
        self, images: ImageSource, *, degraded: ImageSource | None = ..., limits: ImageLimits = ...
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
        """Judge one image or several; see :meth:`~zoomiqa_core.ProxyScorer.assess`.

        Where the metric fails, ``error`` is ``not_finite``, ``metric_raised``, ``out_of_memory``,
        ``wrong_type``, ``wrong_count``, ``wrong_shape`` or ``needs_degraded``.

        Raises:
            ImageError, TypeError, ValueError: ``degraded`` cannot be read, has another size, or is
                not taken by the metric.
        """
        given = _read(degraded, limits)
        found = [self._assess(image, given, limits) for image in each_image(images)]
        return found[0] if is_single_image(images) else found

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
            ImageError, ValueError: an image cannot be read, or a box is malformed.
        """
        pixels, given = read_to_judge(image, limits=limits).pixels, _read(degraded, limits)
        height, width = pixels.shape[-2:]
        found = []
        for x0, y0, x1, y1 in map(check_bbox, bboxes):
            rows = slice(*pixel_window(y0, y1, height, LEAST_WINDOW))
            columns = slice(*pixel_window(x0, x1, width, LEAST_WINDOW))
            theirs = None if given is None else given[:, rows, columns]
            found.append(self._region((x0, y0, x1, y1), pixels[:, rows, columns], theirs))
        return found

    def quality_map(
        self,
        image: ImageSource,
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Tensor:
        """(1, rows, columns) ratings of tiles of about 128 px; NaN where the metric failed.

        Raises:
            ImageError: an image cannot be read.
        """
        pixels, given = read_to_judge(image, limits=limits).pixels, _read(degraded, limits)
        tiles, grid = tile_grid(pixels, TILE)
        theirs = [None] * len(tiles) if given is None else tile_grid(given, TILE)[0]
        found = [self._region((0, 0, 1, 1), *pair) for pair in zip(tiles, theirs, strict=True)]
        return torch.tensor([region.rating for region in found]).view(1, *grid)

    def _assess(
        self, source: ImageSource, degraded: Tensor | None, limits: ImageLimits
    ) -> Assessment:
        image = read_or_fail(source, limits=limits)
        if isinstance(image, Assessment):
            return image
        try:
            value = self._value(image.pixels, degraded)
        except MetricError as error:
            message = f"{image.name}: {error}" if image.name else str(error)
            return Assessment.failed(error.code, message, image.name)
        notes = image.notes
        if not self.lowest <= value <= self.highest:
            notes += (f"{self.name}: {value:.4g} clamped to [{self.lowest:g}, {self.highest:g}]",)
        return Assessment(self._clamped(value), self.rating_std, name=image.name, notes=notes)

    def _region(self, bbox: BBox, pixels: Tensor, degraded: Tensor | None) -> RegionScore:
        try:
            return RegionScore(bbox, self._clamped(self._value(pixels, degraded)), self.rating_std)
        except MetricError as error:
            return RegionScore(bbox, math.nan, math.nan, error.code, str(error))

    @torch.no_grad()
    def _value(self, pixels: Tensor, degraded: Tensor | None) -> float:
        value = float(self.values(pixels[None], None if degraded is None else degraded[None]))
        if not math.isfinite(value):
            raise MetricError("not_finite", f"{self.name} gave {value}")
        return value

    def _clamped(self, value: float) -> float:
        return min(max(self._rating(value), MIN_RATING), MAX_RATING)

    def _rating(self, value: Any) -> Any:
        return linear_rating(value, self.lowest, self.highest, lower_is_better=self.lower_is_better)


def _read(image: ImageSource | None, limits: ImageLimits) -> Tensor | None:
    return None if image is None else read_to_judge(image, limits=limits).pixels
