"""The choice by hand arithmetic, by property and by rejection."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restoration_guide.search.changes import Change, measure_change
from restoration_guide.search.choice import (
    ChoiceRule,
    choose,
    consensus_distances,
    contenders,
    finalists,
    with_consensus,
)
from restoration_guide.search.selection import OK, Index, Row

INPUT = Row("input", 3.0, 0.2)
RULE = ChoiceRule(confidence=1.0, good_rating=4.0, min_gain=0.1, temperature=0.5)


def row(index: Index, rating: float, distance: float = math.nan, status: str = OK) -> Row:
    return Row(index, rating, 0.2, status, consensus_distance=distance)


# --- what all agree on ---------------------------------------------------------------------------


def test_consensus_by_hand() -> None:
    # Equal ratings: the mean of 0, .3 and .6 is .3.
    images = [torch.full((3, 2, 2), value) for value in (0.0, 0.3, 0.6)]
    assert consensus_distances(images, [3, 3, 3], 0.5) == pytest.approx([0.3, 0.0, 0.3], abs=1e-6)
    # A temperature of 1 / ln 2 doubles the weight per point: 1 : 2 : 4, mean (.6 + 2.4) / 7 = 3/7.
    weighted = consensus_distances(images, [1, 2, 3], 1 / math.log(2))
    assert weighted == pytest.approx([3 / 7, 3 / 7 - 0.3, 0.6 - 3 / 7], abs=1e-6)


def test_the_ends_of_the_temperature() -> None:
    images = [torch.full((3, 2, 2), value) for value in (0.0, 0.3, 0.6)]
    assert consensus_distances(images, [3, 3, 4], 0) == pytest.approx([0.6, 0.3, 0.0], abs=1e-6)
    assert consensus_distances(images, [4, 4, 3], 0) == pytest.approx([0.15, 0.15, 0.45], abs=1e-6)
    assert consensus_distances(images, [1, 3, 5], math.inf) == pytest.approx(
        [0.3, 0.0, 0.3], abs=1e-6
    )


@given(st.permutations(range(4)), st.floats(-2, 2))
def test_consensus_knows_no_order_and_no_zero_point(order: list[int], shift: float) -> None:
    images = list(torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)))
    ratings = [3.0, 3.5, 2.5, 4.0]
    plain = consensus_distances(images, ratings, 0.5)
    moved = consensus_distances(
        [images[i] for i in order], [ratings[i] + shift for i in order], 0.5
    )
    assert moved == pytest.approx([plain[i] for i in order], abs=1e-6)


def test_the_nearest_to_the_mean_has_the_least_expected_error() -> None:
    # minimum Bayes risk: mean_j |x_i − x_j|² = |x_i − mean|² + a constant
    images = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    risks = [float((image - images).square().mean()) for image in images]
    distances = consensus_distances(list(images), [3.0] * 5, 0.5)
    gaps = [risk - distance**2 for risk, distance in zip(risks, distances, strict=True)]
    assert gaps == pytest.approx([gaps[0]] * 5, abs=1e-6)


def test_no_candidates_have_no_consensus() -> None:
    assert consensus_distances([], [], 0.5) == []


# --- choose(): by hand ---------------------------------------------------------------------------


def test_the_most_central_of_the_better_ones_wins() -> None:
    rows = [INPUT, row(0, 3.9, 0.03), row(1, 3.4, 0.01), row(2, 3.05, 0.0)]
    index, reason = choose(rows, RULE)  # 2 gains only .05
    assert index == 1
    assert reason == (
        "candidate 1 is best: +0.40 rating points over the input, and of the 2 better ones the "
        "nearest to their consensus"
    )
    assert [contender.index for contender in contenders(rows, RULE)] == [1, 0]


def test_without_distances_the_highest_rating_wins() -> None:
    rows = [INPUT, row(0, 3.4), row(1, 3.9), row(2, 3.5)]
    assert choose(rows, RULE).index == 1


def test_gain_must_exceed_the_minimum() -> None:
    # Binary fractions, so that the arithmetic is exact: 3.25 − 2.75 = .5.
    rows = [Row("input", 2.75, 0.25), row(0, 3.25, 0.0)]
    assert choose(rows, ChoiceRule(min_gain=0.5)).index == "input"
    assert choose(rows, ChoiceRule(min_gain=0.25)).index == 0
    assert choose([INPUT, row(0, 3.0, 0.0)], ChoiceRule(min_gain=0)).reason == (
        "input kept: the best candidate (0) is rated 3.00 against its 3.00, and a gain of more "
        "than 0 is asked for"
    )


def test_an_input_that_may_be_good_is_left_alone() -> None:
    # 3.5 + 1 · .5 reaches 4; with half the doubt it does not.
    rows = [Row("input", 3.5, 0.5), row(0, 4.5, 0.0)]
    index, reason = choose(rows, RULE)
    assert index == "input"
    assert reason == ("input kept: it may be good already, its rating 3.50 + 1 × 0.50 reaches 4")
    assert choose(rows, ChoiceRule(confidence=0.5, good_rating=4.0)).index == 0
    assert choose(rows, ChoiceRule(good_rating=math.inf)).index == 0


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (Change(0.05, 1.1), True),
        (Change(0.1, 1.1), False),  # the limit itself is damage
        (Change(0.05, 1.25), False),
        (Change(0.05, math.inf), False),  # too small to tell
        (None, False),
    ],
)
def test_an_input_of_which_little_is_changed_is_kept(change: Change | None, kept: bool) -> None:
    rows = [Row("input", 3.0, 0.2, change=change), row(0, 3.9, 0.0)]
    rule = ChoiceRule(min_change=0.1, min_grid=1.25)
    index, reason = choose(rows, rule)
    assert (index == "input") == kept == (contenders(rows, rule) == [])
    assert choose(rows, ChoiceRule(min_change=0)).index == 0
    if kept:
        assert reason == (
            "input kept: the candidates change 5% of its fine detail, and on no grid of blocks; "
            "repairing damage changes 10% or more"
        )


def test_the_change_is_measured_on_usable_candidates() -> None:
    images = {
        index: torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(seed))
        for seed, index in enumerate(("input", 0, 1))
    }
    rows = [INPUT, row(0, 3.5), row(1, 3.5, status="unfaithful")]
    source, first, second = with_consensus(rows, images.__getitem__, RULE)
    assert source.change == measure_change(images["input"], [images[0]])
    assert first.change is None and second.change is None
    assert first.consensus_distance == 0 and math.isnan(second.consensus_distance)
    assert with_consensus(rows[:1], images.__getitem__, RULE)[0].change is None


def test_candidates_below_the_input_do_not_change_the_winner() -> None:
    # of 0 (value .5) and 1 (.6) the better rated 0 weighs more and is nearer to their mean, .545;
    # with three poor ones at .9 the mean would be .648, nearer to 1
    images = {"input": 0.4, 0: 0.5, 1: 0.6, 2: 0.9, 3: 0.9, 4: 0.9}
    rows = [INPUT, row(0, 3.6), row(1, 3.5), *(row(i, 2.9) for i in (2, 3, 4))]

    def winner(rows: list[Row]) -> Index:
        flat = lambda index: torch.full((3, 40, 40), images[index])  # noqa: E731
        return choose(with_consensus(rows, flat, RULE), ChoiceRule(min_change=0)).index

    assert winner(rows[:3]) == winner(rows) == 0
    everything = [images[index] for index in range(5)]
    flat = [torch.full((3, 2, 2), value) for value in everything]
    distances = consensus_distances(flat, [each.rating for each in rows[1:]], RULE.temperature)
    assert min(range(2), key=lambda index: distances[index]) == 1  # so the test can fail


@given(st.lists(st.tuples(st.floats(1, 3), st.floats(0, 1)), max_size=5))
def test_no_candidate_below_the_gain_changes_a_figure_of_the_others(poor) -> None:
    values: dict[Index, float] = {"input": 0.4, 0: 0.5, 1: 0.6, 2: 0.55}
    rows = [INPUT, row(0, 3.6), row(1, 3.5), row(2, 3.3)]
    added = [row(3 + number, rating) for number, (rating, _) in enumerate(poor)]
    values |= {each.index: value for each, (_, value) in zip(added, poor, strict=True)}

    def figures(rows: list[Row]) -> tuple[Change | None, list[float]]:
        images = {index: torch.full((3, 40, 40), value) for index, value in values.items()}
        source, *better = with_consensus(rows, lambda index: images[index], RULE)[:4]
        return source.change, [each.consensus_distance for each in better]

    assert figures(rows + added) == figures(rows)


def test_the_second_judge_is_shown_the_best_rated() -> None:
    rows = [INPUT, *(row(i, 3.1 + 0.01 * i, 0.01) for i in range(7)), row(7, 3.9, 0.5)]
    rule = ChoiceRule(min_gain=0)
    assert [each.index for each in finalists(rows, rule, 3)] == [7, 6, 5]
    assert contenders(rows, rule)[-1].index == 7  # the farthest from the consensus


def test_ties_go_to_the_higher_rating_then_to_the_lowest_index() -> None:
    rows = [row(3, 3.5, 0.01), row(1, 3.5, 0.01), INPUT, row(2, 3.6, 0.01), row(0, 3.9, 0.02)]
    assert choose(rows, RULE).index == choose(rows[::-1], RULE).index == 2
    assert choose(rows[:3], RULE).index == choose(rows[2::-1], RULE).index == 1


def test_skipped_rows_cannot_win() -> None:
    rows = [INPUT, row(0, 5.0, 0.0, "unfaithful"), row(1, 3.5, 0.1)]
    assert choose(rows, RULE).index == 1
    assert choose(rows[:2], RULE) == (
        "input",
        "input kept: no candidate to choose from, all 1 were skipped (1 unfaithful)",
    )


def test_no_candidates_at_all() -> None:
    assert choose([INPUT], RULE).reason.endswith("none was finished")


def test_input_without_judgement_is_kept() -> None:
    source = Row("input", math.nan, math.nan, "judgement_failed", "truncated")
    index, reason = choose([source, row(0, 4.0, 0.0)], RULE)
    assert index == "input" and "could not be judged (truncated)" in reason


def test_rows_without_input_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the row of the input"):
        choose([row(0, 4.0)], RULE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": math.inf}, "confidence and min_gain are finite"),
        ({"min_gain": -0.1}, "confidence and min_gain are finite"),
        ({"temperature": -1.0}, "temperature is a number ≥ 0"),
        ({"temperature": math.nan}, "temperature is a number ≥ 0"),
        ({"good_rating": math.nan}, "good_rating is a rating"),
        ({"min_change": -0.1}, "min_change and min_grid are numbers ≥ 0"),
        ({"min_grid": math.nan}, "min_change and min_grid are numbers ≥ 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChoiceRule(**settings)


# --- two judges ----------------------------------------------------------------------------------


def second(plain: Row, rating: float) -> Row:
    from dataclasses import replace

    return replace(plain, second_rating=rating)


def test_the_second_judge_by_hand() -> None:
    rows = [
        second(INPUT, 2.0),
        second(row(0, 3.5, 0.01), 2.5),
        second(row(1, 3.6, 0.02), 3.5),
        row(2, 4.9, 0.03),  # no finalist
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
    lost, good = second(row(0, 3.5, 0.01), math.nan), second(row(1, 3.6, 0.02), 3.5)
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

figures = st.lists(st.tuples(st.floats(1, 5), st.floats(0, 1)), max_size=6)


@given(figures, st.floats(1, 5), st.floats(0, 1), st.floats(0, 1), st.floats(1, 6))
def test_the_choice_is_the_best_admissible_row(table, rating, std, min_gain, good) -> None:
    rule = ChoiceRule(confidence=1.0, good_rating=good, min_gain=min_gain)
    source = Row("input", rating, std)
    index = choose([source, *(row(i, r, d) for i, (r, d) in enumerate(table))], rule).index
    better = {i: d for i, (r, d) in enumerate(table) if r - rating > min_gain}
    if rating + std >= good or not better:
        assert index == "input"
    else:
        assert better[int(index)] == min(better.values())
