"""Judge images in memory; a judge that raises fails for that image alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from zoomiqa_core.assessment import Assessment, BBox

if TYPE_CHECKING:
    from zoomiqa_core.scorer import Scorer


def check_judge(scorer: object) -> None:
    """Refuse what is no judge, such as a plain function.

    Raises:
        TypeError: it has no ``assess``.
    """
    if not callable(getattr(scorer, "assess", None)) or isinstance(scorer, type):
        raise TypeError(
            f"expected a judge with assess(image), got {scorer!r}; load one with "
            "zoomiqa_core.load_scorer, which also wraps the folder of a model."
        )


def judge_images(
    scorer: Scorer, images: list[Tensor], degraded: Tensor | None = None
) -> list[Assessment]:
    """Judge a batch; when the judge raises, one by one, so that one image fails alone.

    Args:
        scorer: the judge.
        images: (3, H, W) in [0, 1].
        degraded: (3, H, W), the input they were made from, for a judge that takes it.

    Returns:
        One judgement per image; an image the judge raised on has the error ``"judge_error"``.
    """
    try:
        with torch.no_grad():
            return list(scorer.assess(images, **_also_seen(scorer, degraded)))
    except Exception as error:  # whatever a judge raises
        if len(images) > 1:
            return [judge_images(scorer, [image], degraded)[0] for image in images]
        return [Assessment.failed("judge_error", describe_error(error))]


def judge_image(scorer: Scorer, image: Tensor, degraded: Tensor | None = None) -> Assessment:
    """Judge one (3, H, W) in [0, 1]; where the judge raises, the error is ``"judge_error"``."""
    try:
        with torch.no_grad():
            return scorer.assess(image, **_also_seen(scorer, degraded))
    except Exception as error:  # whatever a judge raises
        return Assessment.failed("judge_error", describe_error(error))


def quality_map(scorer: Scorer, image: Tensor, degraded: Tensor | None = None) -> Tensor:
    """(1, h, w) rating map of (3, H, W), on the CPU."""
    with torch.no_grad():
        drawn = scorer.quality_map(image, **_also_seen(scorer, degraded))
    return drawn.detach().float().cpu()


def region_rating(scorer: Scorer, image: Tensor, bbox: BBox, degraded: Tensor | None) -> float:
    """Rating of one region (normalised xyxy) of (3, H, W)."""
    with torch.no_grad():
        return scorer.score_regions(image, [bbox], **_also_seen(scorer, degraded))[0].rating


class Rated(Protocol):
    """A judgement, or the row of a table that was made of one."""

    @property
    def rating(self) -> float:
        """Rating 1–5."""
        ...

    @property
    def rating_std(self) -> float:
        """Standard deviation of the rating; NaN where none is known."""
        ...

    @property
    def gain(self) -> float:
        """Rating above the input's, from a judge that sees the input; NaN from others."""
        ...

    @property
    def gain_std(self) -> float:
        """Standard deviation of the gain."""
        ...


def gain_of(before: Rated, after: Rated) -> tuple[float, float]:
    """Gain of a result over its input and its standard deviation.

    A judge that sees the input has said both. Of another one it is the difference of its ratings,
    with the result's standard deviation; 0 where it gives none. NaN without a rating.

    >>> gain_of(Assessment(3.0, 0.2), Assessment(3.5, 0.25))
    (0.5, 0.25)
    """
    if math.isfinite(after.gain):
        return after.gain, after.gain_std
    gain, std = after.rating - before.rating, after.rating_std
    return gain, 0.0 if math.isnan(std) and not math.isnan(gain) else std


def _also_seen(scorer: Scorer, degraded: Tensor | None) -> dict[str, Any]:
    """The degraded input as an argument, for a judge that takes it."""
    takes = degraded is not None and getattr(scorer, "takes_degraded", False)
    return {"degraded": degraded} if takes else {}


def describe_error(error: BaseException) -> str:
    """Kind and message of an error in one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
