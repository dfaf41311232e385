"""What a judge returns: typed results that keep a failed judgement apart from a number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MIN_RATING, MAX_RATING = 1.0, 5.0
"""The rating scale: five-point absolute category rating, 1 bad … 5 excellent (ITU-R BT.500)."""

BBox = tuple[float, float, float, float]
"""Normalised ``(x0, y0, x1, y1)``: shares of width and height, origin top left."""


def rating_to_score(rating: float) -> float:
    """Map a rating in [1, 5] to the 0–100 score of Zoom-IQA: ``(clip(rating, 1, 5) − 1) · 25``.

    A NaN rating (a failed judgement) stays NaN.
    """
    if math.isnan(rating):
        return math.nan
    return (min(max(rating, MIN_RATING), MAX_RATING) - MIN_RATING) * 25.0


def score_to_rating(score: float) -> float:
    """Inverse of :func:`rating_to_score` on [0, 100]."""
    return score / 25.0 + MIN_RATING


def lower_bound(rating: float, rating_std: float, confidence: float = 1.0) -> float:
    """``rating − confidence · rating_std``: the rating one can count on."""
    return rating - confidence * rating_std


def check_bbox(bbox: Sequence[float]) -> BBox:
    """The box itself, if it is one.

    Raises:
        ValueError: not 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.
    """
    if len(bbox) == 4:
        x0, y0, x1, y1 = bbox
        if 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1:
            return x0, y0, x1, y1
    raise ValueError(
        f"bbox {tuple(bbox)} is not a normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and "
        "0 ≤ y0 < y1 ≤ 1; divide pixel boxes by the image's width and height"
    )


@dataclass(frozen=True)
class RegionScore:
    """The judgement of one region, seen in the context of its whole image."""

    bbox: BBox
    rating: float
    """Rating of the region, 1–5."""
    rating_std: float
    """Standard deviation of ``rating``, in rating units."""
    error: str | None = None
    """Name of the failure; None when valid. A failed region has NaN for both numbers."""
    message: str = ""
    """The failure in words."""

    @property
    def valid(self) -> bool:
        """Whether the region could be judged."""
        return self.error is None


@dataclass(frozen=True)
class Round:
    """One look of a judge that looks more than once: at the whole image, then also at crops."""

    rating: float
    """Rating after this look, 1–5 as the judge wrote it; NaN when its reply was unusable."""
    tool: str | None = None
    """``"crop"`` when the judge asked for a closer look, ``"final"`` when not; None on failure."""
    bbox: BBox | None = None
    """The region shown next; None when this was the last look."""
    central_fallback: bool = False
    """The region asked for was unusable, so ``bbox`` is the centre."""
    error: str | None = None
    """Name of the failure, e.g. ``"malformed_json"``; None when the reply was usable."""
    message: str = ""
    """The failure in words."""
    repaired: bool = False
    """The reply's answer was not JSON and had to be repaired."""
    summary: tuple[str, ...] = ()
    """What the judge saw, as sentences."""
    directions: tuple[str, ...] = ()
    """What would improve the image."""
    issues: tuple[str, ...] = ()
    """What a restorer should avoid."""
    decision: tuple[str, ...] = ()
    """Why this rating, and why look closer or not."""
    text: str = ""
    """The whole reply. It is data: escape it before rendering."""

    @property
    def valid(self) -> bool:
        """Whether the reply was usable."""
        return self.error is None


@dataclass(frozen=True)
class Assessment:
    """The judgement of one image.

    When a judgement fails, ``valid`` is False, ``error`` names why and both numbers are NaN;
    there is never a default rating.
    """

    rating: float
    """Rating, 1 (bad) – 5 (excellent)."""
    rating_std: float
    """Standard deviation of ``rating``, in rating units; NaN where one chain says nothing of it."""
    valid: bool = True
    error: str | None = None
    """Name of the failure, e.g. ``"truncated"``; None when valid."""
    message: str = ""
    """The failure in words, with its remedy."""
    name: str = ""
    """Where the image came from (a path, or a description of the object)."""
    regions: tuple[RegionScore, ...] = ()
    rounds: tuple[Round, ...] = ()
    """Every look the judge took, failed ones too; empty for a judge that looks once. Of several
    chains, those of the chain whose rating lies nearest to ``rating``."""
    fallback: str | None = None
    """``"round_1"`` when a later round failed and the rating is that of round 1, and so on."""
    directions: tuple[str, ...] = ()
    """What would improve the image (Zoom-IQA's *Directions for Improvement*)."""
    issues: tuple[str, ...] = ()
    """What a restorer should avoid (Zoom-IQA's *Issues to Avoid*)."""
    notes: tuple[str, ...] = ()
    """What was done to the image before judging, e.g. ``"alpha composited over white"``."""
    ratings: tuple[float, ...] = ()
    """Rating of every usable chain; ``rating`` is their mean. Empty for a judge without chains."""
    chain_errors: tuple[str, ...] = ()
    """Names of the failures of the chains that gave no rating."""
    chain_fallbacks: int = 0
    """Usable chains whose rating is that of an earlier look because a later one failed."""
    zoom_share: float | None = None
    """Share of the usable chains that asked for a closer look; None without chains."""
    zoom_shift: float | None = None
    """Mean change of the rating, in rating units, from the first to the last look over the chains
    that looked closer with success; None when there is none."""
    retries: int = 0
    """Replies that were unusable and asked for again."""
    tokens: int = 0
    """Tokens the judge wrote."""
    distribution: tuple[float, ...] = ()
    """Probability of 1 … 5 as the rating's whole part (``mode="expected"``); sums to 1."""
    digit_mass: float | None = None
    """Probability the judge gave to those five digits at all (``mode="expected"``)."""

    @property
    def score(self) -> float:
        """The rating on 0–100; NaN when the judgement failed."""
        return rating_to_score(self.rating)

    def lower_bound(self, confidence: float = 1.0) -> float:
        """The rating one can count on (:func:`lower_bound`)."""
        return lower_bound(self.rating, self.rating_std, confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON; NaN becomes None."""
        return _without_nan({**dataclasses.asdict(self), "score": self.score})

    @classmethod
    def failed(cls, error: str, message: str = "", name: str = "") -> Assessment:
        """A judgement that could not be made."""
        return cls(math.nan, math.nan, valid=False, error=error, message=message, name=name)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_nan(item) for item in value)
    return None if isinstance(value, float) and math.isnan(value) else value
