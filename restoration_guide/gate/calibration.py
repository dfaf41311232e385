"""A gate's threshold from labelled images: few unacceptable ones may pass.

The threshold is a conformal quantile of the ratings of *unacceptable* images (Vovk, Gammerman &
Shafer, *Algorithmic Learning in a Random World*, 2005; as one-class test of Bates et al., *Testing
for outliers with conformal p-values*, Annals of Statistics 2023). Of n of them with ratings
r(1) ≤ … ≤ r(n) it lies just above r(k), k = ⌈(n + 1)(1 − α)⌉. If the next unacceptable image is
exchangeable with these, it passes with probability at most 1 − k / (n + 1) ≤ α, on average over
calibrations, whatever the judge is. For one calibration the rate itself varies: without ties it is
Beta(n + 1 − k, k), which :attr:`Calibration.expected` spells out. What holds for photos like the
labelled ones says nothing of others.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.evaluation.correlation import bootstrap


class Rate(NamedTuple):
    """A share of images with its exact (Clopper–Pearson) 95 % interval."""

    value: float
    low: float
    high: float
    count: int
    """Images it is a share of."""

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.count}"


class GateRates(NamedTuple):
    """How a threshold does on labelled images."""

    false_accept: Rate
    """Share of the unacceptable images that pass."""
    false_reject: Rate
    """Share of the acceptable images that do not pass."""
    wrong_among_accepted: Rate
    """Share of unacceptable images among those that pass: what a user of the gate sees."""


@dataclass(frozen=True)
class Calibration:
    """A threshold and what is known of it."""

    min_rating: float
    """The rating from which an image passes."""
    interval: tuple[float, float]
    """95 % bootstrap interval of ``min_rating``, over the unacceptable images."""
    target_false_accept: float
    expected: tuple[float, float, float]
    """False-accept rate on images like these: mean, and the range that 95 % of calibrations of
    this size keep to (without ties among ratings)."""
    unacceptable: int
    """Number of unacceptable images the threshold rests on."""
    failed: int
    """How many of those could not be judged; they count as never accepted."""

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON and YAML."""
        return asdict(self)


def calibrate(
    ratings: ArrayLike,
    acceptable: ArrayLike,
    *,
    target_false_accept: float = 0.05,
    resamples: int = 1000,
    seed: int = 0,
) -> Calibration:
    """The lowest rating that lets at most the wanted share of unacceptable images pass.

    Args:
        ratings: of each image, 1–5; NaN where it could not be judged.
        acceptable: of each image, whether people would accept it.
        target_false_accept: α, in (0, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: lists of unequal length, α out of range, fewer than 1/α − 1 unacceptable images,
            or a judge that separates so badly that no rating up to 5 keeps the share.
    """
    values, bad = _rated(ratings, acceptable)
    alpha = target_false_accept
    if not 0 < alpha < 1:
        raise ValueError(f"target_false_accept is a share in (0, 1), got {alpha}.")
    wrong = np.sort(values[bad])
    if len(wrong) < 1 / alpha - 1 - 1e-9:
        raise ValueError(
            f"a false-accept rate of {alpha:g} needs at least {math.ceil(1 / alpha - 1 - 1e-9)} "
            f"unacceptable images, got {len(wrong)}; label more, or allow more false accepts."
        )
    k = _rank(len(wrong), alpha)
    threshold = conformal_threshold(wrong, alpha)
    if threshold > MAX_RATING:
        raise ValueError(
            f"no rating up to 5 keeps false accepts at {alpha:g}: the judge gives {wrong[k - 1]:g} "
            "to unacceptable images. Check the labels, or use a judge that tells them apart."
        )
    spread = bootstrap(
        lambda draw: max(MIN_RATING, min(MAX_RATING, conformal_threshold(draw, alpha))),
        wrong,
        resamples=resamples,
        seed=seed,
    )
    return Calibration(
        max(MIN_RATING, threshold),
        (spread.low, spread.high),
        alpha,
        _expected(len(wrong), k),
        len(wrong),
        int(np.isneginf(wrong).sum()),
    )


def check(ratings: ArrayLike, acceptable: ArrayLike, min_rating: float) -> GateRates:
    """How a threshold does on labelled images; on held-out ones, to check a calibration.

    Args:
        ratings: of each image; NaN where it could not be judged, which never passes.
        acceptable: of each image, whether people would accept it.
        min_rating: the rating from which an image passes.

    Raises:
        ValueError: lists of unequal length.
    """
    values, bad = _rated(ratings, acceptable)
    passed = values >= min_rating
    return GateRates(_rate(passed[bad]), _rate(~passed[~bad]), _rate(bad[passed]))


def conformal_threshold(unacceptable: ArrayLike, alpha: float) -> float:
    """The lowest threshold that the next unacceptable image reaches with probability ≤ α.

    Args:
        unacceptable: (n,) ratings, n ≥ 1/α − 1.
        alpha: α.
    """
    values = np.sort(np.asarray(unacceptable, float))
    # ">" becomes "≥" at the next number: ratings equal to the k-th do not pass
    return float(np.nextafter(values[_rank(len(values), alpha) - 1], np.inf))


def _rank(n: int, alpha: float) -> int:
    """⌈(n + 1)(1 − α)⌉, from 1; the subtrahend absorbs rounding of whole products."""
    return math.ceil((n + 1) * (1 - alpha) - 1e-9)


def _expected(n: int, k: int) -> tuple[float, float, float]:
    """Mean and central 95 % range of Beta(n + 1 − k, k)."""
    from scipy.stats import beta

    low, high = beta.ppf([0.025, 0.975], n + 1 - k, k)
    return (n + 1 - k) / (n + 1), float(low), float(high)


def _rated(ratings: ArrayLike, acceptable: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Ratings, −inf for failed ones, and which images are unacceptable."""
    values, bad = np.asarray(ratings, float), ~np.asarray(acceptable, bool)
    if values.ndim != 1 or values.shape != bad.shape:
        raise ValueError(
            f"expected one label for each rating, got {bad.shape} labels for {values.shape} ratings"
        )
    return np.where(np.isnan(values), -np.inf, values), bad


def _rate(hits: np.ndarray) -> Rate:
    from scipy.stats import binomtest

    if not len(hits):
        return Rate(math.nan, math.nan, math.nan, 0)
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="exact")
    return Rate(float(hits.mean()), float(interval.low), float(interval.high), len(hits))
