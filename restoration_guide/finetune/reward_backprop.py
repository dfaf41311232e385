"""Reward backpropagation: train on the reward's gradient through the sampler (ReFL, DRaFT, …).

One loss for all methods; they differ in which sampling steps get a gradient (:mod:`.rollout`).
Departures from the papers: the reward is a sum of normalised terms with a lower confidence bound,
not one model's score; images with a non-finite reward or gradient are skipped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, ScaledMethod, StepLosses
from restoration_guide.finetune.rewards import Reward
from restoration_guide.finetune.samplers import Sampler


class RewardBackprop(ScaledMethod):
    """Method that maximises a differentiable reward through the last evaluations of a sampler.

    Args:
        sampler: restores with gradients, by the network of ``tuned``.
        tuned: the weights in training.
        reward: differentiable.
    """

    def __init__(
        self,
        sampler: Sampler,
        tuned: TunedNetwork,
        reward: Reward,
    ) -> None:
        super().__init__(reward.scale)
        self.sampler, self.tuned, self.reward = sampler, tuned, reward

    def compute_loss(self, batch: Batch, *, generator: torch.Generator) -> StepLosses:
        """Negative reward of each image, with its gradient.

        The gradient of the reward with respect to the image is computed first, and images where it
        is not finite are skipped, before it is propagated to the weights. In one pass, NaN times a
        zero weight would make the gradient of all weights NaN.
        """
        restored, again = self.sampler.sample(batch.degraded, generator)
        repeats = len(restored) // len(batch.degraded)
        degraded = batch.degraded.repeat(repeats, 1, 1, 1)
        truth = None if batch.truth is None else batch.truth.repeat(repeats, 1, 1, 1)
        reference = None
        if "reference" in self.reward.names:
            with self.tuned.reference():
                reference = again()

        images = restored.detach().float().requires_grad_()
        rewarded = self.reward(
            images,
            degraded,
            generator=generator,
            reference=None if reference is None else reference.float(),
            truth=truth,
        )
        terms = {name: values.detach() for name, values in rewarded.terms.items()}
        terms["reward"] = rewarded.total.detach()
        usable = rewarded.valid
        if usable.any():
            (slope,) = torch.autograd.grad(rewarded.total[usable].sum(), images)
            usable = usable & slope.flatten(1).isfinite().all(1)
            usable = usable & restored.detach().flatten(1).isfinite().all(1)
            slope = torch.where(usable.view(-1, 1, 1, 1), slope, 0.0)  # 0 · NaN would be NaN
            losses = reward_losses(restored, slope, rewarded.total.detach())[usable]
        else:
            losses = restored.new_empty(0)
        return StepLosses(losses, terms, int((~usable).sum()))


def reward_losses(images: Tensor, slope: Tensor, reward: Tensor) -> Tensor:
    """Negative rewards (B,) whose gradient is given by the chain rule.

    >>> images = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    >>> losses = reward_losses(images, torch.full((1, 3, 2, 2), 0.1), torch.tensor([2.5]))
    >>> losses.sum().backward()
    >>> losses.tolist(), images.grad[0, 0, 0].tolist()
    ([-2.5], [-0.10000000149011612, -0.10000000149011612])

    Args:
        images: (B, 3, H, W) with the sampler's graph.
        slope: gradient of each image's reward with respect to the image, detached.
        reward: (B,) detached.
    """
    linear = (images * slope).flatten(1).sum(1)
    return -(linear - linear.detach() + reward)
