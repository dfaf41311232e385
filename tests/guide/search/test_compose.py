"""Region composition: weights and seams by hand, and the verdict on the whole."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restoration_guide.fidelity.terms import low_pass_distance
from restoration_guide.report.write import write_report
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.compose import (
    ComposeConfig,
    compose_regions,
    local_distance,
    local_weights,
    low_pass,
    seam_step,
)
from restoration_guide.search.selection import Selection

SIDE = 64


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- places --------------------------------------------------------------------------------------


def weights_of(*ratings: float, faithful: bool = True, temperature: float = 0.1) -> list[float]:
    """In one cell; image 0 is the input."""
    maps = torch.tensor(ratings)[:, None, None]
    counts = torch.full(maps.shape, faithful)
    return local_weights(maps, 0, counts, temperature).flatten().tolist()


def test_weights_by_hand() -> None:
    tenth = 0.1 * math.log(2)
    assert weights_of(3.0, 3.0 + tenth, 3.0) == pytest.approx([1 / 4, 2 / 4, 1 / 4])
    assert weights_of(3.0, 3.0 + tenth, 2.99) == pytest.approx([1 / 3, 2 / 3, 0])  # below the input
    assert weights_of(3.0, 5.0, 4.0) == pytest.approx([0, 1, 0], abs=1e-4)
    assert weights_of(3.0, 5.0, 4.0, temperature=1e6) == pytest.approx([1 / 3] * 3, abs=1e-5)
    assert weights_of(3.0, 5.0, 4.0, faithful=False) == [1, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 2), st.integers(0, 3))
def test_weights_are_a_mean_of_the_images_that_count(
    seed: int, temperature: float, source: int
) -> None:
    maps, faithful = noise(4, 3, 5, seed=seed), noise(4, 3, 5, seed=seed + 1) > 0.3
    kept = maps.clone(), faithful.clone()
    weights = local_weights(maps, source, faithful, temperature)
    torch.testing.assert_close(weights.sum(0), torch.ones(3, 5))
    others = torch.arange(4) != source
    assert bool((weights[others][~faithful[others]] == 0).all())
    assert bool((weights[maps < maps[source]] == 0).all())
    assert bool((weights[source] > 0).any())
    assert torch.equal(maps, kept[0]) and torch.equal(faithful, kept[1])  # arguments stay
    rises = local_weights(maps + (~others)[:, None, None] * -0.01, source, faithful, temperature)
    assert bool((rises[source] <= weights[source] + 1e-6).all())  # a worse input counts less


def test_seam_step_by_hand() -> None:
    dark, bright = torch.full((3, 1, 6), 0.2), torch.full((3, 1, 6), 0.8)
    joined = torch.cat([dark[..., :3], bright[..., 3:]], dim=2)
    sources = torch.stack([dark, bright])
    # five pairs of neighbours: one of them a step of .6, in all of the image or in its own cell
    assert seam_step(joined[:, [0, 0]], sources[:, :, [0, 0]], (1, 1)) == pytest.approx(0.6 / 5)
    assert seam_step(joined[:, [0, 0]], sources[:, :, [0, 0]], (1, 5)) == pytest.approx(0.6)
    # where a source has an edge of .5 itself, only what exceeds it counts
    edge = torch.cat([dark[..., :3], dark[..., 3:] + 0.5], dim=2)
    sources = torch.stack([dark, edge])[:, :, [0, 0]]
    assert seam_step(joined[:, [0, 0]], sources, (1, 5)) == pytest.approx(0.1)
    assert seam_step(edge[:, [0, 0]], sources, (1, 5)) == 0
    turned = seam_step(joined[:, [0, 0]].mT, sources.mT, (5, 1))
    assert turned == pytest.approx(0.1)


def test_local_distance_is_the_low_pass_distance_of_regions() -> None:
    images, degraded = noise(2, 3, 32, 48), noise(1, 3, 32, 48, seed=3)
    cells = local_distance(images, degraded, (2, 3))
    assert cells.shape == (2, 2, 3)
    whole = local_distance(images, degraded, (1, 1)).flatten()
    torch.testing.assert_close(whole, low_pass_distance(images, degraded.expand_as(images)))
    torch.testing.assert_close(cells.square().mean((1, 2)).sqrt(), whole)


def test_a_constant_plane_passes_the_low_pass() -> None:
    flat = torch.full((2, 5, 6), 0.3)
    torch.testing.assert_close(low_pass(flat, 2.0), flat)
    assert low_pass(flat, 0.0) is flat


# --- the whole -----------------------------------------------------------------------------------


def half_smooth(side: int):
    """A restorer's step: smooths one half (0 left, 1 right) and coarsens the other."""

    def step(image: Tensor, generator: torch.Generator) -> Tensor:
        mean = low_pass(image, 2.0)
        rough = (image + 0.03 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
        middle = image.shape[2] // 2
        left, right = (mean, rough) if side == 0 else (rough, mean)
        return torch.cat([left[..., :middle], right[..., middle:]], dim=2)

    return step


@pytest.fixture
def mixed(stubs) -> Selection:
    """Candidate 0 is better at the left, candidate 1 at the right."""
    photo = stubs.make_photo(64, 128)
    restorer = stubs.Restorer([half_smooth(0), half_smooth(1)])
    return BestOfN(restorer, stubs.Scorer(), n=2)(photo)


def test_the_better_halves_are_taken(mixed: Selection, tmp_path) -> None:
    composed = compose_regions(mixed)
    row = composed.row(2)
    assert mixed.choice in (0, 1) and composed.choice == 2 and row.status == "ok"
    assert row.rating > max(mixed.row(index).rating for index in (0, 1, "input"))
    assert row.settings == {"composed of": "0 50%, 1 50%"}
    assert "candidate 2 is best" in composed.reason and "composed of 0 50%" in composed.reason
    best = composed.best
    assert torch.allclose(best[..., :16], mixed.image(0)[..., :16], atol=1e-5)
    assert torch.allclose(best[..., -16:], mixed.image(1)[..., -16:], atol=1e-5)
    assert composed.timing.total > mixed.timing.total and composed.rows[:3] == mixed.rows

    folder = write_report(composed, tmp_path / "report")
    record = json.loads((folder / "report.json").read_text("utf-8"))
    assert record["choice"] == 2 and record["rows"][3]["settings"] == row.settings
    assert (folder / "candidates" / "02.png").is_file()


def test_candidates_alike_are_averaged(photo, stubs) -> None:
    selection = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2)(photo)
    composed = compose_regions(selection, ComposeConfig(temperature=1e3, smoothing=0.0))
    mean = torch.stack([selection.image(index) for index in ("input", 0, 1)]).mean(0)
    torch.testing.assert_close(composed.image(2), mean, atol=1e-3, rtol=0)


def test_nothing_is_composed_where_all_are_worse_than_the_input(photo, stubs) -> None:
    def rougher(image: Tensor, generator: torch.Generator) -> Tensor:
        return (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)

    selection = BestOfN(stubs.Restorer([rougher]), stubs.Scorer(), n=2)(photo)
    assert selection.choice == "input" and compose_regions(selection) is selection


@pytest.mark.parametrize(
    ("broken", "why"), [("judge", "of the choice"), ("fidelity", "low_pass_distance")]
)
def test_without_agreement_the_choice_stays(mixed: Selection, stubs, broken: str, why: str) -> None:
    if broken == "judge":  # doubts what it has not seen
        known = [mixed.image(index) for index in ("input", 0, 1)]

        class Doubting(stubs.Scorer):
            def _assess(self, source):
                said = super()._assess(source)
                old = any(torch.equal(source, image) for image in known)
                return said if old else replace(said, rating=1.0)

        mixed = replace(mixed, scorer=Doubting())
    else:
        limits = {**mixed.config["fidelity"], "max_low_pass_distance": 0.0}
        mixed = replace(mixed, config={**mixed.config, "fidelity": limits})
    composed = compose_regions(mixed)
    assert composed.choice == mixed.choice and composed.reason == mixed.reason
    assert composed.row(2).status == "rejected" and why in composed.row(2).detail
    assert torch.equal(composed.best, mixed.best) and composed.skipped == {"rejected": 1}


def test_a_second_judge_that_kept_the_input_is_not_overruled(stubs) -> None:
    class Contrary(stubs.Scorer):
        def _assess(self, source):
            said = super()._assess(source)
            return replace(said, rating=6 - said.rating)

    photo = stubs.make_photo(64, 128)
    restorer = stubs.Restorer([half_smooth(0), half_smooth(1)])
    kept = BestOfN(restorer, stubs.Scorer(), n=2, second=Contrary())(photo)
    assert kept.choice == "input"
    composed = compose_regions(kept)
    assert composed.choice == "input" and composed.row(2).status == "rejected"
    assert "the second judge rates it" in composed.row(2).detail
    agreed = BestOfN(restorer, stubs.Scorer(), n=2, second=stubs.Scorer())(photo)
    assert compose_regions(agreed).choice == 2  # both judges prefer it


def test_a_seam_that_shows_is_rejected(stubs) -> None:
    def outer(side: int, brightness: float):
        """Smooth but for the outer quarter of one side."""

        def step(image: Tensor, generator: torch.Generator) -> Tensor:
            smooth = (low_pass(image, 2.0) + brightness).clamp(0, 1)
            rough = slice(0, 32) if side == 0 else slice(96, None)
            smooth[..., rough] = image[..., rough]
            return smooth

        return step

    restorer = stubs.Restorer([outer(1, 0.03), outer(0, 0.0)])
    selection = BestOfN(restorer, stubs.Scorer(), n=2)(stubs.make_photo(64, 128))
    assert compose_regions(selection).choice == 2
    composed = compose_regions(selection, ComposeConfig(max_seam=0.0))
    assert composed.choice == selection.choice and composed.row(2).status == "rejected"
    assert composed.row(2).detail.startswith("its seam is a step of 0.0")


def test_an_image_is_not_taken_where_it_is_unfaithful(stubs) -> None:
    def brighter_left(image: Tensor, generator: torch.Generator) -> Tensor:
        left = torch.arange(image.shape[2]) < image.shape[2] // 2
        return (low_pass(image, 2.0) + 0.03 * left).clamp(0, 1)

    photo = stubs.make_photo(64, 128)
    selection = BestOfN(stubs.Restorer([brighter_left]), stubs.Scorer(), n=1)(photo)

    def composed(limit: float) -> Tensor:
        return compose_regions(selection, ComposeConfig(max_local_distance=limit)).image(1)

    faithful_half = composed(0.015)
    torch.testing.assert_close(faithful_half[..., :40], selection.input[..., :40])
    right = selection.image(0)[..., -40:]
    torch.testing.assert_close(faithful_half[..., -40:], right, atol=1e-3, rtol=0)
    assert compose_regions(selection, ComposeConfig(max_local_distance=0.2)) is selection
    # the candidate outweighs the input everywhere; it, or the input alone, is no composition
    assert compose_regions(selection, ComposeConfig(max_local_distance=0.0)) is selection


def test_a_judge_that_raises_leaves_the_choice(mixed: Selection, stubs) -> None:
    class Breaking(stubs.Scorer):
        def assess(self, images):
            raise RuntimeError("no more")

    composed = compose_regions(replace(mixed, scorer=Breaking()))
    assert composed.choice == mixed.choice
    assert composed.row(2).status == "judgement_failed" and "no more" in composed.row(2).detail


def test_a_selection_without_a_judge_is_refused(mixed: Selection) -> None:
    with pytest.raises(ValueError, match="no judge"):
        compose_regions(replace(mixed, scorer=None))


@pytest.mark.parametrize(
    "given_settings", [{"smoothing": -1.0}, {"max_seam": -0.1}, {"temperature": 0.0}]
)
def test_settings_out_of_range(given_settings) -> None:
    with pytest.raises(ValueError, match=r"must not be negative|finite number > 0"):
        ComposeConfig(**given_settings)
