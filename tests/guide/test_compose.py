"""Region composition: labels and blending by hand, and the verdict on the whole."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restoration_guide.best_of_n import BestOfN
from restoration_guide.blending import blend, seam_step
from restoration_guide.compose import (
    ComposeConfig,
    assign_labels,
    compose_regions,
    local_distance,
    low_pass,
)
from restoration_guide.fidelity import low_pass_distance
from restoration_guide.selection import Selection

SIDE = 64


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def halves(width: int = SIDE, height: int = SIDE) -> Tensor:
    """(2, H, W): masks of the left and the right half."""
    left = (torch.arange(width) < width // 2).float().expand(height, width)
    return torch.stack([left, 1 - left])


# --- labels --------------------------------------------------------------------------------------


def test_labels_by_hand() -> None:
    # one row of four cells; image 1 gains .3, .3, .05 and -1 over image 0, which is the base
    maps = torch.tensor([[[3.0, 3.0, 3.0, 3.0]], [[3.3, 3.3, 3.05, 2.0]]])

    def found(margin: float, cost: float) -> list[int]:
        return assign_labels(maps, 0, margin=margin, switch_cost=cost)[0].tolist()

    assert found(0.0, 0.0) == [1, 1, 1, 0]
    assert found(0.1, 0.0) == [1, 1, 0, 0]  # .05 is less than the margin
    assert found(0.4, 0.0) == [0, 0, 0, 0]
    assert found(0.1, 0.3) == [1, 1, 0, 0]  # a border of cost .3 for a gain of .2 + .2


def test_a_lone_cell_pays_for_four_borders() -> None:
    maps = torch.full((2, 3, 3), 3.0)
    maps[1, 1, 1] = 3.5
    assert assign_labels(maps, 0, margin=0.0, switch_cost=0.1)[1, 1] == 1  # .5 > 4 · .1
    assert assign_labels(maps, 0, margin=0.0, switch_cost=0.2).sum() == 0  # .5 < 4 · .2


def test_barred_images_are_not_taken_and_the_base_always_may_be() -> None:
    maps = torch.stack([torch.full((2, 2), r) for r in (2.0, 5.0, 4.0)])
    allowed = torch.ones(3, 2, 2, dtype=torch.bool)
    allowed[1, 0, 0] = False
    allowed[0] = False
    labels = assign_labels(maps, 0, margin=0.0, switch_cost=0.0, allowed=allowed)
    assert labels.tolist() == [[2, 1], [1, 1]]
    assert allowed[0].sum() == 0 and maps[0, 0, 0] == 2.0  # arguments stay
    nothing = torch.zeros(3, 2, 2, dtype=torch.bool)
    labels = assign_labels(maps, 0, margin=0.0, switch_cost=0.0, allowed=nothing)
    assert labels.sum() == 0


def energy(maps: Tensor, labels: Tensor, cost: float) -> float:
    borders = (labels.diff(dim=0) != 0).sum() + (labels.diff(dim=1) != 0).sum()
    return float(maps.gather(0, labels[None]).sum() - cost * borders)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_no_single_cell_could_do_better(seed: int, cost: float) -> None:
    maps = noise(3, 4, 5, seed=seed).double()
    labels = assign_labels(maps, 0, margin=0.0, switch_cost=cost)
    best = energy(maps, labels, cost)
    assert best >= energy(maps, maps.argmax(0), cost) - 1e-9
    for y in range(4):
        for x in range(5):
            for label in range(3):
                other = labels.clone()
                other[y, x] = label
                assert energy(maps, other, cost) <= best + 1e-9


# --- blending ------------------------------------------------------------------------------------


def test_one_level_is_the_weighted_mean() -> None:
    images = noise(2, 3, 5, 7)
    masks = torch.stack([torch.full((5, 7), 0.25), torch.full((5, 7), 0.75)])
    expected = 0.25 * images[0] + 0.75 * images[1]
    torch.testing.assert_close(blend(images, masks, levels=1), expected)


@pytest.mark.parametrize("size", [(64, 64), (37, 90), (9, 8), (3, 5)])
def test_blending_an_image_with_itself_changes_nothing(size: tuple[int, int]) -> None:
    image = noise(1, 3, *size)
    masks = noise(3, *size, seed=1).softmax(0)
    blended = blend(image.expand(3, -1, -1, -1), masks, levels=5)
    torch.testing.assert_close(blended, image[0], atol=2e-6, rtol=0)


def test_far_from_the_border_an_image_is_itself() -> None:
    images, masks = noise(2, 3, 64, 256), halves(256)
    blended = blend(images, masks, levels=4)
    torch.testing.assert_close(blended[:, :, :64], images[0, :, :, :64], atol=2e-6, rtol=0)
    torch.testing.assert_close(blended[:, :, -64:], images[1, :, :, -64:], atol=2e-6, rtol=0)
    assert not torch.equal(blended[:, :, 120:136], images[0, :, :, 120:136])


def test_more_levels_spread_a_step_of_brightness() -> None:
    images = torch.stack([torch.full((3, 64, 64), 0.2), torch.full((3, 64, 64), 0.8)])
    steepest = [
        float(blend(images, halves(), levels=levels).diff(dim=2).abs().max())
        for levels in (1, 2, 3, 4)
    ]
    assert steepest[0] == pytest.approx(0.6)
    assert all(low < high / 1.5 for high, low in pairwise(steepest))


def test_blending_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="masks"):
        blend(noise(2, 3, 8, 8), noise(3, 8, 8), levels=2)
    with pytest.raises(ValueError, match="at least one level"):
        blend(noise(2, 3, 8, 8), noise(2, 8, 8), levels=0)


def test_seam_step_by_hand() -> None:
    labels = torch.tensor([[0, 0, 0, 1, 1, 1]])
    dark, bright = torch.full((3, 1, 6), 0.2), torch.full((3, 1, 6), 0.8)
    joined = torch.where(labels == 0, dark, bright)
    assert seam_step(joined, torch.stack([dark, bright]), labels) == pytest.approx(0.6)
    # where a source has an edge of .5 itself, only what exceeds it counts
    edge = torch.where(labels == 0, dark, dark + 0.5)
    assert seam_step(joined, torch.stack([dark, edge]), labels) == pytest.approx(0.1)
    assert seam_step(edge, torch.stack([dark, edge]), labels) == 0
    assert seam_step(joined, torch.stack([dark, bright]), torch.zeros_like(labels)) == 0


def test_blending_leaves_less_of_a_seam() -> None:
    images = torch.stack([noise(3, 64, 64) * 0.2 + 0.3, noise(3, 64, 64, seed=1) * 0.2 + 0.5])
    labels = halves().argmax(0)
    hard, soft = (
        seam_step(blend(images, halves(), levels=levels), images, labels) for levels in (1, 5)
    )
    assert soft < 0.25 * hard


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


def test_the_better_halves_are_joined(mixed: Selection, tmp_path) -> None:
    composed = compose_regions(mixed)
    row = composed.row(2)
    assert mixed.choice in (0, 1) and composed.choice == 2 and row.status == "ok"
    assert row.rating > max(mixed.row(index).rating for index in (0, 1, "input"))
    assert row.settings == {"composed of": "0 43%, 1 57%"}
    assert "candidate 2 is best" in composed.reason and "composed of 0 43%" in composed.reason
    best = composed.best
    assert torch.allclose(best[..., :16], mixed.image(0)[..., :16], atol=1e-5)
    assert torch.allclose(best[..., -16:], mixed.image(1)[..., -16:], atol=1e-5)
    assert composed.timing.total > mixed.timing.total and composed.rows[:3] == mixed.rows

    folder = composed.report(tmp_path / "report")
    record = json.loads((folder / "report.json").read_text("utf-8"))
    assert record["choice"] == 2 and record["rows"][3]["settings"] == row.settings
    assert (folder / "candidates" / "02.png").is_file()


def test_nothing_is_composed_when_one_image_is_best_everywhere(photo, stubs) -> None:
    selection = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2)(photo)
    assert compose_regions(selection, ComposeConfig(margin=0.5)) is selection


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


def test_an_unfaithful_image_is_not_taken_where_it_is_unfaithful(mixed: Selection) -> None:
    other = 1 - int(mixed.choice)
    assert f"{other} " in compose_regions(mixed).row(2).settings["composed of"]
    strict = compose_regions(mixed, ComposeConfig(max_local_distance=0.0))
    # the input is faithful to itself everywhere, so it alone may take regions from the choice
    assert f"{other} " not in strict.row(2).settings["composed of"]


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


@pytest.mark.parametrize("given_settings", [{"margin": -1.0}, {"max_seam": -0.1}, {"levels": 0}])
def test_settings_out_of_range(given_settings) -> None:
    with pytest.raises(ValueError, match=r"must not be negative|at least 1"):
        ComposeConfig(**given_settings)
