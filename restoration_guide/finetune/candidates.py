"""Rewarded candidates: what the methods learn from that need no gradient of the reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from restoration_guide.finetune.methods import Batch, Rewarded
from restoration_guide.finetune.rewards import Reward
from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from zoomiqa_core.scorer import Scorer

BlackBox = Callable[[Tensor, Batch, torch.Generator], dict[str, Tensor]]
"""Candidates (M, 3, H, W), the batch of their inputs (M), generator → terms (M,) each, among
them ``reward``; NaN where there is none."""


class Opinion(NamedTuple):
    """What a black box said of B images."""

    rating: Tensor
    """(B,) in [1, 5]; NaN where the judgement failed."""
    rating_std: Tensor
    """(B,), rating units; 0 where the judge states none, as a single chain of a Zoom-IQA does."""


class BlackBoxJudge:
    """Any scorer, such as a Zoom-IQA model in place or served, as the judge of a reward.

    It has no gradient and no map. A failed judgement leaves its image without a reward, so the
    methods that learn from it leave the image out.

    Args:
        scorer: who is asked, with all images of a batch at once.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, images: Tensor) -> Opinion:
        """Ask about (B, 3, H, W) in [0, 1]."""
        said = self.scorer.assess(list(images.detach().float().clamp(0, 1).cpu()))
        rating = torch.tensor([each.rating for each in said], device=images.device)
        std = torch.tensor([each.rating_std for each in said], device=images.device)
        return Opinion(rating, std.nan_to_num(0.0))


def terms_of(reward: Reward) -> BlackBox:
    """A reward of terms, its gradient left aside."""

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
) -> Rewarded:
    """Restore each input ``n`` ways, by the restorer's plan, and rate them all.

    Seeds alone hardly change this restorer's candidates; the plan's settings do.
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
    return Rewarded(candidates, {name: values.view(grid) for name, values in terms.items()})


def group_advantages(rewards: Tensor) -> Tensor:
    """Rewards (G, N) of N candidates for each of G inputs, standardised within each input.

    Candidates of equal reward get 0: nothing is to be learned from them. A non-finite reward stays
    NaN and takes no part in its group's mean and deviation.
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


class Regression:
    """The forward process on given clean images: noisy states, and what the network says of them.

    Args:
        pipe: whose network predicts.
        degraded: inputs, (M, 3, H, W) in [0, 1].
        steps: the times are drawn from those of a sampler of this many steps, one an input.
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
