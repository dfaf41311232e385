"""Statistics of a judge's agreement with people: correlations, intervals, pairs, regions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


class Estimate(NamedTuple):
    """A statistic with its confidence interval.

    >>> print(Estimate(0.65, 0.58, 0.71))
    0.650 [0.580, 0.710]
    """

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
    small_counts = array.dtype.kind == "i" and array.size > 0 and array.min() >= 0
    if not (small_counts and array.max() <= 2 * array.size):
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
    # Rounding: the norm of a constant list may differ from 0.
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def krcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """Kendall's rank correlation τ-b (corrected for ties); NaN when a side is constant.

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
    """Result of :func:`logistic_fit`."""

    fitted: np.ndarray
    """(n,) in units of the target; NaN everywhere when there is no fit."""
    reason: str | None
    """Why there is no fit; None when there is one."""
    curve: Callable[[np.ndarray], np.ndarray] | None = None
    """The fitted function, from predictions to units of the target; None when there is no fit."""


def logistic_fit(predicted: ArrayLike, target: ArrayLike) -> LogisticFit:
    """Fit a rising logistic curve of four parameters from predictions to targets (least squares).

    ``low + height / (1 + exp(−(x − centre) / width))``, the mapping that papers fit before a
    PLCC (VQEG, *Final report on the validation of objective models*, 2000). Departure:
    ``height`` and ``width`` are positive, so an inverted judge gets no credit. The fit uses the
    targets that it is compared with, so report its PLCC beside the raw one. Values that cannot be
    fitted raise no error: ``reason`` says why.

    >>> fit = logistic_fit([1, 2, 3, 4, 5], [1.0, 1.2, 3.0, 4.8, 5.0])
    >>> fit.fitted.round(1), fit.reason
    (array([1. , 1.2, 3. , 4.8, 5. ]), None)
    >>> logistic_fit([1, 2], [1.0, 2.0]).reason
    'four parameters need at least 5 values, got 2'

    Args:
        predicted: (n,) finite values.
        target: (n,) finite values.
    """
    from scipy.optimize import curve_fit
    from scipy.special import expit

    x, y = np.asarray(predicted, float), np.asarray(target, float)
    no_fit = np.full(x.shape, np.nan)
    if len(x) < 5:
        return LogisticFit(no_fit, f"four parameters need at least 5 values, got {len(x)}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return LogisticFit(no_fit, "all predictions or all targets are equal")

    def rise(z: np.ndarray, low: float, height: float, centre: float, width: float) -> np.ndarray:
        return low + height * expit((z - centre) / width)

    # In standard units the same start and bounds suit every scale; the bounds include nearly a
    # straight line (large height and width) and nearly a step (width near 0).
    x_mean, x_std, y_mean, y_std = x.mean(), x.std(), y.mean(), y.std()
    z, targets = (x - x_mean) / x_std, (y - y_mean) / y_std
    start = (targets.min(), np.ptp(targets), 0.0, 0.5)
    bounds = ([-200, 0, -10, 1e-3], [200, 400, 10, 100])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parameters' covariance is not used
            parameters, _ = curve_fit(rise, z, targets, start, bounds=bounds, maxfev=5000)
    except (RuntimeError, ValueError) as error:
        return LogisticFit(no_fit, f"no fit found: {error}")
    if np.ptp(rise(z, *parameters)) < 1e-3:
        return LogisticFit(no_fit, "the best rising curve is flat: no positive relation")

    def curve(values: np.ndarray) -> np.ndarray:
        return y_mean + y_std * rise((values - x_mean) / x_std, *parameters)

    return LogisticFit(curve(x), None, curve)


def isotonic_fit(predicted: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Fit a non-decreasing function from predictions to targets (least squares).

    In single precision like Zoom-IQA's official metric (arXiv 2601.02918), since rounding decides
    which fitted values are ties. The fit uses the targets that it is compared with: for 200 images
    without any correlation its PLCC is about .14. Report it beside the raw one.

    >>> isotonic_fit([1, 2, 3, 4], [1, 3, 2, 4])
    array([1. , 2.5, 2.5, 4. ], dtype=float32)

    Returns:
        (n,) fitted values, in units of ``target``.
    """
    from sklearn.isotonic import IsotonicRegression

    x, y = (np.asarray(values, np.float32).astype(float) for values in (predicted, target))
    return IsotonicRegression(out_of_bounds="clip").fit(x, y).predict(x).astype(np.float32)


def isotonic_plcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """PLCC of the in-sample isotonic fit; NaN when the fit is constant.

    >>> round(isotonic_plcc([1, 2, 3, 4], [1, 3, 2, 4]), 3)
    0.949
    """
    return plcc(isotonic_fit(predicted, target), np.asarray(target, np.float32))


def isotonic_srcc(predicted: ArrayLike, target: ArrayLike) -> float:
    """SRCC of the in-sample isotonic fit; NaN when the fit is constant.

    >>> round(isotonic_srcc([1, 2, 3, 4], [1, 3, 2, 4]), 3)
    0.949
    """
    return srcc(isotonic_fit(predicted, target), np.asarray(target, np.float32))


def bootstrap(
    statistic: Callable[..., float],
    *columns: ArrayLike,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """A statistic with its percentile bootstrap interval; rows are resampled.

    >>> rating = np.linspace(1, 5, 50)
    >>> opinion = rating + np.random.default_rng(0).normal(0, 1, 50)
    >>> print(bootstrap(srcc, rating, opinion, resamples=200))
    0.883 [0.791, 0.936]

    Args:
        statistic: function of the columns (arrays) that gives a float.
        columns: sequences of one length; one row is one image.
        resamples: number of resamples; those whose statistic is NaN are ignored.
        confidence: probability of the interval.
        seed: of the resampling.
    """
    arrays = [np.asarray(column) for column in columns]
    rows = len(arrays[0])
    random = np.random.default_rng(seed)
    # One by one: all resamples of a large set do not fit in memory.
    resampled = (random.integers(rows, size=rows) for _ in range(resamples))
    draws = [statistic(*(array[indices] for array in arrays)) for indices in resampled]
    tail = 50 * (1 - confidence)
    defined = [draw for draw in draws if not np.isnan(draw)] or [np.nan]
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(statistic(*arrays), float(low), float(high))


def interval_coverage(
    error: ArrayLike, std: ArrayLike, level: float, *, weight: ArrayLike | None = None
) -> float:
    """Share of errors inside the central Gaussian interval of probability ``level``.

    >>> interval_coverage([0.1, -0.4, 2.5], [1.0, 1.0, 1.0], level=0.95)  # |error| ≤ 1.96
    0.6666666666666666

    Args:
        error: (n,) rating − truth.
        std: (n,) > 0, the judge's standard deviation of each.
        level: in (0, 1).
        weight: (n,) weight of each; None weighs them equally.
    """
    from scipy.stats import norm

    halfwidth = norm.ppf((1 + level) / 2) * np.asarray(std, float)
    inside = np.abs(np.asarray(error, float)) <= halfwidth
    return float(np.average(inside, weights=None if weight is None else np.asarray(weight, float)))


def interval_calibration_error(error: ArrayLike, std: ArrayLike) -> float:
    """Mean distance of an interval's coverage from its level, over levels .05, .10 … .95.

    The expected calibration error of intervals (Kuleshov, Fenner & Ermon, *Accurate Uncertainties
    for Deep Learning Using Calibrated Regression*, ICML 2018; absolute instead of squared).
    0 is calibrated; the maximum is about .5.

    >>> error = np.random.default_rng(0).normal(0, 1, 1000)
    >>> [round(interval_calibration_error(error, np.full(1000, std)), 2) for std in (1.0, 0.2)]
    [0.01, 0.38]
    """
    levels = np.arange(1, 20) / 20
    coverage = [interval_coverage(error, std, level) for level in levels]
    return float(np.mean(np.abs(np.array(coverage) - levels)))


def auc(lower: ArrayLike, higher: ArrayLike) -> float:
    """Area under the ROC curve: how well a value separates two sets.

    The share of pairs whose value in ``higher`` exceeds the one in ``lower``; a tie counts half.

    >>> auc([1.0, 2.0], [2.0, 3.0])  # three pairs in order, one tie
    0.875
    """
    x, y = np.asarray(lower, float)[:, None], np.asarray(higher, float)[None, :]
    return float(np.mean((y > x) + 0.5 * (y == x)))


def mean_subset_srcc(predicted: ArrayLike, target: ArrayLike, subset: ArrayLike) -> float:
    """Mean of the SRCC inside each subset, which differences between subsets do not affect.

    >>> mean_subset_srcc([1, 2, 4, 3], [10, 20, 30, 40], ["a", "a", "b", "b"])
    0.0
    """
    x, y, names = np.asarray(predicted), np.asarray(target), np.asarray(subset)
    return float(np.mean([srcc(x[names == name], y[names == name]) for name in np.unique(names)]))


def ordered_pairs(rating: ArrayLike, target: ArrayLike, *, min_gap: float) -> list[bool]:
    """Whether ``rating`` orders each pair like ``target``, for pairs ≥ ``min_gap`` apart in it.

    >>> ordered_pairs([1.0, 3.0, 2.0], [1.0, 2.0, 3.0], min_gap=1.0)
    [True, True, False]
    """
    x, y = np.asarray(rating, float), np.asarray(target, float)
    better, worse = np.nonzero((y[:, None] - y[None, :]) >= min_gap)
    return (x[better] > x[worse]).tolist()


def pointing(quality_map: Tensor, mask: Tensor) -> bool:
    """Whether the worst cell of the map is damaged (the pointing game, Zhang et al. 2018).

    >>> import torch
    >>> pointing(torch.tensor([[4.0, 1.5]]), torch.tensor([[0.0, 0.9]]))
    True

    Args:
        quality_map: (h, w) ratings.
        mask: (h, w) share of damage per cell, in [0, 1]; inside means > 0.5.
    """
    return bool(mask.flatten()[quality_map.argmin()] > 0.5)


def damage_iou(quality_map: Tensor, mask: Tensor) -> float:
    """Intersection over union of the n damaged cells and the map's n worst cells.

    >>> import torch
    >>> damage_iou(torch.tensor([[1.0, 2.0, 4.0, 5.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    0.3333333432674408

    Args:
        quality_map: (h, w) ratings.
        mask: (h, w) share of damage per cell; > 0.5 is damaged.
    """
    truth = mask.flatten() > 0.5
    worst = truth.new_zeros(truth.shape)
    worst[quality_map.flatten().argsort()[: int(truth.sum())]] = True
    return float((truth & worst).sum() / (truth | worst).sum().clamp(min=1))
