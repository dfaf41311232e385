"""Learning by the gradient of the reward, through the sampler (ReFL, DRaFT, AlignProp).

One loss for all of them; what differs is where the gradient is cut (:mod:`.rollout`). Departures
from the papers: the reward is a sum of normalised terms with a lower-confidence bound, not one
model's score; images whose reward or whose reward's gradient is not finite are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, Lesson, ScaledMethod
from restoration_guide.finetune.rollout import BuiltinChain, RolloutConfig, roll_out
from restoration_guide.restorers.pipeline import TinyRestorationPipeline
from restoration_guide.rewards import Reward


class RewardBackprop(ScaledMethod):
    """The gradient of a differentiable reward, through the last evaluations of a sampler.

    Args:
        pipe: the pipeline whose network ``tuned`` is.
        tuned: the trained weights.
        reward: differentiable.
        config: truncation.
    """

    def __init__(
        self,
        pipe: TinyRestorationPipeline,
        tuned: TunedNetwork,
        reward: Reward,
        config: RolloutConfig,
    ) -> None:
        super().__init__(reward.scale)
        self.pipe, self.tuned, self.reward, self.config = pipe, tuned, reward, config

    def lesson(self, batch: Batch, *, step: int, generator: torch.Generator) -> Lesson:
        """Minus the reward of each image, as a loss with the reward's gradient.

        The gradient is taken in two halves: of the reward in the image, then of the image in the
        weights. Between them an image without a finite reward is left out; in one go its NaN times
        a zero weight would be NaN in every weight.
        """
        chain = BuiltinChain(self.pipe, batch.degraded, self.config.steps, self.config.temperature)
        rollout = roll_out(chain, self.config, generator)
        repeats = len(rollout.images) // len(batch.degraded)
        degraded = batch.degraded.repeat(repeats, 1, 1, 1)
        truth = None if batch.truth is None else batch.truth.repeat(repeats, 1, 1, 1)
        reference = None
        if "reference" in self.reward.names:
            with self.tuned.reference():
                reference = chain.decode(chain.predict(rollout.latents, rollout.index))

        images = rollout.images.detach().float().requires_grad_()
        rewarded = self.reward(
            images,
            degraded,
            step=step,
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
            usable = usable & rollout.images.detach().flatten(1).isfinite().all(1)
            slope = torch.where(usable.view(-1, 1, 1, 1), slope, 0.0)  # 0 · NaN would be NaN
            losses = reward_losses(rollout.images, slope, rewarded.total.detach())[usable]
        else:
            losses = rollout.images.new_empty(0)
        return Lesson(losses, terms, int((~usable).sum()))


def reward_losses(images: Tensor, slope: Tensor, reward: Tensor) -> Tensor:
    """Minus the reward, (B,): its value, and its gradient by the chain rule.

    Args:
        images: (B, 3, H, W) with the sampler's graph.
        slope: gradient of each image's reward in the image, detached.
        reward: (B,) detached.
    """
    along = (images * slope).flatten(1).sum(1)
    return -(along - along.detach() + reward)
