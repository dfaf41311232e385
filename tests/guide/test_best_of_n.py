"""Choosing by hand arithmetic, and the loop around it under everything that can go wrong."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from restoration_guide.best_of_n import BestOfN, BestOfNConfig, SearchInterrupted, choose
from restoration_guide.fidelity import FidelityLimits
from restoration_guide.screening import screen
from restoration_guide.selection import Row
from zoomiqa_core.images import ImageError, ImageLimits, TooLargeError, TooSmallError

INPUT = Row("input", 3.0, 0.2)


def row(index: int, rating: float, std: float = 0.2, status: str = "ok") -> Row:
    return Row(index, rating, std, status)


# --- choose(): by hand ---------------------------------------------------------------------------


def test_highest_lower_bound_wins_not_the_highest_rating() -> None:
    # k = 1: 4.0 − 0.9 = 3.1, 3.8 − 0.2 = 3.6, against the input's 3.0.
    index, reason = choose([INPUT, row(0, 4.0, 0.9), row(1, 3.8, 0.2)], 1.0, 0.1)
    assert index == 1
    assert reason == "candidate 1 is best: lower bound 3.60 against the input's rating 3.00"


def test_confidence_zero_trusts_the_rating() -> None:
    assert choose([INPUT, row(0, 4.0, 0.9), row(1, 3.8, 0.2)], 0.0, 0.1).index == 0


def test_gain_must_exceed_the_minimum() -> None:
    # Binary fractions, so that the arithmetic is exact: 3.25 − 0.25 = 3.0 and 2.5 + 0.5 = 3.0.
    source, same = Row("input", 2.5, 0.25), row(0, 3.25, 0.25)
    assert choose([source, same], 1.0, 0.5).index == "input"
    assert choose([source, same], 1.0, 0.25).index == 0


def test_no_gain_keeps_the_input_even_without_a_minimum() -> None:
    index, reason = choose([INPUT, row(0, 3.0)], 1.0, 0.0)
    assert index == "input"
    assert "the best candidate (0)" in reason and "more than 0" in reason


def test_ties_go_to_the_lowest_index_in_any_order() -> None:
    rows = [row(3, 4.0), row(1, 4.0), INPUT, row(2, 4.0)]
    assert choose(rows, 1.0, 0.1).index == 1
    assert choose(rows[::-1], 1.0, 0.1).index == 1


def test_skipped_rows_cannot_win() -> None:
    rows = [INPUT, row(0, 5.0, 0.0, "unfaithful"), row(1, 3.5)]
    assert choose(rows, 1.0, 0.1).index == 1
    index, reason = choose(rows[:2], 1.0, 0.1)
    assert (index, reason) == (
        "input",
        "input kept: no candidate to choose from, all 1 were skipped (1 unfaithful)",
    )


def test_no_candidates_at_all() -> None:
    assert choose([INPUT], 1.0, 0.1).reason.endswith("none was finished")


def test_input_without_judgement_is_kept() -> None:
    source = Row("input", math.nan, math.nan, "judgement_failed", "truncated")
    index, reason = choose([source, row(0, 4.0)], 1.0, 0.1)
    assert index == "input" and "could not be judged (truncated)" in reason


def test_rows_without_input_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the row of the input"):
        choose([row(0, 4.0)], 1.0, 0.1)


numbers = st.floats(1, 5)


@given(st.lists(st.tuples(numbers, st.floats(0, 1)), max_size=6), st.floats(0, 2), st.floats(0, 1))
def test_choice_is_the_best_admissible_row(figures, k: float, min_gain: float) -> None:
    rows = [INPUT, *(row(i, rating, std) for i, (rating, std) in enumerate(figures))]
    index = choose(rows, k, min_gain).index
    bound = INPUT.rating + min_gain
    bounds = {i: rating - k * std for i, (rating, std) in enumerate(figures)}
    if index == "input":
        assert all(value <= bound for value in bounds.values())
    else:
        assert bounds[int(index)] == max(bounds.values()) > bound


# --- screen(): by hand ---------------------------------------------------------------------------


def nan_pixel(image: Tensor, _: torch.Generator) -> Tensor:
    broken = image.clone()
    broken[0, 0, 0] = math.nan
    return broken


def infinite(image: Tensor, _: torch.Generator) -> Tensor:
    return image / 0.0


def black(image: Tensor, _: torch.Generator) -> Tensor:
    return torch.zeros_like(image)


def cropped(image: Tensor, _: torch.Generator) -> Tensor:
    return image[:, 1:]


def signed(image: Tensor, _: torch.Generator) -> Tensor:
    return image * 2 - 1


def recoloured(image: Tensor, _: torch.Generator) -> Tensor:
    return (image * 0.5 + 0.5).clamp(0, 1)


SKIPPED: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "not_finite": nan_pixel,
    "constant": black,
    "wrong_size": cropped,
    "out_of_range": signed,
}


@pytest.mark.parametrize(("status", "make"), [*SKIPPED.items(), ("not_finite", infinite)])
def test_screening_names_the_fault(photo, status, make) -> None:
    found, detail = screen(make(photo, torch.Generator()), photo)
    assert found == status and detail


def test_a_flat_candidate_of_a_flat_input_is_fine() -> None:
    flat = torch.full((3, 16, 16), 0.5)
    assert screen(flat, flat) == ("ok", "")
    assert screen(torch.zeros_like(flat), flat) == ("ok", "")


def test_rounding_overshoot_is_not_out_of_range(photo) -> None:
    assert screen(photo.mul(2 + 1e-3).sub(5e-4).div(2), photo)[0] == "ok"


# --- the loop ------------------------------------------------------------------------------------


def test_the_best_candidate_comes_out(photo, stubs) -> None:
    result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3)(photo, seed=7)
    assert result.choice in (0, 1, 2) and result.error is None and result.skipped == {}
    assert torch.equal(result.best, result.image(result.choice))
    assert [entry["index"] for entry in result.table] == ["input", 0, 1, 2]
    assert {entry["seed"] for entry in result.table[1:]} == {7}
    assert result.table[1]["settings"] == {
        "steps": 1,
        "strength": 1.0,
        "temperature": 0.0,
        "churn": False,
    }
    bounds = [entry["lower_bound"] for entry in result.table]
    k = result.config["confidence"]
    assert bounds == [entry["rating"] - k * entry["rating_std"] for entry in result.table]
    assert result.table[int(result.choice) + 1]["lower_bound"] == max(bounds)
    assert 0 < result.timing.judging_share < 1


def test_input_is_kept_when_no_candidate_is_better(photo, stubs) -> None:
    def same(image: Tensor, _: torch.Generator) -> Tensor:
        return image.clone()

    result = BestOfN(stubs.Restorer([same]), stubs.Scorer(), n=2)(photo)
    assert result.choice == "input" and torch.equal(result.best, photo)


def test_faulty_candidates_are_skipped_and_counted(photo, stubs) -> None:
    script = [*SKIPPED.values(), recoloured, stubs.smooth]
    result = BestOfN(stubs.Restorer(script), stubs.Scorer(), n=6)(photo)
    assert result.choice == 5
    assert result.skipped == {**dict.fromkeys(SKIPPED, 1), "unfaithful": 1}
    assert set(result.assessments) == {"input", 4, 5}  # nothing judges faulty pixels
    assert "low_pass_distance" in result.row(4).detail
    assert math.isnan(result.row(0).rating)


def test_everything_skipped_returns_the_input(photo, stubs) -> None:
    result = BestOfN(stubs.Restorer([black]), stubs.Scorer(), n=4)(photo)
    assert result.choice == "input" and torch.equal(result.best, photo)
    assert "all 4 were skipped (4 constant)" in result.reason


def test_fidelity_limits_can_be_switched_off(photo, stubs) -> None:
    limits = FidelityLimits(math.inf, -math.inf)
    result = BestOfN(stubs.Restorer([recoloured]), stubs.Scorer(), n=1, limits=limits)(photo)
    assert result.skipped == {} and result.choice == 0


def test_crash_keeps_finished_candidates(photo, stubs) -> None:
    script = [stubs.smooth, stubs.smooth, RuntimeError("out of memory")]
    result = BestOfN(stubs.Restorer(script), stubs.Scorer(), n=8)(photo)
    assert result.choice in (0, 1) and len(result.candidates) == 2
    assert result.error == "RuntimeError: out of memory"
    assert "stopped early" in result.reason


def test_crash_at_once_returns_the_input(photo, stubs) -> None:
    result = BestOfN(stubs.Restorer([ValueError()]), stubs.Scorer(), n=8)(photo)
    assert result.choice == "input" and result.error == "ValueError"
    assert result.skipped == {} and "none was finished" in result.reason


def test_ctrl_c_hands_over_what_was_finished(photo, stubs) -> None:
    script = [stubs.smooth, KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt) as caught:
        BestOfN(stubs.Restorer(script), stubs.Scorer(), n=4)(photo)
    assert isinstance(caught.value, SearchInterrupted)
    assert caught.value.selection.choice == 0
    assert caught.value.selection.error == "KeyboardInterrupt"


def test_ctrl_c_before_the_first_candidate_is_a_plain_one(photo, stubs) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        BestOfN(stubs.Restorer([KeyboardInterrupt()]), stubs.Scorer())(photo)
    assert not isinstance(caught.value, SearchInterrupted)


def test_failed_judgements_are_skipped(photo, stubs) -> None:
    seen: list[int] = []

    def every_other_candidate(image: Tensor) -> bool:
        seen.append(1)
        return len(seen) in (2, 4)  # the input comes first

    scorer = stubs.Scorer(fails_on=every_other_candidate)
    result = BestOfN(stubs.Restorer(), scorer, n=4)(photo)
    assert result.skipped == {"judgement_failed": 2} and result.choice in (1, 3)
    assert result.row(0).detail == "scripted: the script says so"


@pytest.mark.parametrize(("rating", "std"), [(math.nan, 0.1), (3.0, math.nan), (math.inf, 0.1)])
def test_a_judgement_that_is_no_number_is_no_judgement(photo, stubs, rating, std) -> None:
    class Broken(stubs.Scorer):
        def _assess(self, source):
            from zoomiqa_core.assessment import Assessment

            self.judged += 1
            return Assessment(rating, std) if self.judged > 1 else Assessment(2.0, 0.1)

    result = BestOfN(stubs.Restorer(), Broken(), n=2)(photo)
    assert result.choice == "input" and result.skipped == {"judgement_failed": 2}


def test_a_judge_that_raises_fails_for_that_image_alone(photo, stubs) -> None:
    def explode_on_green(image: Tensor) -> bool:
        if image[1, 0, 0] > 0.99:
            raise RuntimeError("no green")
        return False

    def green_corner(image: Tensor, generator: torch.Generator) -> Tensor:
        restored = stubs.smooth(image, generator)
        restored[1, 0, 0] = 1.0
        return restored

    restorer = stubs.Restorer([stubs.smooth, green_corner, stubs.smooth])
    result = BestOfN(restorer, stubs.Scorer(fails_on=explode_on_green), n=3)(photo)
    assert result.choice in (0, 2) and result.skipped == {"judgement_failed": 1}
    assert result.row(1).detail == "judge_error: RuntimeError: no green"


def test_unjudged_input_is_kept(photo, stubs) -> None:
    result = BestOfN(stubs.Restorer(), stubs.Scorer(fails_on=lambda _: True), n=2)(photo)
    assert result.choice == "input"
    assert result.skipped == {"judgement_failed": 2}


def test_too_many_candidates_are_not_taken(photo, stubs) -> None:
    class Eager(stubs.Restorer):
        def restore(self, image, *, n, seed=0, batch_size=1):
            return super().restore(image, n=n + 5, seed=seed, batch_size=batch_size)

    assert len(BestOfN(Eager(), stubs.Scorer(), n=3)(photo).candidates) == 3


def test_progress_sees_every_candidate(photo, stubs) -> None:
    seen: list[int] = []
    BestOfN(stubs.Restorer(), stubs.Scorer(), n=3)(
        photo, progress=lambda candidate: seen.append(candidate.index)
    )
    assert seen == [0, 1, 2]


def test_unknown_index_teaches(photo, stubs) -> None:
    result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2)(photo)
    with pytest.raises(KeyError, match="no finished candidate 9"):
        result.image(9)


def test_bad_image_is_the_callers(stubs, tmp_path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        BestOfN(stubs.Restorer(), stubs.Scorer())(tmp_path / "none.png")


def test_sizes_the_restorer_cannot_take_are_named_before_it_runs(photo, stubs) -> None:
    scorer = stubs.Scorer()
    search = BestOfN(stubs.Restorer(), scorer, n=1)
    with pytest.raises(TooSmallError, match="8 or more"):
        search(torch.rand(3, 7, 20))
    search.restorer.limits = ImageLimits(max_pixels=64 * 80 - 1)  # the photo has one more
    with pytest.raises(TooLargeError, match="5,119 pixels"):
        search(photo)
    assert scorer.judged == 0
    search.restorer.limits = ImageLimits(max_pixels=64 * 80)
    assert search(photo).error is None


@pytest.mark.parametrize(
    "settings",
    [{"n": 0}, {"batch_size": 0}, {"confidence": -1}, {"min_gain": math.nan}],
)
def test_settings_out_of_range(settings) -> None:
    with pytest.raises(ValueError, match="≥"):
        BestOfNConfig(**settings)
