"""Reward terms by hand, their scales and gate, and groups of candidates."""

from __future__ import annotations

import math

import pytest
import torch

from restoration_guide.fidelity.full_reference import ms_ssim, psnr, reference_figures
from restoration_guide.fidelity.terms import rms
from restoration_guide.finetune.rewards import (
    SMALLEST_SPREAD,
    Reward,
    RewardConfig,
    Weights,
)
from restoration_guide.finetune.terms import map_terms, restoration_gain, worst_mean
from zoomiqa_core.alarm.model import Alarm
from zoomiqa_core.alarm.reference import reference_rating
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy, lower_bound
from zoomiqa_core.proxy.views import ViewConfig, random_views
from zoomiqa_core.restoration.labels import texture_distance
from zoomiqa_core.restoration.model import RestorationJudge

RESTORATION = RestorationJudge(width=8, members=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def output(rating: list[float], std: list[float], cells: list[list[float]]) -> ProxyOutput:
    grid = torch.tensor(cells).view(len(cells), 1, 1, -1)
    ones = torch.ones_like(grid)
    return ProxyOutput(torch.tensor(rating), torch.tensor(std), grid, ones, ones)


def reward(judge=None, **settings) -> Reward:
    settings = {"views": ViewConfig(count=0), "weights": Weights(0.0, 1.0), **settings}
    return Reward(RewardConfig(**settings), judge or QualityProxy(width=8), RESTORATION)


def test_quality_terms_by_hand():
    views = [output([3.0], [0.3], [[2.0, 4.0]]), output([4.0], [0.4], [[3.0, 5.0]])]
    # doubt² = mean(.09, .16) + var(3, 4) = .125 + .25
    assert lower_bound(views, 2.0).item() == pytest.approx(3.5 - 2 * math.sqrt(0.375))
    found = map_terms(views, worst_share=0.5)
    assert found["map"].item() == pytest.approx(3.5)
    assert found["worst_region"].item() == pytest.approx(2.5)


def test_worst_cells_are_at_least_one():
    cells = torch.tensor([[5.0, 1.0, 3.0, 2.0]])
    assert worst_mean(cells, 0.01).item() == 1.0
    assert worst_mean(cells, 0.5).item() == pytest.approx(1.5)


def test_disagreement_between_views_has_a_gradient():
    ratings = torch.tensor([[3.0], [4.0]], requires_grad=True)
    views = [output([0.0], [0.1], [[1.0]])._replace(rating=r) for r in ratings]
    lower_bound(views, 1.0).sum().backward()
    assert ratings.grad[0].item() > 0.5 > ratings.grad[1].item()  # the doubted view pulls less


def test_distances_by_hand():
    a, b = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)
    assert rms(a - b).item() == pytest.approx(0.1)
    assert psnr(a, b).item() == pytest.approx(20.0)
    still = torch.zeros(1, 3, 2, 2, requires_grad=True)
    rms(still).sum().backward()
    assert float(still.grad.abs().max()) == 0


def test_total_is_the_weighted_sum_of_scaled_terms():
    made = reward(weights=Weights(0.0, rating=2.0, map=1.0, truth=0.5))
    made.scale.mean_square = {"rating": 0.25, "truth": 4.0}  # RMS .5, 1 (not seen yet), 2
    terms = {
        "rating": torch.tensor([3.0]),
        "map": torch.tensor([4.0]),
        "truth": torch.tensor([30.0]),
    }
    ones = torch.ones(1)
    # 2 · 3 / .5 + 4 + .5 · 30 / 2
    assert made.total(terms, ones).item() == pytest.approx(12 + 4 + 7.5)


def test_gate_trades_quality_for_leaving_alone():
    made = reward(weights=Weights(0.0, rating=1.0, unchanged=1.0))
    terms = {"rating": torch.tensor([3.0, 3.0]), "unchanged": torch.tensor([-0.2, -0.2])}
    total = made.total(terms, torch.tensor([1.0, 0.25]))
    assert total.tolist() == pytest.approx([3.0, 0.75 - 0.15])


def test_a_good_input_closes_the_gate():
    class Fixed:
        def __call__(self, images):
            return output([4.5, 2.0], [0.1, 0.1], [[1.0], [1.0]])

    gate = reward(Fixed(), gate_rating=4.0).gate(torch.rand(2, 3, 8, 8))
    assert gate.tolist() == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-8))])
    assert reward().gate(torch.rand(2, 3, 8, 8)).tolist() == [1.0, 1.0]


def test_every_term_has_a_gradient_in_the_image():
    made = reward(
        views=ViewConfig(count=2),
        weights=Weights(**dict.fromkeys(Weights.__dataclass_fields__, 1.0)),
    )
    images, other = torch.rand(2, 3, 70, 72), torch.rand(2, 3, 70, 72)
    images[:, :, :20, :20] = 1.0  # flat and saturated: no local contrast
    other[:, :, :20, :20] = 1.0
    images.requires_grad_()
    terms = made.terms(images, other, generator=generator(), reference=other, truth=other)
    assert list(terms) == list(Weights.__dataclass_fields__) == list(SMALLEST_SPREAD)
    for name, values in terms.items():
        (slope,) = torch.autograd.grad(values.sum(), images, retain_graph=True)
        assert bool(slope.isfinite().all()) and float(slope.abs().max()) > 0, name
    assert made.total(terms, torch.ones(2)).isfinite().all()


def test_truth_terms_are_the_functions_of_the_teachers():
    weights = Weights(0.0, truth_rating=1.0, truth_texture=1.0)
    images, clean = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    found = reward(weights=weights).terms(images, clean, generator=generator(), truth=clean)
    assert torch.equal(found["truth_rating"], reference_rating(images, clean))
    for i in range(2):
        features = RESTORATION.features(torch.stack([images[i], clean[i]]))
        apart = texture_distance(features)
        assert 1 - found["truth_texture"][i].item() == pytest.approx(apart.item(), abs=1e-6)
    same = reward(weights=weights).terms(clean, clean, generator=generator(), truth=clean)
    torch.testing.assert_close(same["truth_texture"], torch.ones(2))


def test_the_restoration_term_sees_both_images_through_the_same_views():
    seen = []

    class Pairs:
        def __call__(self, after, before):
            seen.append((after, before))
            return RESTORATION(after, before)

    images, config = torch.rand(2, 3, 90, 70), ViewConfig(count=3)
    found = restoration_gain(Pairs(), images, images, config, generator())  # pyright: ignore
    assert found.tolist() == [0.0, 0.0] and len(seen) == 3
    assert all(torch.equal(after, before) for after, before in seen)
    assert len({tuple(after.shape) for after, _ in seen}) > 1
    half = torch.nn.functional.avg_pool2d(images, 2)
    small = restoration_gain(RESTORATION, images, half, ViewConfig(count=0), generator())
    torch.testing.assert_close(small, RESTORATION(images, half).gain)


def test_a_group_is_compared_within_itself():
    made = reward(weights=Weights(0.0, truth=2.0, low_pass=1.0))
    truth = torch.tensor([[20.0, 24.0], [30.0, 30.2], [25.0, math.nan]])
    low_pass = torch.tensor([[-0.01, -0.03], [-0.5, -0.5], [-0.1, -0.1]])
    found = made.group_total({"truth": truth, "low_pass": low_pass}, torch.ones(3))
    # deviations 2 and .01; then .1, below the least spread of 1 dB, and equal values
    assert found[0].tolist() == pytest.approx([-2 + 1, 2 - 1])
    assert found[1].tolist() == pytest.approx([-0.2, 0.2], abs=1e-5)
    assert found[2, 0].item() == 0.0 and math.isnan(found[2, 1])


def test_what_the_reward_does_not_need_is_not_loaded():
    made = Reward(RewardConfig(Weights(0.0, truth=1.0)))
    assert made.judge is None and made.restoration is None
    assert made.ratings(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)) == {}
    both = reward(weights=Weights(1.0, 1.0)).ratings(*torch.rand(2, 1, 3, 64, 64))
    assert list(both) == ["restoration", "rating"]


def test_a_judge_without_a_map_rewards_its_rating_alone():
    images = torch.rand(2, 3, 70, 72, requires_grad=True)
    settings = {"views": ViewConfig(count=2), "weights": Weights(0.0, rating=1.0)}
    found = reward(Alarm.from_pretrained(), **settings).terms(images, images, generator=generator())
    assert list(found) == ["rating"]
    (slope,) = torch.autograd.grad(found["rating"].sum(), images)
    assert bool(slope.isfinite().all()) and float(slope.abs().max()) > 0
    settings["weights"] = Weights(0.0, rating=1.0, worst_region=1.0)
    with pytest.raises(ValueError, match=r"no quality map; set weights\.map=0"):
        reward(Alarm.from_pretrained(), **settings).terms(images, images, generator=generator())


def test_a_term_that_is_not_weighted_is_not_computed():
    assert list(
        reward(weights=Weights(0.0, low_pass=1.0)).terms(
            torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), generator=generator()
        )
    ) == ["low_pass"]


@pytest.mark.parametrize("term", ["reference", "truth", "truth_rating"])
def test_a_weighted_term_wants_its_image(term):
    made = reward(weights=Weights(0.0, **{term: 1.0}))
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match=rf"{term}.*no {term.partition('_')[0]} image"):
        made.terms(image, image, generator=generator())


@pytest.mark.parametrize(
    ("spoil", "low_to_high"), [(lambda x: x * 255, "to 255"), (lambda x: x * 2 - 1, "-1 to 1")]
)
@pytest.mark.parametrize("name", ["restored", "degraded", "truth"])
def test_images_outside_the_range_are_refused(spoil, low_to_high, name):
    image = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    images = {"restored": image, "degraded": image, "truth": image}
    images[name] = spoil(image)
    made = reward(weights=Weights(0.0, low_pass=1.0, truth=1.0))
    with pytest.raises(ValueError, match=f"{name} must lie in .*{low_to_high}: divide 8-bit"):
        made.terms(**images, generator=generator())
    unchecked = Reward(made.config, check_range=False)
    assert unchecked.terms(**images, generator=generator())["truth"].shape == (1,)


def test_an_image_that_is_not_finite_is_no_mistake_of_range():
    made = reward(weights=Weights(0.0, low_pass=1.0))
    broken = torch.rand(2, 3, 16, 16)
    broken[0] = math.nan
    found = made.terms(broken, torch.rand(2, 3, 16, 16), generator=generator())
    assert made.total(found, torch.ones(2)).isfinite().tolist() == [False, True]


def test_views_are_seeded_in_range_and_not_too_small():
    images = torch.rand(2, 3, 90, 70)
    config = ViewConfig(count=6)
    views = random_views(images, config, generator(1))
    assert all(
        torch.equal(a, b)
        for a, b in zip(views, random_views(images, config, generator(1)), strict=True)
    )
    assert len({tuple(view.shape) for view in views}) > 1
    for view in views:
        assert view.shape[:2] == (2, 3) and min(view.shape[-2:]) >= 64
        assert float(view.min()) >= 0 and float(view.max()) <= 1
    assert min(random_views(torch.rand(1, 3, 20, 30), config, generator())[0].shape[-2:]) >= 20
    (same,) = random_views(images, ViewConfig(count=0), generator())
    assert same is images


def test_views_of_the_whole_at_its_own_size_are_the_image_or_its_mirror():
    images = torch.rand(1, 3, 70, 80)
    for view in random_views(images, ViewConfig(8, (1.0, 1.0), (1.0, 1.0)), generator()):
        assert torch.equal(view, images) or torch.equal(view.flip(-1), images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Weights(0.0), "every weight is 0"),
        (lambda: Weights(map=-1.0), "map=-1.0"),
        (lambda: Weights(map=math.nan), "map=nan"),
        (lambda: RewardConfig(confidence=-1), "confidence ≥ 0"),
        (lambda: ViewConfig(crop=(0.9, 0.5)), "crop is"),
        (lambda: ViewConfig(count=-1), "count is a number of views"),
    ],
)
def test_senseless_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ms_ssim_is_torchmetrics_own_where_five_scales_fit_and_differentiable_where_not():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 176, 180, generator=generator)
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    expected = [reference_figures(a, b).ms_ssim for a, b in zip(noisy, clean, strict=True)]
    # the published weights sum to 1.0001, ours to 1
    assert ms_ssim(noisy, clean).tolist() == pytest.approx(expected, abs=1e-5)
    for side in (99, 44, 11):  # four, three and one scale
        crop = noisy[..., :side, :side].clone().requires_grad_()
        found = ms_ssim(crop, clean[..., :side, :side])
        assert found.shape == (2,) and bool((found < 1).all())
        (slope,) = torch.autograd.grad(found.sum(), crop)
        assert bool(slope.isfinite().all()) and float(slope.abs().sum()) > 0
    torch.testing.assert_close(ms_ssim(clean, clean), torch.ones(2))
    with pytest.raises(ValueError, match="sides of 11 px or more, got 8"):
        ms_ssim(clean[..., :8, :8], clean[..., :8, :8])
