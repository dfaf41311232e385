"""DiffusionNFT and Diffusion-DPO: losses against formulas written by hand, and parts."""

from __future__ import annotations

import math

import pytest
import torch

from restoration_guide.finetune.candidates import (
    Regression,
    rewarded_candidates,
    terms_of,
)
from restoration_guide.finetune.dpo import Dpo, DpoConfig, choose_pairs, dpo_loss
from restoration_guide.finetune.groups import group_advantages
from restoration_guide.finetune.judges import BlackBoxJudge
from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch
from restoration_guide.finetune.nft import Nft, NftConfig, forward_target, nft_loss, optimality
from restoration_guide.finetune.rewards import Reward, RewardConfig, Weights
from restoration_guide.restorers.builtin import residual_flow as rf
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.proxy.views import ViewConfig
from zoomiqa_core.training.policy import LoraSettings


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_nft_loss_equals_the_papers_formula_pixel_by_pixel():
    new, old, target = (draw(3, 2, 2, 2, seed=s) for s in (0, 1, 2))
    r, beta = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64), 0.7
    for i, found in enumerate(nft_loss(new, old, target, r, beta).tolist()):
        total = 0.0
        pixels = (x[i].flatten().tolist() for x in (new, old, target))
        for v, o, t in zip(*pixels, strict=True):
            pull = ((1 - beta) * o + beta * v - t) ** 2
            push = ((1 + beta) * o - beta * v - t) ** 2
            total += float(r[i]) * pull + (1 - float(r[i])) * push
        assert found == pytest.approx(total / 8, abs=1e-6)


def test_nft_pulls_towards_good_and_pushes_away_from_bad():
    old, target = torch.zeros(2, 1), torch.ones(2, 1)
    new = torch.zeros(2, 1, requires_grad=True)
    nft_loss(new, old, target, torch.tensor([1.0, 0.0]), 1.0).sum().backward()
    assert new.grad.flatten().tolist() == [-2.0, 2.0]
    new = torch.zeros(2, 1, requires_grad=True)  # at r = ½ they cancel
    nft_loss(new, old, target, torch.tensor([0.5, 0.5]), 1.0).sum().backward()
    assert new.grad.flatten().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_forward_targets_give_the_clean_latents_back(kind):
    clean, noise = draw(2, 3, seed=0), draw(2, 3, seed=1)
    sigma = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    alpha = 1 - sigma if kind == "flow" else (1 - sigma.square()).sqrt()
    state = alpha * clean + sigma * noise
    target = forward_target(kind, clean, noise, alpha, sigma)
    back = {
        "epsilon": (state - sigma * target) / alpha,
        "v": alpha * state - sigma * target,
        "flow": state - sigma * target,
    }[kind]
    torch.testing.assert_close(back, clean)
    with pytest.raises(ValueError, match="kind of prediction"):
        forward_target("x0", clean, noise, alpha, sigma)


def test_group_advantages_by_hand():
    rewards = torch.tensor([[1.0, 3.0], [2.0, 2.0], [math.nan, 4.0], [math.nan, math.nan]])
    found = group_advantages(rewards)
    assert found[0].tolist() == pytest.approx([-1.0, 1.0])
    assert found[1].tolist() == [0.0, 0.0]  # equal rewards
    assert math.isnan(found[2, 0]) and found[2, 1].item() == 0.0  # alone in its group
    assert bool(found[3].isnan().all())


def test_group_advantages_do_not_depend_on_offset_scale_or_order():
    rewards = torch.rand(4, 6, generator=generator())
    found = group_advantages(rewards)
    torch.testing.assert_close(group_advantages(10 + 3 * rewards), found, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(group_advantages(rewards.flip(1)), found.flip(1))


def test_optimality_by_hand():
    r = optimality(torch.tensor([[1.0, 3.0], [2.0, 2.0], [math.nan, 1.0]]), clip=2.0)
    assert r[0].tolist() == pytest.approx([0.25, 0.75])  # standardised -1 and 1, over 2
    assert r[1].tolist() == [0.5, 0.5] and math.isnan(r[2, 0])
    assert optimality(torch.tensor([[1.0, 3.0]]), clip=0.5)[0].tolist() == [0.0, 1.0]


def test_dpo_loss_equals_the_formula_by_hand():
    errors = [torch.tensor([value], dtype=torch.float64) for value in (0.2, 0.3, 0.5, 0.4)]
    weight = torch.tensor([0.6], dtype=torch.float64)
    # inside: (.2 - .3) - (.5 - .4) = -.2; loss = -.6 · ln(1 / (1 + e^(-10 · .2)))
    expected = 0.6 * math.log(1 + math.exp(-10 * 0.2))
    assert dpo_loss(*errors, weight=weight, beta=10.0).item() == pytest.approx(expected, abs=1e-6)
    extreme = dpo_loss(*[1e4 * e for e in errors], weight=weight, beta=1e6)
    assert bool(extreme.isfinite().all())


def test_pairs_by_hand():
    rewards = torch.tensor(
        [[1.0, 4.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0], [math.nan, 2.0, 1.0, math.inf]]
    )
    pairs = choose_pairs(rewards, 2)
    assert pairs.group.tolist() == [0, 0, 2]  # equal rewards make no pair
    assert pairs.winner.tolist() == [1, 3, 1] and pairs.loser.tolist() == [0, 2, 2]
    spread = math.sqrt(1.25)  # of 1, 2, 3, 4
    assert pairs.weight.tolist() == pytest.approx([3 * spread, 1 * spread, 1 * 0.5])
    assert len(choose_pairs(torch.full((2, 4), math.nan), 1).group) == 0


def test_regression_is_the_flow_of_the_training(own_pipe, tuned, degraded):
    clean = (degraded + 0.1).clamp(0, 1)
    regression = Regression(own_pipe, degraded, 3, generator())
    torch.testing.assert_close((3 * regression.t).round() / 3, regression.t)
    assert bool((regression.t > 0.3).all()) and bool((regression.t <= 1).all())
    y, x = degraded * 2 - 1, clean * 2 - 1
    residual = rf.to_residual(x, y, own_pipe.flow)
    torch.testing.assert_close(regression.target(clean), regression.noise - residual)
    state = rf.interpolate(residual, regression.noise, regression.t)
    own = rf.velocity(state, own_pipe.predict_residual(state, y, regression.t), regression.t)
    torch.testing.assert_close(regression.predict(clean), own)


def brightness(images, batch, generator):
    return {"reward": images.mean((2, 3, 4))}


def lesson(method, degraded):
    return method.compute_loss(Batch(degraded), generator=generator())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nft", "dpo"])
def test_lessons_lead_to_brighter_images(own_pipe, degraded, kind):
    tuned = TunedNetwork(own_pipe.unet, LoraSettings(2, 4, ".*"))
    method = (
        Nft(own_pipe, tuned, brightness, NftConfig(candidates=4, old_decay=0.5))
        if kind == "nft"
        else Dpo(own_pipe, tuned, brightness, DpoConfig(candidates=4))
    )
    optimizer = torch.optim.AdamW(tuned.parameters, lr=1e-2)

    def mean_brightness() -> float:
        made = rewarded_candidates(own_pipe, Batch(degraded), 2, brightness, generator=generator(9))
        return float(made.reward.mean())

    before = mean_brightness()
    for step in range(5):
        found = method.compute_loss(Batch(degraded), generator=generator(step))
        assert len(found.losses) and found.terms["reward"].shape == (8,)
        optimizer.zero_grad()
        found.losses.mean().backward()
        optimizer.step()
        method.after_step(found.terms, stepped=True)
    assert mean_brightness() > before


@pytest.mark.parametrize("value", [1.0, math.nan])
def test_equal_or_missing_rewards_teach_nothing(own_pipe, tuned, degraded, value):
    def flat(images, batch, generator):
        return {"reward": torch.full(images.shape[:2], value)}

    found = lesson(Nft(own_pipe, tuned, flat, NftConfig(candidates=2)), degraded)
    assert len(found.losses) == 0 and found.skipped == 4
    found = lesson(Dpo(own_pipe, tuned, flat, DpoConfig(candidates=2)), degraded)
    assert len(found.losses) == 0 and found.skipped == 2


def test_a_judges_failure_is_no_reward():
    class Scorer:
        def assess(self, images):
            assert all(image.shape == (3, 8, 8) for image in images)
            unsure = Assessment(3.0, math.nan)  # a single chain states no spread
            return [Assessment(3.0, 0.2), Assessment.failed("truncated", "cut off"), unsure]

    judge = BlackBoxJudge(Scorer())  # pyright: ignore[reportArgumentType]
    weights = Weights(restoration=0.0, rating=2.0)
    config = RewardConfig(weights, confidence=0.5, views=ViewConfig(count=0))
    images = torch.rand(1, 3, 3, 8, 8)  # three candidates of one input
    found = terms_of(Reward(config, judge))(images, Batch(images[0, :1]), generator())
    assert found["rating"][0].tolist()[::2] == pytest.approx([2.9, 3.0])
    assert found["reward"].shape == (1, 3) and math.isnan(found["reward"][0, 1])
    # half of .1 apart, divided by the least spread of .1, times the weight
    assert found["reward"][0].tolist()[::2] == pytest.approx([-1.0, 1.0], abs=1e-3)


def test_the_old_policy_follows_and_is_saved(own_pipe, tuned, degraded):
    method = Nft(own_pipe, tuned, brightness, NftConfig(candidates=2, old_decay=0.75))
    before = [value.clone() for value in method.old]
    with torch.no_grad():
        tuned.parameters[0].add_(1.0)
    method.after_step({}, stepped=False)
    assert torch.equal(method.old[0], before[0])
    method.after_step({}, stepped=True)
    torch.testing.assert_close(method.old[0], before[0] + 0.25)
    other = Nft(own_pipe, tuned, brightness, NftConfig(candidates=2))
    other.load(method.state())
    assert all(torch.equal(a, b) for a, b in zip(method.old, other.old, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NftConfig(candidates=1), "candidates ≥ 2"),
        (lambda: DpoConfig(candidates=4, pairs=3), "pairs ≤ candidates / 2"),
    ],
)
def test_senseless_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
