"""Differentiable sampling: a restorer's chain of network evaluations, with gradients where wanted.

Written against :class:`Chain`, four verbs that every diffusion sampler has. Evaluations that get
no gradient run under ``torch.no_grad``, so memory depends on the evaluations that do, not on the
length of the chain; with checkpointing, each of those keeps its input alone. One configuration
covers the published ways to truncate:

=============  ==============================================  ================================
method         paper                                           settings
=============  ==============================================  ================================
ReFL           Xu et al., *ImageReward*, NeurIPS 2023          ``early_stop=m``
DRaFT-K        Clark et al., *DRaFT*, ICLR 2024                ``last=K``
DRaFT-LV       the same                                        ``last=1, renoised=2``
AlignProp      Prabhudesai et al., arXiv 2310.03739            ``last=0, random_last=True``,
                                                               ``checkpointing=True``
=============  ==============================================  ================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from zoomiqa_core.runs.random import below


class Chain(Protocol):
    """A batch on its way through a sampler; every method is differentiable in the network."""

    steps: int
    """Network evaluations."""

    def prepare(self, generator: torch.Generator) -> Tensor:
        """The first latents, pure noise."""
        ...

    def predict(self, latents: Tensor, index: int) -> Tensor:
        """Predicted clean latents at step ``index``: one network evaluation.

        ``latents`` may hold the batch several times over, here and in ``decode``.
        """
        ...

    def step(self, latents: Tensor, predicted: Tensor, index: int) -> Tensor:
        """Latents after step ``index``; after the last one they are ``predicted``."""
        ...

    def renoise(self, clean: Tensor, index: int, generator: torch.Generator) -> Tensor:
        """Clean latents with fresh noise, as the sampler would meet them at step ``index``."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 3, H, W) images in [0, 1]."""
        ...


@dataclass(frozen=True)
class RolloutConfig:
    """How far a chain runs and through which of its evaluations the gradient flows."""

    steps: int = 3
    """Network evaluations of a whole chain."""
    temperature: float = 0.5
    """Scale of the noise, as in the restorer's ``Settings``."""
    last: int = 1
    """K: the gradient flows through the last K evaluations; 0 for all of them."""
    random_last: bool = False
    """Draw K from 1 … ``last`` for every chain (random truncation)."""
    early_stop: int = 0
    """Stop at a random one of the last m steps and take its predicted clean image; 0 never."""
    renoised: int = 0
    """n: noise the finished image n times and take the last step again from each, with gradient
    through it alone; the results replace the chain's own. 0 never."""
    checkpointing: bool = False
    """Compute activations again in the backward pass: about a third more time, less memory."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.last <= self.steps:
            raise ValueError(
                "expected steps ≥ 1 and last, the evaluations with gradient, in 0 (all) … steps; "
                f"got steps={self.steps}, last={self.last}"
            )
        if not 0 <= self.early_stop <= self.steps:
            raise ValueError(f"early_stop counts steps, 0 … {self.steps}; got {self.early_stop}")
        if self.renoised < 0 or (self.renoised and (self.early_stop or self.last != 1)):
            raise ValueError(
                "renoised repeats the last step, whose gradient it then is: it wants last=1 and "
                f"early_stop=0; got renoised={self.renoised}, last={self.last}, "
                f"early_stop={self.early_stop}"
            )


@dataclass(frozen=True, eq=False)
class Rollout:
    """The end of a chain: what the last network evaluation saw and said."""

    images: Tensor
    """(R·B, 3, H, W) in [0, 1] with a graph; R = ``renoised`` or 1, chain by chain."""
    latents: Tensor
    """Latents the last evaluation started from, (R·B, …), detached."""
    index: int
    """Step of that evaluation."""


def roll_out(chain: Chain, config: RolloutConfig, generator: torch.Generator) -> Rollout:
    """Sample a batch with gradients through the evaluations that ``config`` names.

    Args:
        chain: the batch; its ``steps`` are the configuration's.
        config: truncation.
        generator: draws noise and truncation, the same for the same state.

    Raises:
        RuntimeError: gradients are switched off, by a ``no_grad`` block or globally, as some
            pipelines do; or the images came out without a graph.
    """
    require_gradients()
    if chain.steps != config.steps:
        raise ValueError(f"the chain has {chain.steps} steps, the configuration {config.steps}")
    latents = chain.prepare(generator)
    stop = chain.steps
    if config.early_stop:
        stop -= below(config.early_stop, generator)
    learned = draw_last(config, stop, generator)
    first = stop if config.renoised else stop - learned
    seen, predicted = latents, latents
    for index in range(stop):
        seen = latents
        if index < first:
            with torch.no_grad():
                predicted = chain.predict(latents, index)
        else:
            predicted = _predict(chain, latents, index, config.checkpointing)
        latents = chain.step(latents, predicted, index)
    if config.renoised:
        index = chain.steps - 1
        again = [chain.renoise(predicted, index, generator) for _ in range(config.renoised)]
        ends = [_predict(chain, noisy, index, config.checkpointing) for noisy in again]
        images, seen = torch.cat([chain.decode(end) for end in ends]), torch.cat(again)
    else:
        images = chain.decode(predicted)
    if not images.requires_grad:
        raise RuntimeError(
            "the sampled images carry no gradient: no parameter of the network requires one. "
            "Add an adapter (finetune.lora) or unfreeze the network before sampling."
        )
    return Rollout(images, seen.detach(), stop - 1)


def draw_last(config: RolloutConfig, steps: int, generator: torch.Generator) -> int:
    """K of a chain of this many steps: its last evaluations, through which the gradient flows."""
    last = min(config.last or steps, steps)
    return 1 + below(last, generator) if config.random_last else last


def require_gradients() -> None:
    """Refuse to sample where autograd records nothing.

    Raises:
        RuntimeError: gradients are off.
    """
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise RuntimeError(
            "gradients are switched off, so the reward would teach nothing. Leave the no_grad or "
            "inference_mode block; if a pipeline called torch.set_grad_enabled(False) globally, "
            "call torch.set_grad_enabled(True)."
        )


class BuiltinChain:
    """:class:`Chain` of a :class:`TinyRestorationPipeline` at strength 1 and without churn.

    Takes the steps the pipeline takes (tested), written out, because the scheduler counts its own
    steps and computes in single precision.

    Args:
        pipe: the pipeline; what in it requires gradients gets them.
        image: degraded images, (B, 3, H, W) in [0, 1].
        steps: network evaluations.
        temperature: scale of the noise.
    """

    def __init__(
        self, pipe: TinyRestorationPipeline, image: Tensor, steps: int, temperature: float = 1.0
    ) -> None:
        self.pipe, self.steps, self.temperature = pipe, steps, temperature
        self.size = image.shape[-2:]
        self.degraded = pipe.prepare_image(image)
        scheduler: Any = pipe.scheduler
        scheduler.set_timesteps(sigmas=[1.0 - i / steps for i in range(steps)])
        self.times: list[float] = scheduler.sigmas.tolist()  # ends with 0

    def prepare(self, generator: torch.Generator) -> Tensor:
        """Noise of the sampler's temperature, (B, 3, H', W') on the padded grid."""
        return self.temperature * _noise_like(self.degraded, generator)

    def predict(self, latents: Tensor, index: int) -> Tensor:
        """Predicted residual."""
        return self.pipe.predict_residual(
            latents, self._degraded(latents), self._time(latents, index)
        )

    def step(self, latents: Tensor, predicted: Tensor, index: int) -> Tensor:
        """Euler's step along the line."""
        move = self.times[index + 1] - self.times[index]
        return latents + move * rf.velocity(latents, predicted, self._time(latents, index))

    def renoise(self, clean: Tensor, index: int, generator: torch.Generator) -> Tensor:
        """The residual moved back along the line to a fresh noise."""
        noise = self.temperature * _noise_like(clean, generator)
        return rf.interpolate(clean, noise, self._time(clean, index))

    def decode(self, latents: Tensor) -> Tensor:
        """Images from residuals; clamping lets the gradient of clamped pixels vanish."""
        restored = rf.apply_residual(self._degraded(latents), latents, self.pipe.flow)
        restored = restored[..., : self.size[0], : self.size[1]]
        return ((restored + 1.0) / 2.0).clamp(0.0, 1.0)

    def _degraded(self, latents: Tensor) -> Tensor:
        """The degraded batch, as many times over as ``latents`` hold it."""
        return self.degraded.repeat(len(latents) // len(self.degraded), 1, 1, 1)

    def _time(self, latents: Tensor, index: int) -> Tensor:
        return latents.new_full((len(latents),), self.times[index])


def _predict(chain: Chain, latents: Tensor, index: int, checkpointing: bool) -> Tensor:
    if not checkpointing:
        return chain.predict(latents, index)
    predicted = checkpoint(chain.predict, latents, index, use_reentrant=False)
    if not isinstance(predicted, Tensor):
        raise TypeError(f"predict() must give a tensor, got {type(predicted).__name__}")
    return predicted


def _noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
