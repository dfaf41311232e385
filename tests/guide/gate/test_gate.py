"""The quality gate: every action, every defect, and that a failed judgement never accepts."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from restoration_guide.fidelity.measure import FidelityLimits
from restoration_guide.gate.gate import QualityGate
from restoration_guide.gate.verdict import GateConfig, Judged, decide
from restoration_guide.search.best_of_n import BestOfN
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.sources import read_image, save_png, to_pil
from zoomiqa_core.scorer import load_scorer

ANY = FidelityLimits(math.inf, -math.inf)


class Ratings:
    """A judge that gives its ratings in turn; NaN is a failure, an exception is raised."""

    name = "script"

    def __init__(self, *ratings: Any, std: float = 0.2) -> None:
        self.ratings, self.std = list(ratings), std

    def assess(self, images):
        rating = self.ratings.pop(0)
        if isinstance(rating, Exception):
            raise rating
        if math.isnan(rating):
            return Assessment.failed("missing_answer", "no answer")
        return Assessment(rating, self.std)


def gate(*ratings, second=None, **settings) -> Any:
    settings = {"limits": ANY, **settings}
    return QualityGate(Ratings(*ratings), second=second, **settings)  # pyright: ignore


@pytest.fixture
def result(photo):
    return (photo * 0.9).clamp(0, 1)


# --- the rule, by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "action"),
    [
        (2.0, 3.5, "accept"),  # the bar itself passes
        (2.0, 3.49, "retry"),
        (3.6, 3.81, "accept"),  # 3.81 − .5 · .2 = 3.71 > 3.6 + .1
        (3.6, 3.79, "keep_input"),  # 3.69
        (3.6, 2.0, "keep_input"),
        (math.nan, 5.0, "reject"),
        (2.0, math.nan, "retry"),
        (4.0, math.nan, "keep_input"),
        (2.0, math.inf, "retry"),
        (RuntimeError("out of memory"), 5.0, "reject"),
        (2.0, RuntimeError("out of memory"), "retry"),
    ],
)
def test_action_by_hand(photo, result, before, after, action) -> None:
    verdict = gate(before, after)(photo, result)
    assert (verdict.action, verdict.accepted) == (action, action == "accept")
    final = gate(before, after)(photo, result, final=True)
    assert final.action == ("reject" if action == "retry" else action)


def test_reasons_carry_the_figures(photo, result) -> None:
    (reason,) = gate(3.0, 4.0)(photo, result).reasons
    assert reason == (
        "good enough and better: input 3.00 ± 0.20, result 4.00 ± 0.20, 3.50 asked for; the lower "
        "bound of its gain, +1.00 − 0.5 × 0.20, is +0.90"
    )
    below = gate(3.0, 3.25)(photo, result)
    assert below.reasons[0] == "script rates the result 3.25, below 3.50"
    assert "out of memory" in gate(3.0, RuntimeError("out of memory"))(photo, result).reasons[0]
    said = below.to_dict()["ratings"][0]
    assert (said["judge"], said["before"]["rating"], said["after"]["rating"]) == ("script", 3, 3.25)


def test_a_judge_without_a_spread_is_taken_at_its_rating(photo, result) -> None:
    scorer: Any = Ratings(3.6, 3.75, std=math.nan)
    verdict = QualityGate(scorer, limits=ANY)(photo, result)
    assert verdict.accepted and "±" not in verdict.reasons[0]


@pytest.mark.parametrize(
    ("first", "second", "action"),
    [
        ((2.0, 4.0), (1.5, 1.6), "accept"),  # on its own scale the second judge agrees
        ((2.0, 4.0), (1.6, 1.5), "retry"),  # veto
        ((3.6, 5.0), (3.0, 2.9), "keep_input"),
        ((2.0, 4.0), (2.0, math.nan), "retry"),
        ((2.0, 4.0), (math.nan, 4.0), "reject"),  # no attempt will make it comparable
        ((2.0, 3.0), (2.0, 4.0), "retry"),
    ],
)
def test_the_second_judge_has_a_veto(photo, result, first, second, action) -> None:
    verdict = gate(*first, second=Ratings(*second))(photo, result)
    assert verdict.action == action
    assert [said.judge for said in verdict.ratings] == ["script", "script"]
    assert len(verdict.to_dict()["ratings"]) == 2


def test_no_failed_judgement_ever_accepts() -> None:
    failed = Assessment.failed("missing_answer")
    odd = [failed, Assessment(math.nan, 0.1), Assessment(math.inf, 0.1), replace(failed, rating=5)]
    good = Assessment(4.9, 0.0)
    for bad in odd:
        for pair in ((bad, good), (Assessment(1.0, 0.0), bad), (bad, bad)):
            judges = [Judged("a", *pair)], [Judged("a", Assessment(1, 0), good), Judged("b", *pair)]
            for ratings in judges:
                for again in (True, False):
                    assert decide(ratings, GateConfig(), again=again)[0] != "accept"


# --- unusable results ----------------------------------------------------------------------------


def defects(photo, folder) -> dict[str, Any]:
    hole = photo.clone()
    hole[0, 3, 4] = math.nan
    (folder / "empty.png").touch()
    return {
        "not_finite": hole,
        "constant": torch.zeros_like(photo),
        "wrong_size": photo[:, :-1],
        "out_of_range": photo * 2,
        "unreadable": folder / "empty.png",
    }


@pytest.mark.parametrize(
    "name", ["not_finite", "constant", "wrong_size", "out_of_range", "unreadable"]
)
def test_an_unusable_result_is_named_and_not_judged(photo, tmp_path, name) -> None:
    after = defects(photo, tmp_path)[name]
    poor = gate(2.0)(photo, after)  # a second rating would raise IndexError
    lasting = name in ("wrong_size", "unreadable")
    assert poor.action == ("reject" if lasting else "retry")
    assert poor.defect == name and poor.reasons[0].startswith(f"{name}: ")
    assert poor.fidelity is None and poor.ratings[0].after.error == name
    assert gate(4.0)(photo, after).action == "keep_input"


def test_a_gain_within_the_judges_noise_is_no_restoration(photo, result) -> None:
    # a re-compressed copy that crosses the threshold by .05 used to be accepted
    verdict = gate(3.48, 3.53)(photo, result)
    assert (
        verdict.action == "retry"
        and "of its gain, +0.05 − 0.5 × 0.20, is not" in verdict.reasons[0]
    )


def test_recompressed_copies_are_not_accepted() -> None:
    photo = read_image("restoration_guide/demo/photo.jpg").pixels
    judge = load_scorer("proxy")
    careful = QualityGate(judge, judge.assess(photo).rating + 0.001)
    for quality in (40, 60, 75):
        copy = io.BytesIO()
        to_pil(photo).save(copy, "JPEG", quality=quality)
        assert not careful(photo, Image.open(copy)).accepted, quality


def test_a_function_is_no_judge() -> None:
    with pytest.raises(TypeError, match=r"a judge with assess\(image\)"):
        QualityGate(lambda image: 3.0)  # pyright: ignore


def test_an_unfaithful_result_is_not_accepted(photo) -> None:
    other = gate(2.0, 5.0, limits=None)(photo, photo.flip(2))
    assert other.action == "retry" and other.defect is None
    assert other.reasons[0].startswith("unfaithful: ") and other.fidelity is not None


def test_the_input_must_be_readable(tmp_path, photo) -> None:
    verdict = gate()(tmp_path / "none.png", photo)
    assert verdict.action == "reject" and "missing" in verdict.reasons[0]
    assert verdict.ratings == ()


def test_files_and_a_batch_axis(photo_file, photo, result, tmp_path) -> None:
    after = save_png(result, tmp_path / "after.png")
    assert gate(2.0, 4.0)(photo_file, after).accepted
    assert gate(2.0, 4.0)(photo, result[None]).accepted


def test_real_judge_keeps_a_pristine_photo(photo) -> None:
    scorer = load_scorer("proxy")
    rating = scorer.assess(photo).rating
    assert QualityGate(scorer, rating - 0.01)(photo, photo).action == "keep_input"
    assert QualityGate(scorer, rating + 0.01)(photo, photo).action == "retry"


# --- selections ----------------------------------------------------------------------------------


def test_a_selection_is_judged_without_asking_again(photo, stubs) -> None:
    scorer = stubs.Scorer(std=0.1)
    selection = BestOfN(stubs.Restorer(), scorer, n=2)(photo)
    judged = scorer.judged
    verdict = QualityGate(scorer, 3.0)(selection)
    assert (verdict.action, scorer.judged) == ("accept", judged)
    (said,) = verdict.ratings
    assert said.before is selection.assessments["input"]
    assert said.after is selection.assessments[selection.choice]
    fresh = QualityGate(stubs.Scorer(std=0.1), 3.0)(selection)
    assert fresh.ratings[0].after.rating == pytest.approx(said.after.rating)


def test_a_search_that_kept_its_input_has_no_result(photo, stubs) -> None:
    scorer = stubs.Scorer()
    selection = BestOfN(stubs.Restorer([lambda image, _: image * math.nan]), scorer, n=2)(photo)
    assert selection.choice == "input"
    rating = selection.row("input").rating
    poor = QualityGate(scorer, rating + 0.01)(selection, final=True)
    assert (poor.action, poor.defect) == ("reject", "no_candidate")
    assert QualityGate(scorer, rating)(selection).action == "keep_input"


# --- rejection -----------------------------------------------------------------------------------


def test_wrong_settings_and_calls_teach(photo) -> None:
    with pytest.raises(ValueError, match=r"min_rating is a rating in \[1, 5\], got 75"):
        gate(min_rating=75)
    with pytest.raises(ValueError, match="confidence is a finite number"):
        gate(min_gain=math.inf)
    with pytest.raises(TypeError, match=r"gate\(before, after\)"):
        gate(3.0)(photo)
