"""A gate's threshold from labelled images: few unacceptable ones may pass.

What is compared with the threshold is a value per image: the rating of a result, or the lower bound
of its gain over its input, ``gain − k · std``, where the judge takes the input.

The threshold is a conformal quantile of the values of *unacceptable* images (Vovk, Gammerman &
Shafer, *Algorithmic Learning in a Random World*, 2005; as one-class test of Bates et al., *Testing
for outliers with conformal p-values*, Annals of Statistics 2023). Of n of them with values
r(1) ≤ … ≤ r(n) it lies just above r(k), k = ⌈(n + 1)(1 − α)⌉. If the next unacceptable image is
exchangeable with these, it passes with probability at most 1 − k / (n + 1) ≤ α, on average over
calibrations, whatever the judge is. For one calibration the rate itself varies: without ties it is
Beta(n + 1 − k, k), which :attr:`Calibration.expected` spells out. What holds for photos like the
labelled ones says nothing of others.

Several results of one photo are alike: give ``photos``, so that intervals are over photos. The
bound on the false accepts then holds approximately, and :attr:`Calibration.expected` is too narrow;
check the threshold on photos held out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.evaluation.correlation import bootstrap

RATINGS = (MIN_RATING, MAX_RATING)
GAINS = (-math.inf, math.inf)
"""Ranges of a threshold."""


class Rate(NamedTuple):
    """A share of images with its exact (Clopper–Pearson) 95 % interval."""

    value: float
    low: float
    high: float
    count: int
    """Images it is a share of."""
    effective: float
    """Number of independent images that give an interval as wide; ``count`` where all are."""

    def __str__(self) -> str:
        alike = f", as {self.effective:.0f} independent" if self.effective < self.count else ""
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.count}{alike}"


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

    threshold: float
    """The value from which an image passes: a gate's ``min_rating`` or ``min_gain``."""
    interval: tuple[float, float]
    """95 % bootstrap interval of ``threshold``, over the photos of unacceptable images."""
    target_false_accept: float
    expected: tuple[float, float, float]
    """False-accept rate on images like these: mean, and the range that 95 % of calibrations of
    this size keep to (independent images, no ties)."""
    unacceptable: int
    """Number of unacceptable images the threshold rests on."""
    failed: int
    """How many of those could not be judged; they count as never accepted."""

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON and YAML."""
        return asdict(self)


def calibrate(
    values: ArrayLike,
    acceptable: ArrayLike,
    *,
    target_false_accept: float = 0.05,
    bounds: tuple[float, float] = RATINGS,
    photos: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Calibration:
    """The lowest threshold that lets at most the wanted share of unacceptable images pass.

    Args:
        values: of each image, its rating or the lower bound of its gain; NaN where it could not be
            judged.
        acceptable: of each image, whether people would accept it.
        target_false_accept: α, in (0, 1).
        bounds: range of thresholds: ``RATINGS``, or ``GAINS``, which is unbounded.
        photos: of each image, the photo it was made from; None where every image has its own.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: lists of unequal length, α out of range, fewer than 1/α − 1 unacceptable images,
            or a judge that separates so badly that no threshold within ``bounds`` keeps the share.

    >>> import numpy as np
    >>> gains = np.linspace(-1, 1, 40)  # the worse half is not acceptable
    >>> round(calibrate(gains, gains > 0, bounds=GAINS).threshold, 3)  # just above the largest
    -0.026
    """
    values, bad, photo = _labelled(values, acceptable, photos)
    alpha = target_false_accept
    if not 0 < alpha < 1:
        raise ValueError(f"target_false_accept is a share in (0, 1), got {alpha}.")
    order = np.argsort(values[bad], kind="stable")
    wrong, photo = values[bad][order], photo[bad][order]
    if len(wrong) < 1 / alpha - 1 - 1e-9:
        raise ValueError(
            f"a false-accept rate of {alpha:g} needs at least {math.ceil(1 / alpha - 1 - 1e-9)} "
            f"unacceptable images, got {len(wrong)}; label more, or allow more false accepts."
        )
    k = _rank(len(wrong), alpha)
    threshold = conformal_threshold(wrong, alpha)
    low, high = bounds
    if threshold > high:
        raise ValueError(
            f"no rating up to {high:g} keeps false accepts at {alpha:g}: the judge gives "
            f"{wrong[k - 1]:g} to unacceptable images. Check the labels, or use a judge that tells "
            "them apart."
        )
    groups = [wrong[photo == name] for name in dict.fromkeys(photo.tolist())]

    def of_photos(chosen: np.ndarray) -> float:
        drawn = np.concatenate([groups[index] for index in chosen])
        if _rank(len(drawn), alpha) > len(drawn):
            return math.nan  # small photos were drawn: too few images for a threshold
        return max(low, min(high, conformal_threshold(drawn, alpha)))

    spread = bootstrap(of_photos, np.arange(len(groups)), resamples=resamples, seed=seed)
    return Calibration(
        max(low, threshold),
        (spread.low, spread.high),
        alpha,
        _expected(len(wrong), k),
        len(wrong),
        int(np.isneginf(wrong).sum()),
    )


def check(
    values: ArrayLike,
    acceptable: ArrayLike,
    threshold: float,
    *,
    photos: Sequence[str] | None = None,
) -> GateRates:
    """How a threshold does on labelled images; on held-out ones, to check a calibration.

    Args:
        values: of each image; NaN where it could not be judged, which never passes.
        acceptable: of each image, whether people would accept it.
        threshold: the value from which an image passes.
        photos: of each image, the photo it was made from; None where every image has its own.

    Raises:
        ValueError: lists of unequal length.

    >>> print(check([0.5, 0.25, -0.5, 0.125], [True, False, False, False], 0.25).false_accept)
    33.3% [0.8%, 90.6%] of 3
    """
    values, bad, photo = _labelled(values, acceptable, photos)
    passed = values >= threshold
    return GateRates(
        _rate(passed[bad], photo[bad]),
        _rate(~passed[~bad], photo[~bad]),
        _rate(bad[passed], photo[passed]),
    )


def conformal_threshold(unacceptable: ArrayLike, alpha: float) -> float:
    """The lowest threshold that the next unacceptable image reaches with probability ≤ α.

    Args:
        unacceptable: (n,) values, n ≥ 1/α − 1.
        alpha: α.
    """
    values = np.sort(np.asarray(unacceptable, float))
    # ">" becomes "≥" at the next number: values equal to the k-th do not pass
    return float(np.nextafter(values[_rank(len(values), alpha) - 1], np.inf))


def _rank(n: int, alpha: float) -> int:
    """⌈(n + 1)(1 − α)⌉, from 1; the subtrahend absorbs rounding of whole products."""
    return math.ceil((n + 1) * (1 - alpha) - 1e-9)


def _expected(n: int, k: int) -> tuple[float, float, float]:
    """Mean and central 95 % range of Beta(n + 1 − k, k)."""
    from scipy.stats import beta

    low, high = beta.ppf([0.025, 0.975], n + 1 - k, k)
    return (n + 1 - k) / (n + 1), float(low), float(high)


def _labelled(
    values: ArrayLike, acceptable: ArrayLike, photos: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, −inf for failed ones; which images are unacceptable; the index of their photo."""
    found, bad = np.asarray(values, float), ~np.asarray(acceptable, bool)
    if found.ndim != 1 or found.shape != bad.shape:
        raise ValueError(
            f"expected one label for each image, got {bad.shape} labels for {found.shape} values"
        )
    if photos is not None and len(photos) != len(found):
        raise ValueError(f"expected a photo for each image, got {len(photos)} for {len(found)}")
    names = range(len(found)) if photos is None else photos
    photo = np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1)
    return np.where(np.isnan(found), -np.inf, found), bad, photo


def _rate(hits: np.ndarray, photo: np.ndarray) -> Rate:
    from scipy.stats import beta

    if not len(hits):
        return Rate(math.nan, math.nan, math.nan, 0, 0)
    share, size = float(hits.mean()), _effective_size(hits, photo)
    yes, no = share * size, (1 - share) * size
    low = float(beta.ppf(0.025, yes, no + 1)) if yes else 0.0
    high = float(beta.ppf(0.975, yes + 1, no)) if no else 1.0
    return Rate(share, low, high, len(hits), size)


def _effective_size(hits: np.ndarray, photo: np.ndarray) -> float:
    """Number of independent images that estimate the share as well as these.

    The number over the design effect, the variance of the share over photos as a multiple of that
    of independent images, with the correction for few photos (Korn & Graubard, *Confidence
    intervals for proportions with small expected number of positive counts estimated from survey
    data*, Survey Methodology 1998). Where all images are alike there is no variance to go by, and
    every photo counts as one.
    """
    from scipy.stats import t

    count, share = len(hits), float(hits.mean())
    photos = len(np.unique(photo))
    if photos == count:
        return count
    if photos == 1 or share in (0, 1):
        return photos
    errors = np.bincount(photo, hits - share)
    variance = photos / (photos - 1) * float(errors @ errors) / count**2
    design_effect = variance * (count - 1) / (share * (1 - share))
    few = (t.ppf(0.975, count - 1) / t.ppf(0.975, photos - 1)) ** 2
    return float(min(count, count / max(design_effect, 1e-9) * few))
