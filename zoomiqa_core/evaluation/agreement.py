"""Agreement of ratings with people's: three mappings × three correlations, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from zoomiqa_core.evaluation.correlation import (
    Estimate,
    isotonic_fit,
    krcc,
    logistic_fit,
    plcc,
    srcc,
)

MIN_IMAGES = 3
"""Two images always correlate perfectly."""

_CHUNK = 2_000_000  # resamples × images handled at once, which bounds the memory

Weights = np.ndarray
"""(resamples, n) how often a resample drew each row."""


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
    """
    x, y = np.asarray(predicted, float), np.asarray(target, float)
    if len(x) < MIN_IMAGES:
        none = _undefined(f"correlations need {MIN_IMAGES} images or more, there are {len(x)}")
        return {"raw": none, "logistic": none, "isotonic": none}
    logistic, draws = logistic_fit(x, y), _draws(len(x), resamples, seed)
    raw = _correlations(x, y, draws)
    # In single precision like the official metric, on both sides.
    isotonic, y32 = isotonic_fit(x, y).astype(float), y.astype(np.float32).astype(float)
    if logistic.reason is not None:
        curved = _undefined(logistic.reason)
    elif _same_order(x, logistic.fitted):  # then the rank correlations, which take long, are too
        curved = raw._replace(plcc=_interval(plcc, resampled_plcc, logistic.fitted, y, draws))
    else:
        curved = _correlations(logistic.fitted, y, draws)
    return {"raw": raw, "logistic": curved, "isotonic": _correlations(isotonic, y32, draws)}


def _correlations(x: np.ndarray, y: np.ndarray, draws: Weights) -> Agreement:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return _undefined(f"all {'predictions' if np.ptp(x) == 0 else 'targets'} are equal")
    return Agreement(
        _interval(plcc, resampled_plcc, x, y, draws),
        _interval(srcc, resampled_srcc, x, y, draws),
        _interval(krcc, resampled_krcc, x, y, draws),
    )


def _same_order(x: np.ndarray, fitted: np.ndarray) -> bool:
    before, after = (np.unique(values, return_inverse=True)[1] for values in (x, fitted))
    return np.array_equal(before, after)


def _undefined(reason: str) -> Agreement:
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    return Agreement(nothing, nothing, nothing, reason)


def _draws(rows: int, resamples: int, seed: int) -> Weights:
    """The draws of :func:`zoomiqa_core.evaluation.correlation.bootstrap`, counted."""
    chosen = np.random.default_rng(seed).integers(rows, size=(resamples, rows))
    return np.stack([np.bincount(draw, minlength=rows) for draw in chosen]).astype(np.float32)


def _interval(
    whole: Callable[[np.ndarray, np.ndarray], float],
    resampled: Callable[[np.ndarray, np.ndarray, Weights], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    draws: Weights,
) -> Estimate:
    step = max(1, _CHUNK // len(x))
    parts = [resampled(x, y, draws[at : at + step]) for at in range(0, len(draws), step)]
    values = np.concatenate(parts)
    defined = values[~np.isnan(values)]
    low, high = np.percentile(defined if len(defined) else [np.nan], [2.5, 97.5])
    return Estimate(whole(x, y), float(low), float(high))


def resampled_plcc(x: np.ndarray, y: np.ndarray, weights: Weights) -> np.ndarray:
    """PLCC of every resample.

    Args:
        x: (n,), or (resamples, n) where the values depend on the resample.
        y: the same.
        weights: (resamples, n).

    Returns:
        (resamples,); NaN where a side of the resample is constant.
    """
    w = weights.astype(float)
    x, y = np.broadcast_to(x, w.shape), np.broadcast_to(y, w.shape)
    total = w.sum(1, keepdims=True)
    x = x - (w * x).sum(1, keepdims=True) / total
    y = y - (w * y).sum(1, keepdims=True) / total
    covariance = np.einsum("rn,rn,rn->r", w, x, y)
    variances = np.einsum("rn,rn,rn->r", w, x, x) * np.einsum("rn,rn,rn->r", w, y, y)
    # Rounding leaves a constant side a tiny variance, so that zero does not show it.
    variances[_constant(x, w > 0) | _constant(y, w > 0)] = np.nan
    return covariance / np.sqrt(variances)


def _constant(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(resamples,) whether all drawn values of a resample are equal."""
    highest = values.max(axis=1, where=drawn, initial=-np.inf)
    return highest == values.min(axis=1, where=drawn, initial=np.inf)


def resampled_srcc(x: np.ndarray, y: np.ndarray, weights: Weights) -> np.ndarray:
    """SRCC of every resample: ties, duplicated rows among them, share their mean rank.

    Returns:
        (resamples,); NaN where a side of the resample is constant.
    """
    return resampled_plcc(_resampled_ranks(x, weights), _resampled_ranks(y, weights), weights)


def resampled_krcc(x: np.ndarray, y: np.ndarray, weights: Weights) -> np.ndarray:
    """Kendall's τ-b of every resample, from one matrix of concordant minus discordant pairs.

    Returns:
        (resamples,); NaN where a side of the resample is constant.
    """
    rows = max(1, _CHUNK // len(x))
    concordance = np.zeros(len(weights))
    for at in range(0, len(x), rows):
        block = slice(at, at + rows)
        signs = np.sign(x[block, None] - x).astype(np.float32)
        signs *= np.sign(y[block, None] - y)
        # Sums of few small whole numbers: exact in single precision.
        concordance += np.einsum("rn,rn->r", weights[:, block] @ signs, weights, dtype=float)
    pairs = [weights.sum(1, dtype=float) ** 2 - (_tied(v, weights) ** 2).sum(1) for v in (x, y)]
    product = pairs[0] * pairs[1]
    return concordance / np.sqrt(np.where(product > 0, product, np.nan))


def _tied(values: np.ndarray, weights: Weights) -> np.ndarray:
    """(resamples, groups) how many draws share each distinct value, in ascending order."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
    return np.add.reduceat(weights[:, order].astype(float), starts, axis=1)


def _resampled_ranks(values: np.ndarray, weights: Weights) -> np.ndarray:
    """(resamples, n) rank of every value within each resample."""
    tied = _tied(values, weights)
    group = np.unique(values, return_inverse=True)[1].reshape(-1)
    return (tied.cumsum(1) - (tied - 1) / 2)[:, group]
