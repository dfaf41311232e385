"""Reward backpropagation: the reward's own gradient, samples and steps that are left out."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from restoration_guide.finetune import loop as loop_module
from restoration_guide.finetune.loop import Loop, LoopConfig, batch_generator
from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, StepLosses
from restoration_guide.finetune.reward_backprop import RewardBackprop
from restoration_guide.finetune.rewards import Reward, RewardConfig, Weights
from restoration_guide.finetune.rollout import BuiltinChain, RolloutConfig, roll_out
from restoration_guide.finetune.samplers import BuiltinSampler
from zoomiqa_core.proxy.views import ViewConfig
from zoomiqa_core.training.policy import LoraSettings

ROLLOUT = RolloutConfig(steps=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def backprop(own_pipe, tuned, judge, **weights) -> RewardBackprop:
    chosen = Weights(**{"restoration": 0.0, **(weights or {"rating": 1.0})})
    config = RewardConfig(chosen, views=ViewConfig(count=0))
    return RewardBackprop(BuiltinSampler(own_pipe, ROLLOUT), tuned, Reward(config, judge))


def gradient(tuned, loss) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuned.parameters)])


def test_the_loss_is_minus_the_reward_with_its_normalised_gradient(
    own_pipe, tuned, judge, degraded
):
    method = backprop(own_pipe, tuned, judge, rating=1.0, low_pass=3.0)
    method.reward.scale.mean_square = {"rating": 16.0, "low_pass": 0.01}  # RMS 4 and .1
    step = method.compute_loss(Batch(degraded), generator=generator())
    found = gradient(tuned, step.losses.sum())
    assert step.skipped == 0
    torch.testing.assert_close(step.losses.detach(), -step.terms["reward"])
    images = roll_out(BuiltinChain(own_pipe, degraded, 2, 0.5), ROLLOUT, generator()).images
    direct = method.reward.terms(images, degraded, generator=generator())
    total = direct["rating"] / 4 + 3 * direct["low_pass"] / 0.1  # written by hand
    torch.testing.assert_close(step.terms["reward"], total.detach())
    torch.testing.assert_close(found, gradient(tuned, -total.sum()), atol=1e-6, rtol=1e-4)


def test_every_step_logs_what_each_term_contributes(own_pipe, tuned, judge, degraded):
    method = backprop(own_pipe, tuned, judge, rating=1.0, low_pass=3.0)
    loop = loop_of(method, tuned, Batch(degraded))
    loop.calibrate()
    record = loop.take_step()
    shares = [record[f"share/{name}"] for name in ("rating", "low_pass")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    assert record["gradient/rating"] > 0 and record["reward/rating"] > 0
    before = method.reward.scale["rating"]
    kept = method.state()
    method.after_step(
        {f"gradient/{n}": torch.tensor([9.0]) for n in method.reward.names}, stepped=True
    )
    assert method.reward.scale["rating"] > before
    method.load(kept)
    assert method.reward.scale["rating"] == before


@pytest.mark.parametrize("config", [RolloutConfig(steps=3, renoised=2), RolloutConfig(3, last=0)])
def test_the_reference_term_starts_at_zero_and_holds_back(own_pipe, judge, degraded, config):
    tuned = TunedNetwork(own_pipe.unet, LoraSettings(2, 4, ".*"))
    method = backprop(own_pipe, tuned, judge, rating=0.0, reference=1.0)
    method.sampler = BuiltinSampler(own_pipe, config)
    terms = method.compute_loss(Batch(degraded), generator=generator()).terms
    torch.testing.assert_close(terms["reference"], torch.zeros_like(terms["reference"]))
    with torch.no_grad():
        tuned.parameters[-1].add_(0.5)
    terms = method.compute_loss(Batch(degraded), generator=generator()).terms
    assert float(terms["reference"].max()) < 0


class NanJudge:
    """A judge whose rating of the images at some places of the batch is NaN, slope and all."""

    def __init__(self, judge, places: list[int]) -> None:
        self.judge, self.places = judge, places

    def __call__(self, images):
        out = self.judge(images)
        factor = torch.ones(len(images))
        factor[self.places] = math.nan
        return out._replace(rating=out.rating * factor)


def test_an_image_without_a_finite_reward_is_left_out(own_pipe, tuned, judge, degraded):
    broken = backprop(own_pipe, tuned, NanJudge(judge, [0]))
    step = broken.compute_loss(Batch(degraded), generator=generator())
    assert step.skipped == 1 and step.losses.shape == (1,)
    assert step.terms["reward"].isfinite().tolist() == [False, True]
    found = gradient(tuned, step.losses.sum())
    whole = backprop(own_pipe, tuned, judge)
    both = whole.compute_loss(Batch(degraded), generator=generator())
    torch.testing.assert_close(found, gradient(tuned, both.losses[1]))  # no NaN leaks in


def loop_of(method, tuned, batch: Batch, **settings) -> Loop:
    config = LoopConfig(**{"learning_rate": 1e-2, "warmup_steps": 0, "cpu": True, **settings})
    return Loop(Accelerator(cpu=True), tuned, method, lambda _: batch, config)


def test_a_step_with_nothing_left_changes_nothing_and_is_counted(own_pipe, tuned, judge, degraded):
    loop = loop_of(backprop(own_pipe, tuned, NanJudge(judge, [0, 1])), tuned, Batch(degraded))
    before = tuned.state()
    record = loop.take_step()
    assert record["used"] == 0 and record["skipped"] == 2 and record["skipped_steps"] == 1
    assert record["reward/rating"] is None
    assert all(torch.equal(before[name], value) for name, value in tuned.state().items())
    assert loop.optimizer.state_dict()["state"] == {}  # no update with a zero gradient either
    assert (loop.step, loop.skipped_samples, loop.skipped_steps) == (1, 2, 1)


def test_a_gradient_that_is_not_finite_changes_nothing(own_pipe, tuned, judge, degraded):
    class Exploding(RewardBackprop):
        def compute_loss(self, batch, *, generator):
            step = super().compute_loss(batch, generator=generator)
            return StepLosses(step.losses * math.inf, step.terms)

    method = backprop(own_pipe, tuned, judge)
    exploding = Exploding(method.sampler, tuned, method.reward)
    loop = loop_of(exploding, tuned, Batch(degraded))
    before = tuned.state()
    assert loop.take_step()["grad_norm"] is None and loop.skipped_steps == 1
    assert all(torch.equal(before[name], value) for name, value in tuned.state().items())


def test_training_raises_the_reward(own_pipe, tuned, judge, degraded):
    method = backprop(own_pipe, tuned, judge)
    loop = loop_of(method, tuned, Batch(degraded))
    loop.calibrate()
    records = [loop.take_step() for _ in range(6)]
    assert records[-1]["reward/rating"] > records[0]["reward/rating"] + 0.01


def test_accumulation_averages_over_all_samples(own_pipe, tuned, judge, degraded, monkeypatch):
    """Two batches with 1 and 2 usable samples give the mean gradient over the three."""
    method = backprop(own_pipe, tuned, judge)
    alone = [
        gradient(
            tuned,
            method.compute_loss(
                Batch(degraded[:count]), generator=batch_generator(0, 0, index)
            ).losses.sum(),
        )
        for index, count in enumerate((1, 2))
    ]
    sizes = iter((1, 2))
    monkeypatch.setattr(loop_module, "MAX_GRAD_NORM", 1e9)
    loop = loop_of(method, tuned, Batch(degraded), gradient_accumulation=2)
    loop.draw = lambda _: Batch(degraded[: next(sizes)])
    assert loop.take_step()["used"] == 3
    found = torch.cat([p.grad.flatten() for p in tuned.parameters])
    torch.testing.assert_close(found, (alone[0] + alone[1]) / 3)


def test_generators_of_batches_differ_and_repeat():
    seeds = {
        batch_generator(0, step, index).initial_seed() for step in (-1, 0, 1) for index in (0, 1)
    }
    assert len(seeds) == 6
    assert batch_generator(0, 3, 1).initial_seed() == batch_generator(0, 3, 1).initial_seed()


def test_processes_must_divide_the_batches(own_pipe, tuned, judge, degraded, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(ValueError, match="=3 must be a multiple of the 2 processes"):
        loop_of(backprop(own_pipe, tuned, judge), tuned, Batch(degraded), gradient_accumulation=3)


def test_the_rate_warms_up_and_falls_along_a_cosine():
    flat = LoopConfig(steps=8, learning_rate=2.0, warmup_steps=2)
    assert [flat.rate(step) for step in (0, 1, 5)] == [1.0, 2.0, 2.0]
    falling = LoopConfig(steps=8, learning_rate=2.0, warmup_steps=2, schedule="cosine")
    # after two steps of warm-up, six along a cosine: 1 + cos(0), cos(π / 2), cos(π)
    assert [falling.rate(step) for step in (0, 2, 5, 8)] == pytest.approx([1.0, 2.0, 1.0, 0.0])


def test_the_average_follows_the_weights_by_its_decay(own_pipe, tuned, judge, degraded):
    config = LoopConfig(steps=2, learning_rate=0.1, warmup_steps=0, ema_decay=0.5)
    method = backprop(own_pipe, tuned, judge)
    loop = Loop(Accelerator(cpu=True), tuned, method, lambda _: Batch(degraded), config)
    start = [weight.detach().clone() for weight in tuned.parameters]
    loop.take_step()
    first = [weight.detach().clone() for weight in tuned.parameters]
    # the first decay is min(0.5, 1 / 10)
    for average, before, after in zip(loop.averaged, start, first, strict=True):
        torch.testing.assert_close(average, 0.1 * before + 0.9 * after)
    with loop.use_export_weights():
        held = [weight.detach().clone() for weight in tuned.parameters]
    assert all(torch.equal(a, b) for a, b in zip(held, loop.averaged, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters, first, strict=True))


@pytest.mark.parametrize("merge_scale", [0.0, 1.5])
def test_merge_scale_is_a_share(merge_scale):
    with pytest.raises(ValueError, match=r"0 < merge_scale ≤ 1, got"):
        LoopConfig(merge_scale=merge_scale)
