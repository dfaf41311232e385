"""The choice by hand arithmetic, by property and by rejection."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restoration_guide.search.choice import (
    ChoiceRule,
    choose,
    consensus_distances,
    contenders,
    finalists,
    with_consensus,
    with_gains,
)
from restoration_guide.search.judging import gain_of
from restoration_guide.search.selection import OK, Index, Row
from zoomiqa_core.assessment import Assessment

INPUT = Row("input", 3.0, 0.2)
SURE = NormalDist().cdf(1.0)
"""Probability of which the lower bound is one standard deviation down."""
RULE = ChoiceRule(min_probability=SURE, min_gain=0.1)


def row(index: Index, gain: float, std: float = 0.2, status: str = OK) -> Row:
    return Row(index, 3.0 + gain, 0.2, gain=gain, gain_std=std, status=status)


# --- gains ---------------------------------------------------------------------------------------


def test_the_gain_is_the_judges_own_or_the_difference_of_ratings() -> None:
    rows = with_gains([INPUT, Row(0, 3.5, 0.3), row(1, 0.2, 0.1)])
    assert math.isnan(rows[0].gain)
    assert (rows[1].gain, rows[1].gain_std) == (0.5, 0.3)
    assert (rows[2].gain, rows[2].gain_std) == (0.2, 0.1)


def test_without_an_input_there_is_no_gain() -> None:
    with pytest.raises(ValueError, match="needs the row of the input"):
        with_gains([row(0, 0.5)])


# --- what all agree on ---------------------------------------------------------------------------


def test_consensus_by_hand() -> None:
    images = [torch.full((3, 2, 2), value) for value in (0.0, 0.3, 0.9)]
    assert consensus_distances(images) == pytest.approx([0.4, 0.1, 0.5], abs=1e-6)
    assert consensus_distances([]) == []


def test_the_nearest_to_the_mean_has_the_least_expected_error() -> None:
    # minimum Bayes risk: mean_j |x_i − x_j|² = |x_i − mean|² + a constant
    images = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    risks = [float((image - images).square().mean()) for image in images]
    distances = consensus_distances(list(images))
    gaps = [risk - distance**2 for risk, distance in zip(risks, distances, strict=True)]
    assert gaps == pytest.approx([gaps[0]] * 5, abs=1e-6)


# --- choose(): by hand ---------------------------------------------------------------------------


def test_the_highest_lower_bound_of_the_gain_wins() -> None:
    # one standard deviation down: .9 − .6, .5 − .1, .3 − .25 (not above .1)
    rows = [INPUT, row(0, 0.9, 0.6), row(1, 0.5, 0.1), row(2, 0.3, 0.25)]
    index, reason = choose(rows, RULE)
    assert index == 1
    assert reason == "candidate 1 is best: gain +0.50 ± 0.10 over the input"
    assert [contender.index for contender in contenders(rows, RULE)] == [1, 0]


def test_the_probability_is_thurstones() -> None:
    rows = [INPUT, row(0, 0.4, 0.4)]  # Φ(1) = .8413
    assert choose(rows, ChoiceRule(min_probability=0.84)).index == 0
    assert choose(rows, ChoiceRule(min_probability=0.85)).index == "input"


def test_other_rules_choose_among_the_better_ones() -> None:
    rows = [INPUT, row(0, 0.9, 0.6), row(1, 0.5, 0.1), row(2, 2.0, 3.0)]
    rated = choose(rows, replace(RULE, select="rating"))
    assert rated.index == 0
    assert rated.reason.endswith("and of the 2 better ones the highest rated")
    own = choose(rows, replace(RULE, select=lambda row: row.gain_std))
    assert own.index == 0 and own.reason.endswith("the first by select")


def test_the_consensus_is_that_of_the_better_ones() -> None:
    images = {0: 0.5, 1: 0.6, 2: 0.62, 3: 0.9, 4: 0.9}
    rule = replace(RULE, select="consensus")
    rows = [INPUT, *(row(i, 0.5) for i in (0, 1, 2)), row(3, -0.2), row(4, 0.5, status="pruned")]

    def winner(rows: list[Row]) -> Index:
        flat = lambda index: torch.full((3, 8, 8), images[index])  # noqa: E731
        return choose(with_consensus(rows, flat, rule), rule).index

    # the mean of the first three is .573, with the two others it would be .704 (candidate 2)
    assert winner(rows) == winner(rows[:4]) == 1


def test_gain_must_exceed_the_minimum() -> None:
    rows = [INPUT, row(0, 0.5, 0.0)]
    assert choose(rows, ChoiceRule(min_gain=0.5)).index == "input"
    assert choose(rows, ChoiceRule(min_gain=0.25)).index == 0
    assert choose([INPUT, row(0, 0.1, 0.2)], RULE).reason == (
        "input kept: the best candidate (0) has a gain of +0.10 ± 0.20, and a probability of 84% "
        "to be better by more than 0.1 is asked for"
    )


def test_the_second_judge_is_shown_the_best_rated() -> None:
    rows = [INPUT, *(row(i, 0.4 + 0.01 * i, 0.0) for i in range(7)), row(7, 0.9, 0.7)]
    assert [each.index for each in finalists(rows, RULE, 3)] == [7, 6, 5]
    assert contenders(rows, RULE)[-1].index == 7  # the least certain gain


def test_ties_go_to_the_higher_rating_then_to_the_lowest_index() -> None:
    rows = [row(3, 0.5, 0.1), row(1, 0.5, 0.1), INPUT, row(2, 0.75, 0.35)]
    assert choose(rows, RULE).index == choose(rows[::-1], RULE).index == 2
    assert choose(rows[:3], RULE).index == choose(rows[2::-1], RULE).index == 1


def test_skipped_rows_cannot_win() -> None:
    rows = [INPUT, row(0, 2.0, 0.0, "unfaithful"), row(1, 0.5, 0.1)]
    assert choose(rows, RULE).index == 1
    assert choose(rows[:2], RULE) == (
        "input",
        "input kept: no candidate to choose from, all 1 were skipped (1 unfaithful)",
    )


def test_no_candidates_at_all() -> None:
    assert choose([INPUT], RULE).reason.endswith("none was finished")


def test_input_without_judgement_is_kept() -> None:
    source = Row("input", math.nan, math.nan, status="judgement_failed", detail="truncated")
    index, reason = choose([source, row(0, 1.0, 0.0)], RULE)
    assert index == "input" and "could not be judged (truncated)" in reason


def test_rows_without_input_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the row of the input"):
        choose([row(0, 1.0)], RULE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select": "best"}, "select is 'gain', 'rating', 'consensus' or a function"),
        ({"min_probability": 0.4}, "min_probability lies in"),
        ({"min_probability": 1.0}, "min_probability lies in"),
        ({"min_probability": math.nan}, "min_probability lies in"),
        ({"min_gain": -0.1}, "min_gain is a finite number"),
        ({"min_gain": math.inf}, "min_gain is a finite number"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChoiceRule(**settings)


# --- two judges ----------------------------------------------------------------------------------


def second(plain: Row, rating: float) -> Row:
    return replace(plain, second_rating=rating)


def test_the_second_judge_by_hand() -> None:
    rows = [
        second(INPUT, 2.0),
        second(row(0, 0.6), 2.5),
        second(row(1, 0.5), 3.5),
        row(2, 1.9),  # no finalist
    ]
    index, reason = choose(rows, RULE)
    assert index == 1
    assert reason == (
        "candidate 1 is best of the finalists: 3.50 against the input's 2.00 by the second judge"
    )
    rows[0] = second(INPUT, 3.45)
    assert choose(rows, RULE) == (
        "input",
        "input kept: the best finalist (1) has 3.50 against the input's 3.45 by the second judge",
    )


def test_a_second_judge_that_fails_is_said_to() -> None:
    lost, good = second(row(0, 0.7), math.nan), second(row(1, 0.6), 3.5)
    index, reason = choose([second(INPUT, 2.0), lost, good], RULE)
    assert index == 1 and reason.endswith("; the second judge failed on 1 of 2")
    assert choose([second(INPUT, math.nan), lost, good], RULE) == (
        0,
        "candidate 0 is best by the first judge alone: the second failed on the input",
    )
    assert choose([second(INPUT, 2.0), lost], RULE) == (
        0,
        "candidate 0 is best by the first judge alone: the second failed on all 1 finalists",
    )


# --- by property ---------------------------------------------------------------------------------

figures = st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 1)), max_size=6)


@given(figures, st.floats(0.5, 0.99), st.floats(0, 1))
def test_the_choice_is_the_best_admissible_row(table, probability, min_gain) -> None:
    rule = ChoiceRule(min_probability=probability, min_gain=min_gain)
    k = NormalDist().inv_cdf(probability)
    rows = [INPUT, *(row(i, gain, std) for i, (gain, std) in enumerate(table))]
    bounds = {i: gain - k * std for i, (gain, std) in enumerate(table)}
    better = {i: bound for i, bound in bounds.items() if bound > min_gain}
    index = choose(rows, rule).index
    assert better[int(index)] == max(better.values()) if better else index == "input"


@given(figures, st.tuples(st.floats(-2, 2), st.floats(0, 1)), st.sampled_from(["gain", "rating"]))
def test_one_more_candidate_never_lowers_the_value_of_the_choice(table, one, select) -> None:
    rule = ChoiceRule(select=select)

    def value(rows: list[Row]) -> float:
        index = choose(rows, rule).index
        return -math.inf if index == "input" else rule.value(rows[int(index) + 1])

    rows = [INPUT, *(row(i, *figures) for i, figures in enumerate(table))]
    assert value([*rows, row(len(table), *one)]) >= value(rows)


def test_rows_and_judgements_have_one_rule_of_the_gain() -> None:
    """Of the judge's own word, of two ratings, without a spread, and without a rating."""
    nan = math.nan
    for rating, std, gain, gain_std, expected in [
        (3.5, 0.25, 0.125, 0.5, (0.125, 0.5)),
        (3.5, 0.25, nan, nan, (0.5, 0.25)),
        (3.5, nan, nan, nan, (0.5, 0.0)),
        (nan, nan, nan, nan, (nan, nan)),
    ]:
        row = with_gains([Row("input", 3.0, 0.2), Row(0, rating, std, gain, gain_std)])[1]
        assert str((row.gain, row.gain_std)) == str(expected)
        said = Assessment(rating, std, gain=gain, gain_std=gain_std)
        assert str(gain_of(Assessment(3.0, 0.2), said)) == str(expected)
