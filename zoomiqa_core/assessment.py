"""What a judge returns: typed results in which a failed judgement is never a number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MIN_RATING, MAX_RATING = 1.0, 5.0
"""The rating scale: five-point absolute category rating, 1 bad … 5 excellent (ITU-R BT.500)."""

BBox = tuple[float, float, float, float]
"""Normalised ``(x0, y0, x1, y1)``: fractions of width and height, origin top left."""


def rating_to_score(rating: float) -> float:
    """Map a rating in [1, 5] to the 0–100 score of Zoom-IQA: ``(clip(rating, 1, 5) − 1) · 25``.

    A NaN rating (a failed judgement) stays NaN.

    >>> rating_to_score(3.5)
    62.5
    """
    if math.isnan(rating):
        return math.nan
    return (min(max(rating, MIN_RATING), MAX_RATING) - MIN_RATING) * 25.0


def score_to_rating(score: float) -> float:
    """Inverse of :func:`rating_to_score` on [0, 100].

    >>> score_to_rating(62.5)
    3.5
    """
    return score / 25.0 + MIN_RATING


def lower_bound(rating: float, rating_std: float, k: float = 1.0) -> float:
    """Lower confidence bound ``rating − k · rating_std``; with ``k=0`` the rating itself.

    >>> lower_bound(4.0, 0.25, k=2)
    3.5
    >>> lower_bound(4.0, float("nan"), k=0)  # one chain has no standard deviation
    4.0
    """
    return rating - k * rating_std if k else rating


def check_bbox(bbox: Sequence[float]) -> BBox:
    """Return the box as a tuple if it is a valid normalised box.

    Raises:
        ValueError: not 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.

    >>> check_bbox([0, 0.5, 1, 1])
    (0, 0.5, 1, 1)
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
    """The rating of one region of an image.

    >>> import zoomiqa_core as zi
    >>> import torch
    >>> photo = torch.rand(3, 64, 96)
    >>> (left,) = zi.load_scorer("proxy").score_regions(photo, [(0, 0, 0.5, 1)])
    >>> left.valid, left.bbox
    (True, (0, 0, 0.5, 1))
    """

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
    """One reply of a vision-language judge: about the whole image, or also about a crop of it.

    >>> import zoomiqa_core as zi
    >>> first = zi.Round(2.25, "crop", bbox=(0.1, 0.2, 0.4, 0.9), issues=("Noise in the sky.",))
    >>> first.valid, first.issues
    (True, ('Noise in the sky.',))
    """

    rating: float
    """Rating of this reply; NaN when it was unusable. Where the judge's probabilities are known,
    the mean over the digits it could have written there."""
    tool: str | None = None
    """``"crop"`` when the judge asked to see a region, ``"final"`` when not; None on failure."""
    bbox: BBox | None = None
    """The region shown in the next round; None in the last round."""
    central_fallback: bool = False
    """The requested region was unusable, so ``bbox`` is the centre of the image."""
    error: str | None = None
    """Name of the failure, e.g. ``"malformed_json"``; None when the reply was usable."""
    message: str = ""
    """The failure in words."""
    repaired: bool = False
    """The answer was not JSON and had to be repaired."""
    summary: tuple[str, ...] = ()
    """What the judge saw, as sentences."""
    directions: tuple[str, ...] = ()
    """What would improve the image."""
    issues: tuple[str, ...] = ()
    """What a restorer should avoid."""
    decision: tuple[str, ...] = ()
    """Why this rating, and why a crop was or was not requested."""
    text: str = ""
    """The whole reply, untrusted: escape it before rendering."""
    sampled: float | None = None
    """The rating as the reply has it, when ``rating`` is a mean; else None."""

    @property
    def written(self) -> float:
        """The rating as the reply has it."""
        return self.rating if self.sampled is None else self.sampled

    @property
    def valid(self) -> bool:
        """Whether the reply was usable."""
        return self.error is None


@dataclass(frozen=True)
class Chains:
    """How a vision-language judge reached its rating: the chains of rounds it sampled.

    A chain is one conversation about the image; K chains give K ratings, whose mean is the
    assessment's rating.

    >>> import zoomiqa_core as zi
    >>> chains = zi.Chains(ratings=(3.5, 4.75), zoom_share=0.5, zoom_shift=2.5)
    >>> a = zi.Assessment(4.125, 0.884, chains=chains)
    >>> a.chains.ratings
    (3.5, 4.75)
    """

    rounds: tuple[Round, ...] = ()
    """Rounds of the chain whose rating is nearest to the mean, failed rounds included."""
    fallback: str | None = None
    """``"round_1"`` when a later round of that chain failed and its rating is that of round 1."""
    ratings: tuple[float, ...] = ()
    """Rating of every usable chain."""
    errors: tuple[str, ...] = ()
    """Names of the failures of the chains without a rating."""
    fallbacks: int = 0
    """Number of usable chains whose rating is from an earlier round because a later one failed."""
    zoom_share: float | None = None
    """Fraction of the usable chains that requested a crop; None without usable chains."""
    zoom_shift: float | None = None
    """Mean change of the rating, in rating units, from the first to the last round, over the
    chains whose crop round succeeded; None when there is none."""
    retries: int = 0
    """Number of unusable replies that were sampled again."""
    tokens: int = 0
    """Number of generated tokens."""
    distribution: tuple[float, ...] = ()
    """Probability of 1 … 5 as the rating's integer part (``mode="expected"``); sums to 1."""
    digit_mass: float | None = None
    """Total probability of these five digits before normalisation (``mode="expected"``)."""


@dataclass(frozen=True)
class Assessment:
    """The judgement of one image.

    When a judgement fails, ``valid`` is False, ``error`` names the reason and both numbers are
    NaN; there is never a default rating.

    >>> import zoomiqa_core as zi
    >>> a = zi.Assessment(3.48, 0.21, name="photo.jpg")
    >>> print(a)
    3.48 ± 0.21 photo.jpg
    >>> round(a.score, 1), round(a.lower_bound(k=2), 2)
    (62.0, 3.06)
    >>> print(zi.load_scorer("proxy").assess("missing.png"))
    missing.png: missing (missing.png: no such file; check the path)
    """

    rating: float
    """Rating, 1 (bad) – 5 (excellent)."""
    rating_std: float
    """Standard deviation of ``rating``, in rating units; NaN for a single chain."""
    valid: bool = True
    error: str | None = None
    """Name of the failure, e.g. ``"truncated"``; None when valid."""
    message: str = ""
    """The failure in words, with its fix."""
    name: str = ""
    """Where the image came from: a path, or a description of the object."""
    regions: tuple[RegionScore, ...] = ()
    """Ratings of the regions asked for with ``regions="model"``."""
    directions: tuple[str, ...] = ()
    """What would improve the image (Zoom-IQA's *Directions for Improvement*)."""
    issues: tuple[str, ...] = ()
    """What a restorer should avoid (Zoom-IQA's *Issues to Avoid*)."""
    notes: tuple[str, ...] = ()
    """What was done to the image before judging, e.g. ``"alpha composited over white"``."""
    chains: Chains | None = None
    """How a vision-language judge reached its rating; None for every other judge."""
    gain: float = math.nan
    """Rating of a restoration above its degraded input's, by a judge that sees both; NaN for every
    other judge."""
    gain_std: float = math.nan
    """Standard deviation of ``gain``; 0 for the input itself."""

    @property
    def score(self) -> float:
        """The rating on 0–100; NaN when the judgement failed."""
        return rating_to_score(self.rating)

    def lower_bound(self, k: float = 1.0) -> float:
        """Lower confidence bound ``rating − k · rating_std`` (:func:`lower_bound`)."""
        return lower_bound(self.rating, self.rating_std, k)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON; NaN becomes None."""
        return _without_nan({**dataclasses.asdict(self), "score": self.score})

    @classmethod
    def failed(cls, error: str, message: str = "", name: str = "") -> Assessment:
        """An invalid assessment with the name of the failure.

        >>> Assessment.failed("truncated", "the file ends early", "photo.jpg").valid
        False
        """
        return cls(math.nan, math.nan, valid=False, error=error, message=message, name=name)

    def __str__(self) -> str:
        if not self.valid:
            why = f"{self.error} ({self.message})" if self.message else str(self.error)
            return f"{self.name}: {why}" if self.name else why
        std = "" if math.isnan(self.rating_std) else f" ± {self.rating_std:.2f}"
        return f"{self.rating:.2f}{std} {self.name}".rstrip()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_nan(item) for item in value)
    return None if isinstance(value, float) and math.isnan(value) else value
