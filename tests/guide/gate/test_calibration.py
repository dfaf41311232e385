"""A calibrated threshold: by hand, against simulation, by property and rejection."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from restoration_guide.gate.calibration import GAINS, calibrate, check, conformal_threshold

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
    assert found.threshold == pytest.approx(2.7)
    assert (found.unacceptable, found.failed) == (19, 0)
    assert found.expected[0] == pytest.approx(2 / 20)  # 1 − 18/20
    assert found.expected[1:] == pytest.approx(beta.ppf([0.025, 0.975], 2, 18))
    assert found.interval[0] < found.threshold <= found.interval[1]
    rates = check(ratings, labels, found.threshold)
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
    assert check([3.0] * 5, [False] * 5, tied.threshold).false_accept.value == 0
    unjudged = calibrate([math.nan] * 38 + [2.0, 2.5], [False] * 40)
    assert (unjudged.failed, unjudged.threshold) == (38, pytest.approx(2.0))  # k = 39
    assert check([math.nan], [True], 1.0).false_reject.value == 1
    assert calibrate([math.nan] * 40, [False] * 40).threshold == 1  # any judged image passes


def test_order_and_acceptable_images_do_not_matter() -> None:
    random = np.random.default_rng(1)
    ratings, labels = random.uniform(1, 5, 60), random.random(60) < 0.5
    order = random.permutation(60)
    whole = calibrate(ratings, labels, target_false_accept=0.1)
    assert calibrate(ratings[order], labels[order], target_false_accept=0.1) == whole
    alone = calibrate(ratings[~labels], [False] * (~labels).sum(), target_false_accept=0.1)
    assert alone.threshold == whole.threshold
    stricter = calibrate(ratings, labels, target_false_accept=0.05)
    assert stricter.threshold >= whole.threshold


def test_rates_of_nothing_are_unknown() -> None:
    rates = check([2.0], [False], 3.0)
    assert math.isnan(rates.false_reject.value) and rates.wrong_among_accepted.count == 0


# --- gains, and several results of one photo -----------------------------------------------------


def test_gains_have_no_bounds() -> None:
    gains = np.array([-7.0] * 18 + [-6.0] + [2.0])
    found = calibrate(gains, gains > 0, bounds=GAINS)
    assert found.threshold == np.nextafter(-6.0, 0)  # k = ⌈20 · .95⌉ = 19
    assert calibrate(gains, gains > 0).threshold == 1  # of ratings, the lowest
    high = calibrate(np.full(19, 9.0), [False] * 19, bounds=GAINS)
    assert high.threshold == np.nextafter(9.0, 10) and high.interval == (high.threshold,) * 2
    moved = calibrate(gains + 3, gains > 0, bounds=GAINS)
    assert moved.threshold == pytest.approx(found.threshold + 3)


def test_own_photos_change_nothing() -> None:
    random = np.random.default_rng(2)
    values, labels = random.uniform(1, 5, 80), random.random(80) < 0.4
    names = [f"photo {n}" for n in random.permutation(80)]
    assert calibrate(values, labels, photos=names) == calibrate(values, labels)
    assert check(values, labels, 3.0, photos=names) == check(values, labels, 3.0)


def test_rates_are_clopper_and_pearsons() -> None:
    for hits, count in ((0, 7), (3, 11), (11, 11)):
        rate = check([1.0] * hits + [0.0] * (count - hits), [False] * count, 0.5).false_accept
        exact = binomtest(hits, count).proportion_ci(0.95, method="exact")
        assert rate[:3] == pytest.approx((hits / count, exact.low, exact.high))
        assert rate.effective == rate.count == count


def test_copies_of_a_result_are_no_evidence() -> None:
    values, labels = np.arange(12) / 12, [False] * 12
    names = [f"{n}" for n in range(12)]
    once = check(values, labels, 0.7, photos=names).false_accept
    nine = check(
        np.repeat(values, 9), np.repeat(labels, 9), 0.7, photos=[n for n in names for _ in range(9)]
    ).false_accept
    assert (nine.value, nine.count) == (once.value, 108)
    # design effect 107 / 11; the correction for 12 photos is (1.982 / 2.201)² = .811
    assert nine.effective == pytest.approx(108 * 11 / 107 * 0.811, abs=0.01)
    assert nine.low <= once.low and nine.high >= once.high
    assert "of 108, as 9 independent" in str(nine)
    none = check(np.zeros(30), [False] * 30, 0.5, photos=["a", "b", "c"] * 10).false_accept
    assert none.effective == 3 and none.high == pytest.approx(1 - 0.025 ** (1 / 3))


def test_the_interval_covers_the_rate_of_photos_whose_results_are_alike() -> None:
    random = np.random.default_rng(0)
    names = [f"{n}" for n in range(40) for _ in range(6)]
    with_photos, without, trials = 0, 0, 300
    for _ in range(trials):
        of_photo = random.beta(0.3, 2.7, 40)  # rate of false accepts per photo; mean .1
        passed = random.random(240) < np.repeat(of_photo, 6)
        rates = [check(passed, [False] * 240, 0.5, photos=p).false_accept for p in (names, None)]
        with_photos += rates[0].low <= 0.1 <= rates[0].high
        without += rates[1].low <= 0.1 <= rates[1].high
    assert with_photos / trials >= 0.92
    assert without / trials < 0.88  # 240 results are not 240 photos


def test_the_interval_of_the_threshold_is_over_photos() -> None:
    random = np.random.default_rng(3)
    values = np.repeat(random.normal(0, 1, 20), 10) + random.normal(0, 0.1, 200)
    names = [f"{n}" for n in range(20) for _ in range(10)]
    wide = calibrate(values, [False] * 200, bounds=GAINS, photos=names)
    narrow = calibrate(values, [False] * 200, bounds=GAINS)
    assert wide.threshold == narrow.threshold
    assert np.diff(wide.interval) > 1.5 * np.diff(narrow.interval)


def test_a_photo_for_every_image() -> None:
    with pytest.raises(ValueError, match="a photo for each image, got 2 for 3"):
        check([1.0] * 3, [False] * 3, 2.0, photos=["a", "b"])


def test_calibrating_with_a_judges_ratings(stubs) -> None:
    images = [stubs.make_photo(24, 24, noise) for noise in np.linspace(0.0, 0.1, 12)]
    scorer = stubs.Scorer()
    ratings = [said.rating for said in scorer.assess(images)]
    labels = [index < 3 for index in range(12)]  # nine are too noisy: k = ⌈10 · .9⌉ = 9
    found = calibrate(ratings, labels, target_false_accept=0.1)
    assert found.threshold == np.nextafter(ratings[3], 9)
    assert found.to_dict()["unacceptable"] == 9


@pytest.mark.parametrize(
    ("ratings", "labels", "target", "words"),
    [
        ([2.0] * 18, [False] * 18, 0.05, "needs at least 19 unacceptable images, got 18"),
        ([2.0] * 30, [False] * 29, 0.05, "one label for each image"),
        ([2.0] * 30, [False] * 30, 5, "a share in"),
        ([5.0] * 30, [False] * 30, 0.05, "no rating up to 5"),
    ],
)
def test_what_cannot_be_calibrated_teaches(ratings, labels, target, words) -> None:
    with pytest.raises(ValueError, match=words):
        calibrate(ratings, labels, target_false_accept=target)
