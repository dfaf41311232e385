"""Agreement statistics: by hand, against scipy, by property."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from zoomiqa_core.evaluation.correlation import (
    auc,
    bootstrap,
    damage_iou,
    interval_calibration_error,
    interval_coverage,
    isotonic_fit,
    isotonic_plcc,
    isotonic_srcc,
    krcc,
    logistic_fit,
    mean_subset_srcc,
    ordered_pairs,
    plcc,
    pointing,
    srcc,
)


def test_correlations_equal_scipy_with_ties():
    random = np.random.default_rng(0)
    x, y = random.integers(5, size=50), random.normal(size=50)
    assert srcc(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    assert plcc(x, y) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)


def test_a_constant_side_has_no_correlation():
    assert math.isnan(srcc([1, 1, 1], [1, 2, 3]))


def test_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        plcc([1, 2, 3], [1, 2])


def test_subset_means_cannot_help():
    # perfect between the subsets, inverted inside: overall positive, inside −1
    predicted, target = [1, 2, 11, 12], [2, 1, 12, 11]
    assert srcc(predicted, target) > 0
    assert mean_subset_srcc(predicted, target, ["a", "a", "b", "b"]) == pytest.approx(-1)


def test_bootstrap_covers_the_mean_and_is_seeded():
    values = np.random.default_rng(1).normal(3, 1, size=400)
    first, again = bootstrap(np.mean, values), bootstrap(np.mean, values)
    assert first == again
    assert first.low < values.mean() < first.high
    # the interval of a mean is ± 1.96 σ/√n
    assert first.high - first.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_ordered_pairs_by_hand():
    # pairs apart by ≥ 1 in target: (0,1) right, (0,2) wrong; (1,2) is apart by .5 only
    assert ordered_pairs([2.0, 1.0, 3.0], [3.0, 1.5, 2.0], min_gap=1.0) == [True, False]


def test_pointing_and_iou_by_hand():
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert pointing(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), mask)
    assert not pointing(torch.tensor([[2.0, 2.0], [1.0, 4.0]]), mask)
    # worst two cells: one inside, one outside; union three
    assert damage_iou(torch.tensor([[1.0, 4.0], [2.0, 5.0]]), mask) == pytest.approx(1 / 3)


def test_isotonic_fit_by_hand():
    # 3, 1 are out of order: pooled to their mean; the tie at 4 is pooled before the fit
    assert isotonic_fit([1, 2, 3, 4, 4], [0, 3, 1, 4, 6]).tolist() == [0, 2, 2, 5, 5]


def test_isotonic_correlations_rise_to_one_for_any_monotone_relation():
    x = np.linspace(0, 100, 20)
    assert plcc(x, np.exp(x / 20)) < 0.9
    assert isotonic_plcc(x, np.exp(x / 20)) == pytest.approx(1, abs=1e-6)
    assert isotonic_srcc(x, np.exp(x / 20)) == pytest.approx(1, abs=1e-12)


def test_a_constant_fit_has_no_correlation():
    falling = [4.9, 4.7, 4.1]  # the best non-decreasing fit is their mean
    assert math.isnan(isotonic_plcc([1, 2, 3], falling))
    assert math.isnan(isotonic_srcc([1, 2, 3], falling))
    assert math.isnan(plcc([0.1] * 3, [1, 2, 4]))  # though the mean of 0.1, 0.1, 0.1 is not 0.1


def test_kendall_by_hand():
    # pairs (1,2) and (1,3) agree, (2,3) does not: (2 − 1) / 3
    assert krcc([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    # the tie counts for neither: 2 / √(3 · 2)
    assert krcc([1, 2, 3], [1, 2, 2]) == pytest.approx(2 / math.sqrt(6))
    assert math.isnan(krcc([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="equally long"):
        krcc([1, 2, 3], [1, 2])


def test_kendall_is_the_count_of_ordered_pairs():
    random = np.random.default_rng(4)
    x, y = random.normal(size=30), random.normal(size=30)
    agree = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    assert krcc(x, y) == pytest.approx(agree.sum() / (30 * 29), abs=1e-12)


def test_logistic_fit_finds_the_curve_that_made_the_data():
    x = np.linspace(1, 5, 40)
    y = 20 + 60 / (1 + np.exp(-(x - 2.5) / 0.4))
    fit = logistic_fit(x, y)
    assert fit.reason is None and fit.curve is not None
    assert fit.fitted == pytest.approx(y, abs=1e-3)
    # half way up at the centre: 20 + 60 / 2
    assert fit.curve(np.array([2.5])) == pytest.approx([50], abs=1e-3)


@pytest.mark.parametrize(
    "relation",
    [lambda x: 2 * x, lambda x: (x > 3).astype(float), np.exp, lambda x: 1e6 * x**3],
    ids=["line", "step", "exponential", "cube"],
)
def test_logistic_fit_never_bends_the_wrong_way(relation):
    x = np.linspace(1, 5, 50)
    fit = logistic_fit(x, relation(x))
    assert fit.reason is None
    assert (np.diff(fit.fitted) >= 0).all()
    assert plcc(fit.fitted, relation(x)) >= plcc(x, relation(x)) - 1e-6


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], "need at least 5 values, got 4"),
        ([2] * 9, range(9), "all predictions or all targets are equal"),
        (range(9), range(9, 0, -1), "no positive relation"),
        ([0, 1, 2, 3, math.nan], range(5), "no fit found"),
    ],
)
def test_logistic_fit_says_why_there_is_none(x, y, reason):
    fit = logistic_fit(list(x), list(y))
    assert reason in fit.reason
    assert np.isnan(fit.fitted).all() and fit.curve is None


def test_bootstrap_of_what_is_never_defined_is_nan():
    assert np.isnan(bootstrap(plcc, [1, 1, 1], [1, 2, 3], resamples=10)).all()


def test_interval_coverage_by_hand():
    # the 90 % interval reaches 1.645 deviations: 0.1 and 1.6 lie inside, 1.7 and -2.0 × 1 do not
    errors, stds = [0.1, 1.6, 1.7, -2.0], [1.0] * 4
    assert interval_coverage(errors, stds, 0.9) == 0.5
    assert interval_coverage(errors, [1, 1, 2, 2], 0.9) == 1.0  # half of 1.7 and of 2 is inside


def test_the_calibration_error_of_intervals_by_hand():
    # nothing lies inside: mean of .05 … .95 is .5; of errors of zero all do: 1 − .5
    assert interval_calibration_error([9.0, -9.0], [1.0, 1.0]) == pytest.approx(0.5)
    assert interval_calibration_error([0.0], [1.0]) == pytest.approx(0.5)
    random = np.random.default_rng(0)
    std = random.uniform(0.5, 2, 20_000)
    error = random.normal(size=20_000) * std
    assert interval_calibration_error(error, std) < 0.01
    assert interval_calibration_error(error, 2 * std) > 0.15


def test_auc_equals_scipy_and_counts_ties_half():
    assert auc([1, 2], [2, 3]) == pytest.approx(3.5 / 4)
    random = np.random.default_rng(0)
    low, high = random.integers(6, size=30), random.integers(2, 8, size=40)
    expected = stats.mannwhitneyu(high, low).statistic / (30 * 40)
    assert auc(low, high) == pytest.approx(expected, abs=1e-12)
