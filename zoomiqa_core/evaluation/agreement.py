"""Agreement of ratings with people's: three correlations after three mappings, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from zoomiqa_core.evaluation.correlation import (
    Estimate,
    bootstrap,
    isotonic_fit,
    krcc,
    logistic_fit,
    plcc,
    srcc,
)

MIN_IMAGES = 3
"""Two images always correlate perfectly."""


class Agreement(NamedTuple):
    """Correlations of one mapping of the predictions with the targets."""

    plcc: Estimate
    srcc: Estimate
    krcc: Estimate
    reason: str | None = None
    """Why the values are NaN; None when they are numbers."""


def agreement(
    predicted: ArrayLike, target: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Agreement]:
    """Raw, logistic and isotonic correlations side by side, with 95 % bootstrap intervals.

    Each curve is fitted once, to all rows, and its output is resampled: the intervals say how far
    the correlation of *this* mapping varies with the images, not how far the mapping does. (A fit
    per resample would see duplicated rows, and look better still.)

    Args:
        predicted: (n,) ratings, finite.
        target: (n,) mean opinions, finite, higher is better.
        resamples: of the rows; all intervals share the same draws.
        seed: of the draws.

    Returns:
        ``"raw"``, ``"logistic"``, ``"isotonic"`` → :class:`Agreement`. What cannot be computed is
        NaN with its reason.

    >>> rated = agreement([1.2, 2.0, 2.9, 3.1, 4.4, 4.8], [10, 35, 30, 60, 75, 90], resamples=50)
    >>> print(rated["raw"].srcc)
    0.943 [0.290, 1.000]
    """
    x, y = np.asarray(predicted, float), np.asarray(target, float)
    if len(x) < MIN_IMAGES:
        none = _undefined(f"correlations need at least {MIN_IMAGES} images, got {len(x)}")
        return {"raw": none, "logistic": none, "isotonic": none}
    logistic = logistic_fit(x, y)
    raw = _correlations(x, y, resamples, seed)
    # In single precision like the official metric, on both sides.
    isotonic, y32 = isotonic_fit(x, y).astype(float), y.astype(np.float32).astype(float)
    if logistic.reason is not None:
        curved = _undefined(logistic.reason)
    elif _same_order(x, logistic.fitted):  # then the slow rank correlations are the same
        interval = bootstrap(plcc, logistic.fitted, y, resamples=resamples, seed=seed)
        curved = raw._replace(plcc=interval)
    else:
        curved = _correlations(logistic.fitted, y, resamples, seed)
    fitted = _correlations(isotonic, y32, resamples, seed)
    return {"raw": raw, "logistic": curved, "isotonic": fitted}


def _correlations(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> Agreement:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return _undefined(f"all {'predictions' if np.ptp(x) == 0 else 'targets'} are equal")
    # Places in the order instead of values: whole numbers are ranked much faster.
    places = [np.unique(values, return_inverse=True)[1] for values in (x, y)]
    return Agreement(
        bootstrap(plcc, x, y, resamples=resamples, seed=seed),
        bootstrap(srcc, *places, resamples=resamples, seed=seed),
        bootstrap(krcc, *places, resamples=resamples, seed=seed),
    )


def _same_order(x: np.ndarray, fitted: np.ndarray) -> bool:
    before, after = (np.unique(values, return_inverse=True)[1] for values in (x, fitted))
    return np.array_equal(before, after)


def _undefined(reason: str) -> Agreement:
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    return Agreement(nothing, nothing, nothing, reason)
