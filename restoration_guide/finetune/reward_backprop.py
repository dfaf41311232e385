"""Reward backpropagation: train on the reward's gradient through the sampler (ReFL, DRaFT, …).

One loss for all methods; they differ in which sampling steps get a gradient (:mod:`.rollout`).
Departures from the papers: the reward is a sum of terms whose image gradients are normalised
(:mod:`.gradients`), not one model's score; images with a non-finite reward or gradient are skipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from restoration_guide.finetune.gradients import (
    contributions,
    gradient_rms,
    gradient_shares,
    image_gradients,
)
from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, StepLosses
from restoration_guide.finetune.rewards import Reward
from restoration_guide.finetune.samplers import Sampler


class RewardBackprop:
    """Method that maximises a differentiable reward through the last evaluations of a sampler.

    Args:
        sampler: restores with gradients, by the network of ``tuned``.
        tuned: the weights in training.
        reward: differentiable.
    """

    def __init__(self, sampler: Sampler, tuned: TunedNetwork, reward: Reward) -> None:
        self.sampler, self.tuned, self.reward = sampler, tuned, reward

    def compute_loss(self, batch: Batch, *, generator: torch.Generator) -> StepLosses:
        """Negative reward of each image, with its gradient.

        The gradient of each term with respect to the image is computed first, and images where one
        is not finite are skipped, before the sum is propagated to the weights. In one pass, NaN
        times a zero weight would make the gradient of all weights NaN.

        Logged beside the terms: ``gradient/TERM``, the RMS of the term's image gradient, and
        ``share/TERM``, the share of its weighted, normalised gradient in the total.
        """
        restored, again = self.sampler.sample(batch.degraded, generator)
        repeats = len(restored) // len(batch.degraded)
        degraded = batch.degraded.repeat(repeats, 1, 1, 1)
        truth = None if batch.truth is None else batch.truth.repeat(repeats, 1, 1, 1)
        reference = None
        if "reference" in self.reward.names:
            with self.tuned.reference():
                reference = again().float()

        images = restored.detach().float().requires_grad_()
        with torch.enable_grad():
            terms = self.reward.terms(
                images, degraded, generator=generator, reference=reference, truth=truth
            )
            gradients = image_gradients(terms, images)
        gate = self.reward.gate(degraded)
        terms = {name: values.detach() for name, values in terms.items()}
        total = self.reward.total(terms, gate)
        usable = total.isfinite() & images.detach().flatten(1).isfinite().all(1)
        for each in gradients.values():
            usable = usable & each.flatten(1).isfinite().all(1)
        # 0 · NaN would be NaN
        gradients = {
            name: torch.where(usable.view(-1, 1, 1, 1), each, 0.0)
            for name, each in gradients.items()
        }
        parts = contributions(gradients, self.reward.weights(gate), self.reward.scale)
        logged = {**terms, "reward": total}
        logged |= {f"gradient/{name}": each for name, each in gradient_rms(gradients).items()}
        logged |= {f"share/{name}": each for name, each in gradient_shares(parts).items()}
        slope = torch.stack(list(parts.values())).sum(0)
        losses = reward_losses(restored, slope, total)[usable]
        return StepLosses(losses, logged, int((~usable).sum()))

    def after_step(self, terms: dict[str, Tensor], *, stepped: bool) -> None:
        """Update the running RMS of the terms' gradients."""
        found = {name: terms[f"gradient/{name}"] for name in self.reward.names}
        self.reward.scale.update(found)

    def state(self) -> dict[str, Any]:
        """The running mean square of each term's gradient."""
        return {"mean_square": dict(self.reward.scale.mean_square)}

    def load(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`."""
        self.reward.scale.mean_square = dict(state["mean_square"])


def reward_losses(images: Tensor, slope: Tensor, reward: Tensor) -> Tensor:
    """Negative rewards (B,) whose gradient is given by the chain rule.

    >>> images = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    >>> losses = reward_losses(images, torch.full((1, 3, 2, 2), 1.2), torch.tensor([2.5]))
    >>> losses.sum().backward()
    >>> losses.tolist(), images.grad[0, 0, 0]  # −1.2 over the 12 values
    ([-2.5], tensor([-0.1000, -0.1000]))

    Args:
        images: (B, 3, H, W) with the sampler's graph.
        slope: gradient of each image's reward as :func:`.gradients.image_gradients` gives it,
            times the values of an image; detached.
        reward: (B,) detached.
    """
    linear = (images * slope).flatten(1).mean(1)
    return -(linear - linear.detach() + reward)
