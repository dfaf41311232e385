"""Rated candidates: what the methods learn from that need no gradient of the reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, RatedCandidates
from restoration_guide.finetune.rewards import Reward
from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer

BlackBox = Callable[[Tensor, Batch, torch.Generator], dict[str, Tensor]]
"""Candidates (G, N, 3, H, W), the batch of their G inputs, generator → terms (G, N) each, among
them ``reward``; NaN where there is none."""


def terms_of(reward: Reward) -> BlackBox:
    """A reward of terms as a black box, without its gradient.

    Its total standardises each term within the candidates of an input.
    """

    @torch.no_grad()
    def rate(images: Tensor, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        grid = images.shape[:2]
        degraded = batch.degraded.repeat_interleave(grid[1], 0)
        truth = None if batch.truth is None else batch.truth.repeat_interleave(grid[1], 0)
        flat = reward.terms(images.flatten(0, 1), degraded, generator=generator, truth=truth)
        terms = {name: values.view(grid) for name, values in flat.items()}
        return {**terms, "reward": reward.group_total(terms, reward.gate(batch.degraded))}

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
    return RatedCandidates(candidates, rate(candidates, batch, generator))


class BlackBoxMethod:
    """A method that trains a restorer by regression on rated candidates.

    Args:
        pipe: the pipeline whose network ``tuned`` is.
        tuned: the trained weights.
        rate: the reward, a black box.
        config: settings of the method.
        steps: steps of the sampler whose times are trained.
    """

    def __init__(
        self,
        pipe: TinyRestorationPipeline,
        tuned: TunedNetwork,
        rate: BlackBox,
        config: Any,
        steps: int = 3,
    ) -> None:
        self.pipe, self.tuned, self.rate = pipe, tuned, rate
        self.config, self.steps = config, steps

    def after_step(self, terms: dict[str, Tensor], *, stepped: bool) -> None:
        """Called after every step; nothing to update."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the trained weights."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`."""


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
