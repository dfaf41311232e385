"""DiffusionNFT: learning from a black-box reward by regression on the forward process.

Zheng et al., *DiffusionNFT: Online Diffusion Reinforcement with Forward Process*, arXiv 2509.16117.
Candidates of the old policy are noised again; good ones pull the network towards them, bad ones
push it away, both implicitly through a blend with the old policy's prediction:

    v⁺ = (1 − β) v_old + β v_θ,    v⁻ = (1 + β) v_old − β v_θ
    loss = r ‖v⁺ − v‖² + (1 − r) ‖v⁻ − v‖²,    r = ½ + ½ clip(A / Z, −1, 1)

with A the reward standardised within the candidates of an input. Departures: times are those the
sampler meets; the loss is a mean over pixels without adaptive weighting; inputs whose candidates
are all worth the same teach nothing and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from restoration_guide.finetune.candidates import (
    BlackBox,
    Regression,
    group_advantages,
    rewarded_candidates,
)
from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, Lesson, ScaledMethod
from restoration_guide.finetune.rewards import RunningScale
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline


@dataclass(frozen=True)
class NftConfig:
    """Settings of the method."""

    candidates: int = 4
    """N candidates of each input."""
    beta: float = 1.0
    """β: how strongly the blends differ from the old policy."""
    clip: float = 2.0
    """Z: standardised rewards beyond ± Z count as Z."""
    old_decay: float = 0.9
    """Share of itself that the old policy keeps at a step; the rest follows the network."""
    steps: int = 3
    """Steps of the sampler whose times are learned."""

    def __post_init__(self) -> None:
        if self.candidates < 2 or not (self.beta > 0 and self.clip > 0 and 0 <= self.old_decay < 1):
            raise ValueError(
                "expected candidates ≥ 2, beta > 0, clip > 0 and 0 ≤ old_decay < 1, got "
                f"{self.candidates}, {self.beta}, {self.clip} and {self.old_decay}"
            )


def nft_loss(
    prediction: Tensor, old_prediction: Tensor, target: Tensor, reward: Tensor, beta: float
) -> Tensor:
    """The loss of each sample, (B,), in whatever the network predicts: ε, v or the flow.

    Args:
        prediction: of the network, (B, …), with its graph.
        old_prediction: of the old policy for the same noisy state.
        target: of the forward process, see :func:`forward_target`.
        reward: r in [0, 1], (B,).
        beta: β.
    """
    positive = (1 - beta) * old_prediction + beta * prediction
    negative = (1 + beta) * old_prediction - beta * prediction
    pull = (positive - target).square().flatten(1).mean(1)
    push = (negative - target).square().flatten(1).mean(1)
    return reward * pull + (1 - reward) * push


def forward_target(kind: str, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network should predict at the state ``alpha · clean + sigma · noise``.

    Args:
        kind: "epsilon" (the noise), "v" (alpha · noise − sigma · clean), or "flow" (noise − clean).
        clean: (B, …).
        noise: (B, …).
        alpha: broadcast to them.
        sigma: broadcast to them.
    """
    if kind == "epsilon":
        return noise
    if kind == "v":
        return alpha * noise - sigma * clean
    if kind == "flow":
        return noise - clean
    raise ValueError(f'kind of prediction must be "epsilon", "v" or "flow", got {kind!r}')


def optimality(rewards: Tensor, clip: float) -> Tensor:
    """r of (B, N) rewards: ½ + ½ clip(A / Z, −1, 1); NaN where a reward is, ½ in equal groups."""
    return 0.5 + 0.5 * (group_advantages(rewards) / clip).clamp(-1, 1)


class Nft(ScaledMethod):
    """DiffusionNFT on a restorer.

    Args:
        pipe: the pipeline whose network ``tuned`` is.
        tuned: the trained weights.
        rate: the reward, a black box.
        config: settings.
        scale: of the reward's terms, where it has some.
    """

    def __init__(
        self,
        pipe: TinyRestorationPipeline,
        tuned: TunedNetwork,
        rate: BlackBox,
        config: NftConfig,
        scale: RunningScale | None = None,
    ) -> None:
        super().__init__(scale)
        self.pipe, self.tuned, self.rate, self.config = pipe, tuned, rate, config
        self.old = [parameter.detach().clone() for parameter in tuned.parameters]

    def lesson(self, batch: Batch, *, generator: torch.Generator) -> Lesson:
        """A loss for every candidate that has a reward and rivals of another."""
        n = self.config.candidates
        with self.tuned.holding(self.old):
            made = rewarded_candidates(self.pipe, batch, n, self.rate, generator=generator)
        differ = group_advantages(made.reward).nan_to_num().abs().amax(1, keepdim=True) > 0
        usable = (made.reward.isfinite() & differ).flatten()
        terms = {name: values.flatten() for name, values in made.terms.items()}
        degraded = batch.degraded.repeat_interleave(n, 0)[usable]
        if not usable.any():
            return Lesson(degraded.new_empty(0), terms, len(usable))
        clean = made.images.flatten(0, 1)[usable]
        r = optimality(made.reward, self.config.clip).flatten()[usable]
        regression = Regression(self.pipe, degraded, self.config.steps, generator)
        with self.tuned.holding(self.old):
            old = regression.predict(clean).float()
        new = regression.predict(clean).float()
        losses = nft_loss(new, old, regression.target(clean).float(), r, self.config.beta)
        return Lesson(losses, terms, int((~usable).sum()))

    def learned(self, terms: dict[str, Tensor], *, stepped: bool) -> None:
        """Follow the terms' spread; let the old policy follow the network."""
        super().learned(terms, stepped=stepped)
        if stepped:
            for old, new in zip(self.old, self.tuned.parameters, strict=True):
                old.lerp_(new.detach(), 1 - self.config.old_decay)

    def state(self) -> dict[str, Any]:
        """The old policy and the terms' scales."""
        return {**super().state(), "old": [value.cpu() for value in self.old]}

    def load(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state`."""
        super().load(state)
        for old, value in zip(self.old, state["old"], strict=True):
            old.copy_(value)
