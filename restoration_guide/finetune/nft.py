"""DiffusionNFT: trains on a black-box reward by regression on the forward process.

Zheng et al., *DiffusionNFT: Online Diffusion Reinforcement with Forward Process*, arXiv 2509.16117.
Candidates of the old policy are noised again. The loss moves the prediction towards good ones and
away from bad ones, both through a blend with the old policy's prediction:

    v⁺ = (1 − β) v_old + β v_θ,    v⁻ = (1 + β) v_old − β v_θ
    loss = r ‖v⁺ − v‖² + (1 − r) ‖v⁻ − v‖²,    r = ½ + ½ clip(A / Z, −1, 1)

with A the reward standardised within the candidates of an input. Departures: times are those of
the sampler; the loss is a mean over pixels without adaptive weighting; inputs whose candidates all
have the same reward are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from restoration_guide.finetune.candidates import (
    BlackBoxMethod,
    Regression,
    rewarded_candidates,
)
from restoration_guide.finetune.groups import group_advantages
from restoration_guide.finetune.methods import Batch, StepLosses

REWARD_CLIP = 2.0
"""Z: standardised rewards beyond ± Z count as Z."""


@dataclass(frozen=True)
class NftConfig:
    """Settings of the method."""

    candidates: int = 4
    """N candidates of each input."""
    beta: float = 1.0
    """β: how strongly the blends differ from the old policy."""
    old_decay: float = 0.9
    """Decay of the moving average that is the old policy."""

    def __post_init__(self) -> None:
        if self.candidates < 2 or not (self.beta > 0 and 0 <= self.old_decay < 1):
            raise ValueError(
                "expected candidates ≥ 2, beta > 0 and 0 ≤ old_decay < 1, got "
                f"{self.candidates}, {self.beta} and {self.old_decay}"
            )


def nft_loss(
    prediction: Tensor, old_prediction: Tensor, target: Tensor, reward: Tensor, beta: float
) -> Tensor:
    """The loss of each sample, (B,), in the parametrisation of the network: ε, v or flow.

    >>> new, old, target = torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])
    >>> nft_loss(new, old, target, reward=torch.tensor([1.0]), beta=1.0)  # (3 − 2)²
    tensor([1.])

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
    """Target of the network at the state ``alpha · clean + sigma · noise``.

    >>> clean, noise = torch.tensor([1.0]), torch.tensor([3.0])
    >>> forward_target("flow", clean, noise, torch.tensor(0.5), torch.tensor(0.5))
    tensor([2.])

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


def optimality(rewards: Tensor, clip: float = REWARD_CLIP) -> Tensor:
    """r of (B, N) rewards: ½ + ½ clip(A / Z, −1, 1); NaN where a reward is, ½ in equal groups."""
    return 0.5 + 0.5 * (group_advantages(rewards) / clip).clamp(-1, 1)


class Nft(BlackBoxMethod):
    """DiffusionNFT on a restorer."""

    config: NftConfig

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.old = [parameter.detach().clone() for parameter in self.tuned.masters]

    def compute_loss(self, batch: Batch, *, generator: torch.Generator) -> StepLosses:
        """A loss per candidate with a reward, of inputs whose rewards differ."""
        n = self.config.candidates
        with self.tuned.use_weights(self.old):
            made = rewarded_candidates(self.pipe, batch, n, self.rate, generator=generator)
        differ = group_advantages(made.reward).nan_to_num().abs().amax(1, keepdim=True) > 0
        usable = (made.reward.isfinite() & differ).flatten()
        terms = {name: values.flatten() for name, values in made.terms.items()}
        degraded = batch.degraded.repeat_interleave(n, 0)[usable]
        if not usable.any():
            return StepLosses(degraded.new_empty(0), terms, len(usable))
        clean = made.images.flatten(0, 1)[usable]
        r = optimality(made.reward).flatten()[usable]
        regression = Regression(self.pipe, degraded, self.steps, generator)
        with self.tuned.use_weights(self.old):
            old = regression.predict(clean).float()
        new = regression.predict(clean).float()
        losses = nft_loss(new, old, regression.target(clean).float(), r, self.config.beta)
        return StepLosses(losses, terms, int((~usable).sum()))

    def after_step(self, terms: dict[str, Tensor], *, stepped: bool) -> None:
        """Update the old policy."""
        if stepped:
            for old, new in zip(self.old, self.tuned.masters, strict=True):
                old.lerp_(new.detach(), 1 - self.config.old_decay)

    def state(self) -> dict[str, Any]:
        """The old policy."""
        return {"old": [value.cpu() for value in self.old]}

    def load(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`."""
        for old, value in zip(self.old, state["old"], strict=True):
            old.copy_(value)
