"""Learning by the gradient of the reward, through the sampler (ReFL, DRaFT, AlignProp).

One loss for all of them; what differs is where the gradient is cut (:mod:`.rollout`). Departures
from the papers: the reward is a sum of normalised terms with a lower-confidence bound, not one
model's score; images whose reward or whose reward's gradient is not finite are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, ScaledMethod, StepLosses
from restoration_guide.finetune.rewards import Reward
from restoration_guide.finetune.samplers import Sampler


class RewardBackprop(ScaledMethod):
    """The gradient of a differentiable reward, through the last evaluations of a sampler.

    Args:
        sampler: restores with gradients; its network is what ``tuned`` trains.
        tuned: the trained weights.
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
        """Minus the reward of each image, as a loss with the reward's gradient.

        The gradient is taken in two halves: of the reward in the image, then of the image in the
        weights. Between them an image without a finite reward is left out; in one go its NaN times
        a zero weight would be NaN in every weight.
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
    """Minus the reward, (B,): its value, and its gradient by the chain rule.

    Args:
        images: (B, 3, H, W) with the sampler's graph.
        slope: gradient of each image's reward in the image, detached.
        reward: (B,) detached.
    """
    along = (images * slope).flatten(1).sum(1)
    return -(along - along.detach() + reward)
