"""Agreement with votes: by hand, by property, and what a failed judgement does."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomiqa_core.data.benchmarks.votes import VotedPair
from zoomiqa_core.evaluation.vote_agreement import majority_ceiling, preferences, vote_agreement


def pair(left: str, right: str, share: float, votes: int = 1, photo: str = "x") -> VotedPair:
    return VotedPair(Path(left), Path(right), share, votes, photo)


THREE = [pair("a", "b", 0.75, 4), pair("a", "c", 1.0, 2), pair("b", "c", 0.5, 2)]
"""Sums of shares: a 0.25, b 0.75 + 0.5 = 1.25, c 1.5: c is people's best."""


def test_agreement_by_hand() -> None:
    ratings = {Path("a"): 1.0, Path("b"): 3.0, Path("c"): 2.0}  # b > c > a
    chosen = preferences(THREE, ratings)
    assert chosen.tolist() == [1, 1, 0]
    found = vote_agreement(THREE, chosen)
    assert found.votes.value == pytest.approx((4 * 0.75 + 2 * 1 + 2 * 0.5) / 8)
    assert found.pairs.value == 1  # the third pair has no majority
    assert found.best.value == 0 and found.judged == 3
    assert math.isnan(found.votes.low)  # one photo has no interval
    ratings[Path("c")] = 3.0  # b and c tie: c is picked half of the time
    tied = vote_agreement(THREE, preferences(THREE, ratings))
    assert tied.best.value == 0.5
    ceiling = majority_ceiling(THREE)
    assert ceiling.votes.value == pytest.approx((4 * 0.75 + 2 + 2 * 0.5) / 8)
    assert ceiling.pairs.value == 1 and ceiling.best == (1, 1, 1)


def test_a_failed_judgement_leaves_its_pairs_out() -> None:
    ratings = {Path("a"): 1.0, Path("b"): 2.0, Path("c"): math.nan}
    found = vote_agreement(THREE, preferences(THREE, ratings))
    assert found.judged == 1 and found.votes.value == 0.75 and found.pairs.value == 1
    assert math.isnan(found.best.value)
    none = vote_agreement(THREE, [math.nan] * 3)
    assert none.judged == 0 and all(math.isnan(figure.value) for figure in none[:3])


def test_only_inputs_with_all_pairs_have_a_best() -> None:
    incomplete = vote_agreement(THREE[:2], [1, 1])
    assert math.isnan(incomplete.best.value) and math.isnan(majority_ceiling(THREE[:2]).best.value)
    assert math.isnan(vote_agreement([pair("a", "b", 1)], [1]).best.value)  # two images
    # two inputs of one photo are two choices
    both = [VotedPair(*p, 1.0, 1, "x", Path(i)) for i in "pq" for p in _pairs(f"{i}1", 3)]
    assert vote_agreement(both, [1] * 3 + [0] * 3).best.value == 0.5


def _pairs(prefix: str, count: int) -> list[tuple[Path, Path]]:
    return list(combinations([Path(f"{prefix}{n}") for n in range(count)], 2))


def test_intervals_are_of_photos() -> None:
    # 40 pairs of photo x agree, 40 of y do not: two observations, not 80
    clustered = [pair(f"{p}{n}", f"{p}{n}'", 1.0, photo=p) for p in "xy" for n in range(40)]
    found = vote_agreement(clustered, [1] * 40 + [0] * 40).votes
    assert (found.value, found.low, found.high) == (0.5, 0, 1)
    apart = [pair(f"{n}", f"{n}'", 1.0, photo=f"{n}") for n in range(80)]
    narrow = vote_agreement(apart, [1] * 40 + [0] * 40).votes
    # 1.96 standard errors of √(.25 / 80) = .056 are .11
    assert narrow.low == pytest.approx(0.39, abs=0.025)
    assert narrow.high == pytest.approx(0.61, abs=0.025)


def test_a_larger_photo_counts_for_its_pairs() -> None:
    pairs = [pair("a", "b", 1.0, 9, "x"), pair("c", "d", 1.0, 1, "y")]
    assert vote_agreement(pairs, [1, 0]).votes.value == 0.9


SHARES = st.lists(st.integers(0, 4), min_size=6, max_size=6)


@st.composite
def votes(draw) -> list[VotedPair]:
    """All pairs of four images of one to three photos, with 0 to 4 votes of 4 for the right."""
    return [
        VotedPair(left, right, share / 4, 4, f"photo {n}")
        for n in range(draw(st.integers(1, 3)))
        for (left, right), share in zip(_pairs(f"{n}-", 4), draw(SHARES), strict=True)
    ]


RATINGS = st.lists(st.integers(1, 5), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(votes(), RATINGS)
def test_a_mirrored_order_agrees_with_the_rest(pairs: list[VotedPair], drawn: list[int]) -> None:
    ratings = {Path(f"{n}-{i}"): float(drawn[i]) for n in range(3) for i in range(4)}
    mirrored = {image: 6 - rating for image, rating in ratings.items()}
    found, other = (
        vote_agreement(pairs, preferences(pairs, r), resamples=20) for r in (ratings, mirrored)
    )
    ceiling = majority_ceiling(pairs, resamples=20)
    assert found.votes.value + other.votes.value == pytest.approx(1)
    assert 1 - ceiling.votes.value <= found.votes.value + 1e-9
    assert found.votes.value <= ceiling.votes.value + 1e-9
    if any(p.share != 0.5 for p in pairs):
        assert found.pairs.value + other.pairs.value == pytest.approx(1)
    # the two sides of a pair are alike
    turned = [VotedPair(p.right, p.left, 1 - p.share, p.votes, p.photo) for p in pairs]
    same = vote_agreement(turned, preferences(turned, ratings), resamples=20)
    assert np.allclose(np.array(same[:3]), np.array(found[:3]), equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(votes(), RATINGS)
def test_a_judge_equal_to_the_votes_reaches_the_ceiling(pairs, drawn) -> None:
    quality = {Path(f"{n}-{i}"): float(drawn[i]) for n in range(3) for i in range(4)}
    # people choose the better image, more often the larger the difference
    pairs = [
        VotedPair(p.left, p.right, 0.5 + (quality[p.right] - quality[p.left]) / 8, 4, p.photo)
        for p in pairs
    ]
    found = vote_agreement(pairs, preferences(pairs, quality), resamples=20)
    ceiling = majority_ceiling(pairs, resamples=20)
    assert found.votes.value == pytest.approx(ceiling.votes.value)
    assert found.best.value == ceiling.best.value == 1
    assert found.pairs.value == 1 or all(pair.share == 0.5 for pair in pairs)


@settings(max_examples=60, deadline=None)
@given(votes(), st.floats(1, 5))
def test_a_constant_judge_agrees_with_half(pairs: list[VotedPair], rating: float) -> None:
    ratings = {image: rating for p in pairs for image in (p.left, p.right)}
    found = vote_agreement(pairs, preferences(pairs, ratings), resamples=20)
    interval = (math.nan, math.nan) if len({p.photo for p in pairs}) == 1 else (0.5, 0.5)
    assert found.votes.value == 0.5 and found.votes[1:] == pytest.approx(interval, nan_ok=True)
    assert found.pairs.value == 0.5 or all(p.share == 0.5 for p in pairs)
    assert 0.25 <= found.best.value <= 1  # one to four of four images are people's best
