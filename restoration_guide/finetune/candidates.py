"""RatedCandidates candidates: what the methods learn from that need no gradient of the reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, RatedCandidates, ScaledMethod
from restoration_guide.finetune.rewards import Reward, RunningScale
from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer

BlackBox = Callable[[Tensor, Batch, torch.Generator], dict[str, Tensor]]
"""Candidates (M, 3, H, W), the batch of their inputs (M), generator → terms (M,) each, among
them ``reward``; NaN where there is none."""


def terms_of(reward: Reward) -> BlackBox:
    """A reward of terms as a black box, without its gradient."""

    def rate(images: Tensor, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        found = reward(images, batch.degraded, generator=generator, truth=batch.truth)
        return {**found.terms, "reward": found.total}

    return rate


@torch.no_grad()
def rewarded_candidates(
    pipe: TinyRestorationPipeline,
    batch: Batch,
    n: int,
    rate: BlackBox,
    *,
    generator: torch.Generator,
) -> RatedCandidates:
    """Restore each input ``n`` times, by the restorer's plan, and rate the results.

    Different seeds of one setting hardly change this restorer's candidates.
    """
    restorer = BuiltinRestorer(pipe)
    made = []
    for image in batch.degraded:
        seed = int(torch.randint(2**31, (), generator=generator))
        images = [c.image for c in restorer.restore(image[None], n=n, seed=seed, batch_size=n)]
        made.append(torch.stack(images))
    candidates = torch.stack(made).to(batch.degraded.device)
    truth = None if batch.truth is None else batch.truth.repeat_interleave(n, 0)
    repeated = Batch(batch.degraded.repeat_interleave(n, 0), truth)
    terms = rate(candidates.flatten(0, 1), repeated, generator)
    grid = (len(batch.degraded), n)
    return RatedCandidates(candidates, {name: values.view(grid) for name, values in terms.items()})


def group_advantages(rewards: Tensor) -> Tensor:
    """Rewards (G, N) of N candidates for each of G inputs, standardised within each input.

    Candidates of equal reward get 0. A non-finite reward stays NaN and is left out of
    its group's mean and deviation.

    >>> group_advantages(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
    tensor([[-1.2247,  0.0000,  1.2247],
            [ 0.0000,  0.0000,  0.0000]])
    """
    finite = torch.isfinite(rewards)
    known = torch.where(finite, rewards, torch.zeros_like(rewards))
    count = finite.sum(1, keepdim=True).clamp(min=1)
    centred = known - known.sum(1, keepdim=True) / count
    centred = torch.where(finite, centred, torch.zeros_like(centred))
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    flat = deviation <= 1e-6 * (1 + known.abs().amax(1, keepdim=True))
    advantages = torch.where(flat, torch.zeros_like(centred), centred / deviation.clamp(min=1e-12))
    return torch.where(finite, advantages, torch.full_like(rewards, math.nan))


class BlackBoxMethod(ScaledMethod):
    """A method that trains a restorer by regression on rated candidates.

    Args:
        pipe: the pipeline whose network ``tuned`` is.
        tuned: the trained weights.
        rate: the reward, a black box.
        config: settings of the method.
        steps: steps of the sampler whose times are trained.
        scale: of the reward's terms, where it has some.
    """

    def __init__(
        self,
        pipe: TinyRestorationPipeline,
        tuned: TunedNetwork,
        rate: BlackBox,
        config: Any,
        steps: int = 3,
        scale: RunningScale | None = None,
    ) -> None:
        super().__init__(scale)
        self.pipe, self.tuned, self.rate = pipe, tuned, rate
        self.config, self.steps = config, steps


class Regression:
    """Noised versions of given clean images, and the network's predictions for them.

    Args:
        pipe: the pipeline with the network.
        degraded: inputs, (M, 3, H, W) in [0, 1].
        steps: the times are drawn from those of a sampler of this many steps, one per input.
        generator: draws times and noise.
    """

    def __init__(
        self,
        pipe: TinyRestorationPipeline,
        degraded: Tensor,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        self.pipe, self.degraded = pipe, pipe.prepare_image(degraded)
        drawn = torch.randint(steps, (len(degraded),), generator=generator)
        self.t = (1.0 - drawn / steps).to(self.degraded)
        self.noise = torch.randn(self.degraded.shape, generator=generator).to(self.degraded)

    def target(self, clean: Tensor) -> Tensor:
        """Velocity ε − r of the line towards a clean image (M, 3, H, W) in [0, 1]."""
        return self.noise - self._residual(clean)

    def predict(self, clean: Tensor) -> Tensor:
        """The network's velocity at the noisy state of that image; differentiable."""
        state = rf.interpolate(self._residual(clean), self.noise, self.t)
        residual = self.pipe.predict_residual(state, self.degraded, self.t)
        return rf.velocity(state, residual, self.t)

    def _residual(self, clean: Tensor) -> Tensor:
        return rf.to_residual(self.pipe.prepare_image(clean), self.degraded, self.pipe.flow)
