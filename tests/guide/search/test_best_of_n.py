"""The loop around the choice, under everything that can go wrong."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn import functional

from restoration_guide.fidelity.colour import is_grey
from restoration_guide.fidelity.measure import FidelityLimits
from restoration_guide.search.best_of_n import (
    BestOfN,
    BestOfNConfig,
    RestorationError,
)
from restoration_guide.search.prune import PruneConfig
from restoration_guide.search.screening import screen
from restoration_guide.search.selection import SearchInterrupted
from zoomiqa_core.images.sources import (
    ImageError,
    ImageLimits,
    TooLargeError,
    TooSmallError,
    read_image,
    to_pil,
)

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
    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3)
    result, result_rule = search(photo, seed=7), search.config
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
    before, *others = result.table
    assert [entry["gain"] for entry in others] == [
        entry["rating"] - before["rating"] for entry in others
    ]
    assert math.isnan(before["gain"]) and math.isnan(others[0]["consensus_distance"])
    bounds = [result_rule.lower_gain(row) for row in result.rows[1:]]
    assert bounds[int(result.choice)] == max(bounds) > 0
    assert 0 < result.timing.judging_share < 1


def test_the_nearest_to_their_mean_comes_out_on_request(photo, stubs) -> None:
    result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3, select="consensus")(photo, seed=7)
    distances = {row.index: row.consensus_distance for row in result.rows[1:]}
    assert distances[result.choice] == min(distances.values()) > 0
    assert result.config["select"] == "consensus" and "nearest to their mean" in result.reason


def test_a_function_of_rows_chooses(photo, stubs) -> None:
    def last(row):
        return int(row.index)

    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3, select=last)
    result = search(photo, seed=7)
    better = [r.index for r in result.rows[1:] if search.config.lower_gain(r) > 0]
    assert result.choice == max(better) and result.config["select"] == "last"


def test_a_judge_that_takes_the_input_sees_it(photo, stubs) -> None:
    class WithInput(stubs.Scorer):
        takes_degraded = True

        def assess(self, images, *, degraded=None):
            assert degraded is not None and torch.equal(degraded, photo)
            judged = super().assess(images)
            return [replace(each, gain=0.25, gain_std=0.1) for each in judged]

    result = BestOfN(stubs.Restorer(), WithInput(), n=2)(photo, seed=7)
    assert [(row.gain, row.gain_std) for row in result.rows[1:]] == [(0.25, 0.1)] * 2
    assert result.choice != "input"


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


def test_a_crash_before_any_candidate_is_no_kept_input(photo, stubs) -> None:
    search = BestOfN(stubs.Restorer([ValueError("no weights")]), stubs.Scorer(), n=8)
    with pytest.raises(RestorationError, match="any of 8 candidates: ValueError: no weights") as e:
        search(photo)
    assert isinstance(e.value.__cause__, ValueError)


def test_what_is_no_restorer_or_judge_is_refused_at_once(stubs) -> None:
    with pytest.raises(TypeError, match="load_restorer makes one"):
        BestOfN(lambda image, generator: image, stubs.Scorer())  # pyright: ignore
    with pytest.raises(TypeError, match=r"expected a judge with assess\(image\)"):
        BestOfN(stubs.Restorer(), lambda image: 3.0)  # pyright: ignore
    with pytest.raises(TypeError, match=r"expected a judge with assess\(image\)"):
        BestOfN(stubs.Restorer(), stubs.Scorer(), second=torch.nn.Identity())  # pyright: ignore


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (0.5, TypeError)])
def test_a_bad_seed_is_refused_before_anything_is_judged(photo, stubs, seed, error) -> None:
    scorer = stubs.Scorer()
    with pytest.raises(error):
        BestOfN(stubs.Restorer(), scorer)(photo, seed=seed)
    assert scorer.judged == 0


def test_a_deadline_is_refused_at_once_where_nothing_can_be_observed(photo, stubs) -> None:
    class Tiled(stubs.Restorer):
        unobservable = "it works in tiles"

        def restore(self, image, *, n, seed=0, batch_size=1, observer=None):
            return super().restore(image, n=n, seed=seed)

    for restorer, why in ((stubs.Restorer(), "takes no observer"), (Tiled(), "works in tiles")):
        with pytest.raises(ValueError, match=f"shows no previews, because .*{why}"):
            BestOfN(restorer, stubs.Scorer(), n=1, deadline_s=60)
        with pytest.raises(ValueError, match=f"shows no previews, because .*{why}"):
            BestOfN(restorer, stubs.Scorer(), n=1, prune=PruneConfig())
        assert BestOfN(restorer, stubs.Scorer(), n=1)(photo).choice == 0


def test_a_saved_picture_keeps_exif_and_alpha(photo, stubs, tmp_path) -> None:
    picture = to_pil(photo).convert("RGBA")
    picture.putalpha(128)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Copyright] = 6, "nobody"
    picture.save(tmp_path / "in.png", exif=exif)
    result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=1)(tmp_path / "in.png")
    assert result.choice == 0 and result.best.shape == (3, 80, 64)  # upright
    saved = read_image(result.save(tmp_path / "out.png"))
    assert saved.alpha is not None and (saved.alpha * 255).unique().tolist() == [128]
    torch.testing.assert_close(saved.pixels, result.best, rtol=0, atol=0.5 / 255)
    with Image.open(tmp_path / "out.png") as written:
        assert dict(written.getexif()) == {ExifTags.Base.Copyright: "nobody"}
    with pytest.raises(ValueError, match=r"ends in \.png"):
        result.save(tmp_path / "best.gif")


def test_what_the_restorer_refuses_is_the_callers_error(photo, stubs) -> None:
    class Unobservable(stubs.Restorer):
        def restore(self, image, *, n, seed=0, batch_size=1, observer=None):
            if observer is not None:
                raise ValueError("shows no previews")
            return super().restore(image, n=n, seed=seed)

    assert BestOfN(Unobservable(), stubs.Scorer(), n=1)(photo).choice == 0
    with pytest.raises(ValueError, match="shows no previews"):
        BestOfN(Unobservable(), stubs.Scorer(), n=1, deadline_s=60)(photo)


def test_a_greyscale_input_comes_back_greyscale(photo, stubs) -> None:
    def tinted(image: Tensor, generator: torch.Generator) -> Tensor:
        noise = 0.02 * torch.randn(image.shape, generator=generator)
        return (stubs.smooth(image, generator) + noise).clamp(0, 1)

    grey = photo.mean(0, keepdim=True).expand(3, -1, -1).contiguous()
    result = BestOfN(stubs.Restorer([tinted]), stubs.Scorer(), n=2)(grey)
    assert result.choice != "input"
    for candidate in result.candidates:
        assert torch.equal(candidate.image[0], candidate.image[2])
        assert candidate.notes == ("colour taken out: the input is greyscale",)
    coloured = BestOfN(stubs.Restorer([tinted]), stubs.Scorer(), n=1)(photo)
    assert not is_grey(coloured.image(0))  # a photo with colour keeps it


def test_ctrl_c_while_judging_keeps_what_was_judged(photo, stubs) -> None:
    class Interrupted(stubs.Scorer):
        def _assess(self, source):
            if self.judged == 3:  # the input and two candidates
                raise KeyboardInterrupt
            return super()._assess(source)

    with pytest.raises(SearchInterrupted) as caught:
        BestOfN(stubs.Restorer(), Interrupted(), n=4)(photo)
    selection = caught.value.selection
    assert selection.choice in (0, 1) and len(selection.candidates) == 3
    assert selection.skipped == {"judgement_failed": 1}
    assert selection.row(2).detail == "interrupted" and selection.error == "KeyboardInterrupt"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_candidate_is_handed_over_with_its_row_as_soon_as_it_is_judged(
    photo, stubs, batch_size
) -> None:
    events: list[Any] = []

    def judged(candidate, row) -> None:
        assert candidate.index == row.index
        events.append(row)

    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=4, batch_size=batch_size)
    result = search(photo, progress=lambda made: events.append(made.index), judged=judged)
    assert tuple(row for row in events if not isinstance(row, int)) == result.rows[1:]
    order = [event if isinstance(event, int) else f"row {event.index}" for event in events]
    if batch_size == 1:
        assert order == [0, "row 0", 1, "row 1", 2, "row 2", 3, "row 3"]
    else:
        assert order == [0, 1, 2, "row 0", "row 1", "row 2", 3, "row 3"]


def test_a_callback_can_end_the_search(photo, stubs) -> None:
    def judged(candidate, row) -> None:
        if row.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(SearchInterrupted) as caught:
        BestOfN(stubs.Restorer(), stubs.Scorer(), n=9)(photo, judged=judged)
    selection = caught.value.selection
    assert selection.choice in (0, 1) and len(selection.candidates) == 2 and not selection.skipped


def test_ctrl_c_judges_the_part_of_a_batch_that_was_finished(photo, stubs) -> None:
    script = [stubs.smooth, stubs.smooth, KeyboardInterrupt()]
    with pytest.raises(SearchInterrupted) as caught:
        BestOfN(stubs.Restorer(script), stubs.Scorer(), n=8, batch_size=8)(photo)
    assert caught.value.selection.choice in (0, 1)


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


# --- two judges ----------------------------------------------------------------------------------


class Sharpness:
    """A second judge with another taste: it likes what the first dislikes."""

    name = "sharpness"

    def __init__(self, stubs, fails_on=None) -> None:
        self.first = stubs.Scorer(fails_on=fails_on)

    def assess(self, images):
        return [
            replace(judged, rating=6 - judged.rating) if judged.valid else judged
            for judged in self.first.assess(images)
        ]


def steady(image: Tensor, _: torch.Generator) -> Tensor:
    """Half-way to the mean: noisier than ``smooth``, less noisy than the input."""
    return (image + functional.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]) / 2


def test_the_second_judge_has_the_last_word_on_the_finalists(photo, stubs) -> None:
    restorer = stubs.Restorer([stubs.smooth, steady, stubs.smooth, stubs.smooth])
    second: Any = Sharpness(stubs)  # all of a judge that is asked for
    alone = BestOfN(restorer, stubs.Scorer(), n=4)(photo)
    result = BestOfN(restorer, stubs.Scorer(), n=4, second=second, finalists=4)(photo)
    assert second.first.judged == 5 and result.second_failures == 0
    assert set(result.second_assessments) == {"input", 0, 1, 2, 3}
    # It likes the noisy input best of all.
    assert alone.choice != "input" and result.choice == "input"
    assert "by the second judge" in result.reason and result.config["second"] == "sharpness"
    ratings = {entry["index"]: entry["second_rating"] for entry in result.table}
    assert max(ratings, key=lambda index: ratings[index]) == "input"


def test_the_second_judge_sees_no_more_than_the_finalists(photo, stubs) -> None:
    second = stubs.Scorer()
    result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=5, second=second, finalists=2)(photo)
    assert second.judged == 3  # the input and two
    asked = [entry["index"] for entry in result.table if entry["second_rating"] is not None]
    best = sorted(result.rows[1:], key=lambda row: -row.rating)[:2]
    assert set(asked) == {"input", *(row.index for row in best)}
    assert result.choice in asked


def test_failures_of_the_second_judge_are_counted_and_said(photo, stubs) -> None:
    def candidates_only(image: Tensor) -> bool:
        return not torch.equal(image, photo)

    alone = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3)(photo)
    for fails_on, count in ((candidates_only, 3), (lambda _: True, 4)):
        second = stubs.Scorer(fails_on=fails_on)
        result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3, second=second)(photo)
        assert result.choice == alone.choice and result.second_failures == count
        assert "by the first judge alone: the second failed on all 3" in result.reason
        assert result.row(result.choice).second_error == "scripted: the script says so"


def test_the_second_judge_is_not_asked_where_there_is_nothing_to_choose(photo, stubs) -> None:
    second = stubs.Scorer()
    BestOfN(stubs.Restorer([black]), stubs.Scorer(), n=2, second=second)(photo)
    assert second.judged == 0


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
    [{"n": 0}, {"batch_size": 0}, {"finalists": 0}, {"min_gain": -1}, {"min_gain": math.nan}],
)
def test_settings_out_of_range(settings) -> None:
    with pytest.raises(ValueError, match="≥"):
        BestOfNConfig(**settings)
