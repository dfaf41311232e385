"""A calibrated threshold: by hand, against simulation, by property and rejection."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

from restoration_guide.gate.calibration import calibrate, check, conformal_threshold

NINETEEN = np.linspace(1.0, 2.8, 19)
"""1.0, 1.1, … 2.8."""


def test_threshold_by_hand() -> None:
    # n = 19, α = .05: k = ⌈20 · .95⌉ = 19, just above the largest
    assert conformal_threshold(NINETEEN, 0.05) == np.nextafter(NINETEEN[18], np.inf)
    # α = .1: k = ⌈20 · .9⌉ = 18; one of 20 slots more may pass
    assert conformal_threshold(NINETEEN, 0.1) == np.nextafter(NINETEEN[17], np.inf)


def test_calibration_by_hand() -> None:
    ratings = [*NINETEEN, 1.5, 4.0, 4.5]
    labels = [False] * 19 + [True] * 3
    found = calibrate(ratings, labels, target_false_accept=0.1)
    assert found.min_rating == pytest.approx(2.7)
    assert (found.unacceptable, found.failed) == (19, 0)
    assert found.expected[0] == pytest.approx(2 / 20)  # 1 − 18/20
    assert found.expected[1:] == pytest.approx(beta.ppf([0.025, 0.975], 2, 18))
    assert found.interval[0] < found.min_rating <= found.interval[1]
    rates = check(ratings, labels, found.min_rating)
    assert rates.false_accept[::3] == (1 / 19, 19)  # 2.8 alone; 2.7 itself does not pass
    assert rates.false_reject[::3] == (1 / 3, 3)
    assert rates.wrong_among_accepted[::3] == (1 / 3, 3)
    assert rates.false_accept.low < 1 / 19 < rates.false_accept.high


def test_on_average_the_rate_is_what_is_promised() -> None:
    random = np.random.default_rng(0)
    passed = []
    for _ in range(4000):
        drawn = np.clip(random.normal(3, 0.5, 31), 1, 5)
        passed.append(drawn[-1] >= conformal_threshold(drawn[:-1], 0.1))
    # k = ⌈31 · .9⌉ = 28: 1 − 28/31 = 9.7 %; ± 3 standard errors of .0047
    assert abs(np.mean(passed) - 3 / 31) < 0.014


def test_a_plain_quantile_would_let_too_many_pass() -> None:
    random = np.random.default_rng(0)
    plain = [
        (drawn := random.normal(3, 0.5, 31))[-1] > np.quantile(drawn[:-1], 0.9) for _ in range(4000)
    ]
    assert np.mean(plain) > 0.115


def test_ties_and_failed_judgements_never_pass() -> None:
    tied = calibrate([3.0] * 40, [False] * 40)
    assert check([3.0] * 5, [False] * 5, tied.min_rating).false_accept.value == 0
    unjudged = calibrate([math.nan] * 38 + [2.0, 2.5], [False] * 40)
    assert (unjudged.failed, unjudged.min_rating) == (38, pytest.approx(2.0))  # k = 39
    assert check([math.nan], [True], 1.0).false_reject.value == 1
    assert calibrate([math.nan] * 40, [False] * 40).min_rating == 1  # any judged image passes


def test_order_and_acceptable_images_do_not_matter() -> None:
    random = np.random.default_rng(1)
    ratings, labels = random.uniform(1, 5, 60), random.random(60) < 0.5
    order = random.permutation(60)
    whole = calibrate(ratings, labels, target_false_accept=0.1)
    assert calibrate(ratings[order], labels[order], target_false_accept=0.1) == whole
    alone = calibrate(ratings[~labels], [False] * (~labels).sum(), target_false_accept=0.1)
    assert alone.min_rating == whole.min_rating
    stricter = calibrate(ratings, labels, target_false_accept=0.05)
    assert stricter.min_rating >= whole.min_rating


def test_rates_of_nothing_are_unknown() -> None:
    rates = check([2.0], [False], 3.0)
    assert math.isnan(rates.false_reject.value) and rates.wrong_among_accepted.count == 0


def test_calibrating_with_a_judges_ratings(stubs) -> None:
    images = [stubs.make_photo(24, 24, noise) for noise in np.linspace(0.0, 0.1, 12)]
    scorer = stubs.Scorer()
    ratings = [said.rating for said in scorer.assess(images)]
    labels = [index < 3 for index in range(12)]  # nine are too noisy: k = ⌈10 · .9⌉ = 9
    found = calibrate(ratings, labels, target_false_accept=0.1)
    assert found.min_rating == np.nextafter(ratings[3], 9)
    assert found.to_dict()["unacceptable"] == 9


@pytest.mark.parametrize(
    ("ratings", "labels", "target", "words"),
    [
        ([2.0] * 18, [False] * 18, 0.05, "needs at least 19 unacceptable images, got 18"),
        ([2.0] * 30, [False] * 29, 0.05, "one label for each rating"),
        ([2.0] * 30, [False] * 30, 5, "a share in"),
        ([5.0] * 30, [False] * 30, 0.05, "no rating up to 5"),
    ],
)
def test_what_cannot_be_calibrated_teaches(ratings, labels, target, words) -> None:
    with pytest.raises(ValueError, match=words):
        calibrate(ratings, labels, target_false_accept=target)
