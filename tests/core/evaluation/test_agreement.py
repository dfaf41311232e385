"""Agreement with people: by hand, against one bootstrap draw after another, by property."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from zoomiqa_core.evaluation.agreement import agreement
from zoomiqa_core.evaluation.correlation import (
    bootstrap,
    isotonic_plcc,
    isotonic_srcc,
    krcc,
    plcc,
    srcc,
)

FITS = ("raw", "logistic", "isotonic")


def sigmoid_set(count, noise=8.0):
    random = np.random.default_rng(0)
    x = random.uniform(1, 5, size=count)
    return x, 100 / (1 + np.exp(-2 * (x - 3))) + random.normal(0, noise, size=count)


@pytest.mark.parametrize("ties", [False, True])
def test_intervals_equal_the_bootstrap_draw_by_draw(ties):
    x, y = sigmoid_set(60)
    if ties:
        x, y = np.round(x), np.round(y / 20)
    found = agreement(x, y, resamples=150, seed=3)["raw"]
    for name, statistic in (("plcc", plcc), ("srcc", srcc), ("krcc", krcc)):
        expected = bootstrap(statistic, x, y, resamples=150, seed=3)
        assert getattr(found, name) == pytest.approx(expected, abs=1e-12)


def test_intervals_equal_those_of_weighted_formulas():
    """Low and high of an implementation with weights per draw and all pairs in one matrix."""
    x, y = sigmoid_set(200)
    found = agreement(np.round(x, 1), y, resamples=200)
    expected = {
        "raw": [
            (0.9532843832595673, 0.9425066282877368, 0.9625749864705415),
            (0.9357581386039829, 0.9065367276888083, 0.9530834501783818),
            (0.7902727090573481, 0.7498093164876917, 0.8176699713588343),
        ],
        "isotonic": [
            (0.9786030711210056, 0.973651077932271, 0.9829307340852875),
            (0.9461126572838197, 0.91812101419836, 0.9591613758812855),
            (0.8231905407602937, 0.7882173432959569, 0.8483726135607825),
        ],
    }
    for fit, estimates in expected.items():
        for ours, theirs in zip(found[fit][:3], estimates, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_tiny_unit_is_no_constant():
    x, y = sigmoid_set(40)
    small = agreement(x, 1e-12 * y, resamples=20)["raw"]
    assert small.plcc == pytest.approx(agreement(x, y, resamples=20)["raw"].plcc, abs=1e-9)


def test_a_logistic_relation_is_straightened():
    found = agreement(*sigmoid_set(300), resamples=50)
    raw, logistic, isotonic = (found[fit] for fit in FITS)
    assert raw.plcc.value < logistic.plcc.value < isotonic.plcc.value
    assert logistic.srcc == raw.srcc and logistic.krcc == raw.krcc  # the curve keeps the order
    for result in found.values():
        assert result.reason is None
        for estimate in result[:3]:
            assert estimate.low < estimate.value < estimate.high


def test_isotonic_is_the_official_fit():
    x, y = sigmoid_set(80)
    found = agreement(x, y, resamples=2)["isotonic"]
    assert found.plcc.value == pytest.approx(isotonic_plcc(x, y), abs=1e-12)
    assert found.srcc.value == pytest.approx(isotonic_srcc(x, y), abs=1e-12)


def test_an_unrelated_judge_shows_how_much_each_fit_flatters():
    random = np.random.default_rng(1)
    sets = [agreement(*random.normal(size=(2, 200)), resamples=1) for _ in range(20)]
    raw = np.mean([found["raw"].plcc.value for found in sets])
    isotonic = np.mean([found["isotonic"].plcc.value for found in sets])
    assert abs(raw) < 0.05 and 0.1 < isotonic < 0.2  # .144 is published


def test_order_of_the_images_and_scale_of_the_labels_do_not_matter():
    x, y = sigmoid_set(50)
    order = np.random.default_rng(2).permutation(50)
    first, again = agreement(x, y, resamples=2), agreement(x[order], 3 + y[order] / 25, resamples=2)
    for fit in FITS:
        for one, other in zip(first[fit][:3], again[fit][:3], strict=True):
            assert one.value == pytest.approx(other.value, abs=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "reasons"),
    [
        ([], [], ["at least 3 images, got 0"] * 3),
        ([1, 2], [3, 4], ["at least 3 images, got 2"] * 3),
        ([2] * 6, [1, 2, 3, 4, 5, 6], ["all predictions are", "are equal", "all predictions are"]),
        ([1, 2, 3, 4, 5, 6], [2] * 6, ["all targets are", "are equal", "all predictions are"]),
        ([1, 2, 3], [1, 2, 3], [None, "four parameters need at least 5", None]),
        ([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [None, "no positive relation", "all predictions"]),
    ],
)
def test_what_cannot_be_computed_says_why(x, y, reasons):
    for result, reason in zip(agreement(x, y, resamples=5).values(), reasons, strict=True):
        if reason is None:
            assert result.reason is None and not math.isnan(result.srcc.value)
        else:
            assert any(part in str(result.reason) for part in reason.split("|"))
            assert all(math.isnan(number) for estimate in result[:3] for number in estimate)


@pytest.mark.slow
def test_ten_thousand_images_take_seconds():
    start = time.process_time()
    agreement(*sigmoid_set(10_000))
    assert time.process_time() - start < 15  # some 6 on an idle core
