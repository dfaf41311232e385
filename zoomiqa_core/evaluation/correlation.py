"""Agreement between a judge and people: correlations, intervals, ordered pairs, regions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


class Estimate(NamedTuple):
    """A statistic with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def srcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """Spearman's rank correlation; NaN when either side is constant.

    >>> srcc([1.0, 2.0, 3.0], [10, 30, 20])
    0.5
    """
    return plcc(_mean_ranks(predicted), _mean_ranks(target))


def _mean_ranks(values: ArrayLike) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank; NaN everywhere when a value is NaN."""
    array = np.asarray(values)
    if array.dtype.kind == "f" and np.isnan(array).any():
        return np.full(array.shape, np.nan)
    counted = array.dtype.kind == "i" and array.size > 0 and array.min() >= 0
    if not (counted and array.max() <= 2 * array.size):
        array = np.unique(array, return_inverse=True)[1].reshape(-1)
    ties = np.bincount(array)
    return (ties.cumsum() - (ties - 1) / 2)[array]


def plcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """Pearson's linear correlation of the raw values (no fit); NaN when a side is constant.

    >>> round(plcc([1.0, 2.0, 3.0], [10, 30, 20]), 3)
    0.5
    """
    x, y = np.asarray(predicted, float), np.asarray(target, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"need two equally long lists of ≥ 2 values, got {x.shape} and {y.shape}")
    # Equal values may differ from their mean by rounding, so a norm of zero does not show them.
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def krcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """Kendall's rank correlation τ-b (ties count for neither side); NaN when a side is constant.

    >>> round(krcc([1.0, 2.0, 3.0], [10, 30, 20]), 3)  # 2 pairs in order, 1 not
    0.333
    """
    from scipy.stats import kendalltau

    x, y = np.asarray(predicted, float), np.asarray(target, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"need two equally long lists of ≥ 2 values, got {x.shape} and {y.shape}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.asarray(kendalltau(x, y, method="asymptotic"))[0])


class LogisticFit(NamedTuple):
    """The outcome of :func:`logistic_fit`."""

    fitted: np.ndarray
    """(n,) in units of the target; NaN everywhere when there is no fit."""
    reason: str | None
    """Why there is no fit, in words; None when there is one."""
    curve: Callable[[np.ndarray], np.ndarray] | None = None
    """The mapping itself, from predictions to units of the target."""


def logistic_fit(predicted: ArrayLike, target: ArrayLike) -> LogisticFit:
    """The rising logistic curve of four parameters nearest to ``target`` (least squares).

    ``low + height / (1 + exp(−(x − centre) / width))``, the mapping that papers fit before a
    PLCC (VQEG, *Final report on the validation of objective models*, 2000). Departure:
    ``height`` and ``width`` are positive, so a judge that rates the wrong way round gains nothing.
    It sees the targets it is compared with, though with four parameters only: report it beside
    the raw one. Never raises for values that cannot be fitted.

    Args:
        predicted: (n,) finite values.
        target: (n,) finite values.
    """
    from scipy.optimize import curve_fit
    from scipy.special import expit

    x, y = np.asarray(predicted, float), np.asarray(target, float)
    nothing = np.full(x.shape, np.nan)
    if len(x) < 5:
        return LogisticFit(nothing, f"four parameters need 5 values or more, there are {len(x)}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return LogisticFit(nothing, "all predictions or all targets are equal")

    def rise(z: np.ndarray, low: float, height: float, centre: float, width: float) -> np.ndarray:
        return low + height * expit((z - centre) / width)

    # In standard units one start and one set of bounds serve every scale; the bounds hold the
    # parameters of a straight line (height and width without end) and of a step (width 0).
    x_mean, x_std, y_mean, y_std = x.mean(), x.std(), y.mean(), y.std()
    z, targets = (x - x_mean) / x_std, (y - y_mean) / y_std
    start = (targets.min(), np.ptp(targets), 0.0, 0.5)
    bounds = ([-200, 0, -10, 1e-3], [200, 400, 10, 100])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parameters' covariance is not used
            found, _ = curve_fit(rise, z, targets, start, bounds=bounds, maxfev=5000)
    except (RuntimeError, ValueError) as error:
        return LogisticFit(nothing, f"no fit found: {error}")
    if np.ptp(rise(z, *found)) < 1e-3:
        return LogisticFit(nothing, "the best rising curve is flat: no positive relation")

    def curve(values: np.ndarray) -> np.ndarray:
        return y_mean + y_std * rise((values - x_mean) / x_std, *found)

    return LogisticFit(curve(x), None, curve)


def isotonic_fit(predicted: ArrayLike, target: ArrayLike) -> np.ndarray:
    """The non-decreasing function of ``predicted`` nearest to ``target`` (least squares).

    In single precision like Zoom-IQA's official metric (arXiv 2601.02918), which decides which
    fitted values are ties. The fit sees the targets it is compared with: with 200 images and no
    true correlation it still shows a PLCC near .14. Report it beside the raw one.

    Returns:
        (n,) fitted values, in units of ``target``.
    """
    from sklearn.isotonic import IsotonicRegression

    x, y = (np.asarray(values, np.float32).astype(float) for values in (predicted, target))
    return IsotonicRegression(out_of_bounds="clip").fit(x, y).predict(x).astype(np.float32)


def isotonic_plcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """PLCC of the in-sample isotonic fit; NaN when the fit is constant."""
    return plcc(isotonic_fit(predicted, target), np.asarray(target, np.float32))


def isotonic_srcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """SRCC of the in-sample isotonic fit; NaN when the fit is constant."""
    return srcc(isotonic_fit(predicted, target), np.asarray(target, np.float32))


def bootstrap(
    statistic: Callable[..., float],
    *columns: ArrayLike,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap over rows, the columns resampled together.

    Args:
        statistic: function of the columns (arrays) giving a float.
        columns: equally long sequences; one row is one image.
    """
    arrays = [np.asarray(column) for column in columns]
    rows = len(arrays[0])
    random = np.random.default_rng(seed)
    draws = [
        statistic(*(array[chosen] for array in arrays))
        for chosen in random.integers(rows, size=(resamples, rows))
    ]
    tail = 50 * (1 - confidence)
    defined = [draw for draw in draws if not np.isnan(draw)] or [np.nan]
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(statistic(*arrays), float(low), float(high))


def interval_coverage(
    error: ArrayLike, std: ArrayLike, level: float, *, weight: ArrayLike | None = None
) -> float:
    """Share of errors inside the central Gaussian interval of probability ``level``.

    Args:
        error: (n,) rating − truth.
        std: (n,) > 0, what the judge says of each.
        level: in (0, 1).
        weight: (n,) how much each counts; default: all the same.
    """
    from scipy.stats import norm

    halfwidth = norm.ppf((1 + level) / 2) * np.asarray(std, float)
    inside = np.abs(np.asarray(error, float)) <= halfwidth
    return float(np.average(inside, weights=None if weight is None else np.asarray(weight, float)))


def interval_calibration_error(error: ArrayLike, std: ArrayLike) -> float:
    """Mean distance of the coverage from its level, over levels .05, .10 … .95.

    The expected calibration error of intervals (Kuleshov, Fenner & Ermon, *Accurate Uncertainties
    for Deep Learning Using Calibrated Regression*, ICML 2018; absolute instead of squared).
    0 is calibrated; the worst is near .5.
    """
    levels = np.arange(1, 20) / 20
    found = [interval_coverage(error, std, level) for level in levels]
    return float(np.mean(np.abs(np.array(found) - levels)))


def auc(lower: ArrayLike, higher: ArrayLike) -> float:
    """Chance that a value of ``higher`` exceeds one of ``lower``; a tie counts half.

    The area under the ROC curve of telling the two apart by the value.
    """
    x, y = np.asarray(lower, float)[:, None], np.asarray(higher, float)[None, :]
    return float(np.mean((y > x) + 0.5 * (y == x)))


def mean_subset_srcc(predicted: ArrayLike, target: ArrayLike, subset: ArrayLike) -> float:
    """SRCC inside each subset, averaged: the subsets' means cannot help."""
    x, y, names = np.asarray(predicted), np.asarray(target), np.asarray(subset)
    return float(np.mean([srcc(x[names == name], y[names == name]) for name in np.unique(names)]))


def ordered_pairs(rating: ArrayLike, target: ArrayLike, *, min_gap: float) -> list[bool]:
    """For every pair apart by ≥ ``min_gap`` in ``target``: does ``rating`` order it alike?"""
    x, y = np.asarray(rating, float), np.asarray(target, float)
    better, worse = np.nonzero((y[:, None] - y[None, :]) >= min_gap)
    return (x[better] > x[worse]).tolist()


def pointing(quality_map: Tensor, mask: Tensor) -> bool:
    """Does the worst cell of the map lie in the damage (the pointing game, Zhang et al. 2018)?

    Args:
        quality_map: (h, w) ratings.
        mask: (h, w) share of damage per cell, in [0, 1]; inside means > 0.5.
    """
    return bool(mask.flatten()[quality_map.argmin()] > 0.5)


def damage_iou(quality_map: Tensor, mask: Tensor) -> float:
    """Intersection over union of the damage and the map's worst cells, as many as are damaged.

    Args:
        quality_map: (h, w) ratings.
        mask: (h, w) share of damage per cell; > 0.5 is damaged.
    """
    truth = mask.flatten() > 0.5
    found = truth.new_zeros(truth.shape)
    found[quality_map.flatten().argsort()[: int(truth.sum())]] = True
    return float((truth & found).sum() / (truth | found).sum().clamp(min=1))
