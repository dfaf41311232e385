"""Differentiable sampling of a restorer, with gradients through some of its network evaluations.

Written against :class:`Chain`, the operations of any diffusion sampler. Evaluations without a
gradient run under ``torch.no_grad``, so memory depends on the number of the others, not on the
length of the chain; with checkpointing, each of those stores only its input. One configuration
covers the truncation schemes of the literature:

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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from zoomiqa_core.runs.random import below


class Sampled(NamedTuple):
    """A batch restored with gradients."""

    images: Tensor
    """(R·B, 3, H, W) in [0, 1] with a graph, the batch R times over."""
    again: Callable[[], Tensor]
    """The same without gradients by the network's current weights: from the same noise, and where a
    chain can start at its last evaluation, from the same state there."""


class Chain(Protocol):
    """The operations of a diffusion sampler on one batch; all are differentiable."""

    steps: int
    """Number of network evaluations."""

    def prepare(self, generator: torch.Generator) -> Tensor:
        """Initial latents: pure noise."""
        ...

    def predict(self, latents: Tensor, index: int) -> Tensor:
        """Predicted clean latents at step ``index``: one network evaluation.

        ``latents`` may contain the batch several times, here and in ``decode``.
        """
        ...

    def step(self, latents: Tensor, predicted: Tensor, index: int) -> Tensor:
        """Latents after step ``index``; after the last step, ``predicted``."""
        ...

    def renoise(self, clean: Tensor, index: int, generator: torch.Generator) -> Tensor:
        """Clean latents with new noise, at the noise level of step ``index``."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of clean latents."""
        ...


@dataclass(frozen=True)
class RolloutConfig:
    """Number of sampling steps, and which of them get a gradient.

    >>> draft_lv = RolloutConfig(steps=3, last=1, renoised=2)
    >>> align_prop = RolloutConfig(steps=3, last=0, random_last=True, checkpointing=True)
    """

    steps: int = 3
    """Network evaluations of a whole chain."""
    temperature: float = 0.5
    """Scale of the initial noise, as in the restorer's ``Settings``."""
    last: int = 1
    """K: the gradient flows through the last K evaluations; 0 for all of them."""
    random_last: bool = False
    """Draw K from 1 … ``last`` for every chain (random truncation)."""
    early_stop: int = 0
    """m: stop at a random one of the last m steps and return its predicted image; 0 is off."""
    renoised: int = 0
    """n: noise the finished image n times and repeat the last step from each, with gradient; these
    n images are returned instead. 0 is off."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time, less memory."""

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
                "renoised repeats the last step, with gradient through it alone: it needs last=1 "
                f"and early_stop=0; got renoised={self.renoised}, last={self.last}, "
                f"early_stop={self.early_stop}"
            )


@dataclass(frozen=True, eq=False)
class Rollout:
    """Sampled images, and the input of the last network evaluation."""

    images: Tensor
    """(R·B, 3, H, W) in [0, 1] with a graph: the batch R times, R = ``renoised`` or 1."""
    latents: Tensor
    """Input latents of the last evaluation, (R·B, …), detached."""
    index: int
    """Index of its step."""


def roll_out(chain: Chain, config: RolloutConfig, generator: torch.Generator) -> Rollout:
    """Sample a batch with gradients through the evaluations that ``config`` selects.

    >>> from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
    >>> pipe = load_builtin_pipeline()
    >>> _ = pipe.unet.requires_grad_(True)
    >>> chain = BuiltinChain(pipe, torch.rand(1, 3, 16, 24), steps=2)
    >>> sampled = roll_out(chain, RolloutConfig(steps=2), torch.Generator().manual_seed(0))
    >>> sampled.images.shape, sampled.images.requires_grad, sampled.index
    (torch.Size([1, 3, 16, 24]), True, 1)

    Args:
        chain: the batch; its ``steps`` equal the configuration's.
        config: which evaluations get a gradient.
        generator: of noise and truncation, on the CPU.

    Raises:
        ValueError: the chain has another number of steps.
        RuntimeError: gradients are switched off, by a ``no_grad`` block or globally, as some
            pipelines do; or the images have no graph.
    """
    require_gradients()
    if chain.steps != config.steps:
        raise ValueError(f"the chain has {chain.steps} steps, the configuration {config.steps}")
    latents = chain.prepare(generator)
    stop = chain.steps
    if config.early_stop:
        stop -= below(config.early_stop, generator)
    first = stop - draw_last(config, stop, generator)
    if config.renoised:
        first = stop
    inputs, predicted = latents, latents
    for index in range(stop):
        inputs = latents
        if index < first:
            with torch.no_grad():
                predicted = chain.predict(latents, index)
        else:
            predicted = _predict(chain, latents, index, config.checkpointing)
        latents = chain.step(latents, predicted, index)
    if config.renoised:
        index = chain.steps - 1
        renoised = [chain.renoise(predicted, index, generator) for _ in range(config.renoised)]
        ends = [_predict(chain, noisy, index, config.checkpointing) for noisy in renoised]
        images, inputs = torch.cat([chain.decode(end) for end in ends]), torch.cat(renoised)
    else:
        images = chain.decode(predicted)
    if not images.requires_grad:
        raise RuntimeError(
            "the sampled images have no graph: no parameter of the network requires a gradient. "
            "Add an adapter (finetune.lora) or unfreeze the network before sampling."
        )
    return Rollout(images, inputs.detach(), stop - 1)


def draw_last(config: RolloutConfig, steps: int, generator: torch.Generator) -> int:
    """Draw K, the number of last evaluations that get a gradient.

    >>> generator = torch.Generator().manual_seed(0)
    >>> config = RolloutConfig(steps=5, last=0, random_last=True)
    >>> [draw_last(config, 5, generator) for _ in range(4)]
    [5, 5, 4, 1]
    """
    last = min(config.last or steps, steps)
    return 1 + below(last, generator) if config.random_last else last


def require_gradients() -> None:
    """Check that autograd records operations.

    >>> with torch.no_grad():
    ...     require_gradients()
    Traceback (most recent call last):
    RuntimeError: gradients are switched off, so nothing could be trained. ...

    Raises:
        RuntimeError: gradients are switched off.
    """
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise RuntimeError(
            "gradients are switched off, so nothing could be trained. Leave the no_grad or "
            "inference_mode block; if a pipeline called torch.set_grad_enabled(False) globally, "
            "call torch.set_grad_enabled(True)."
        )


class BuiltinChain:
    """:class:`Chain` of a :class:`TinyRestorationPipeline` at strength 1 and without churn.

    Equal to the pipeline's sampling (tested), but without its scheduler, which counts its steps and
    computes in single precision.

    Args:
        pipe: the pipeline; parameters that require gradients get them.
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
        """Noise scaled by the temperature, (B, 3, H', W') on the padded grid."""
        return self.temperature * _noise_like(self.degraded, generator)

    def predict(self, latents: Tensor, index: int) -> Tensor:
        """The residual between clean and degraded image that the network predicts at a step."""
        return self.pipe.predict_residual(
            latents, self._degraded(latents), self._time(latents, index)
        )

    def step(self, latents: Tensor, predicted: Tensor, index: int) -> Tensor:
        """Euler step along the line between residual and noise."""
        move = self.times[index + 1] - self.times[index]
        return latents + move * rf.velocity(latents, predicted, self._time(latents, index))

    def renoise(self, clean: Tensor, index: int, generator: torch.Generator) -> Tensor:
        """Interpolate between the residual and new noise, at the time of step ``index``."""
        noise = self.temperature * _noise_like(clean, generator)
        return rf.interpolate(clean, noise, self._time(clean, index))

    def decode(self, latents: Tensor) -> Tensor:
        """Images from residuals; clamped pixels get no gradient."""
        restored = rf.apply_residual(self._degraded(latents), latents, self.pipe.flow)
        restored = restored[..., : self.size[0], : self.size[1]]
        return ((restored + 1.0) / 2.0).clamp(0.0, 1.0)

    def _degraded(self, latents: Tensor) -> Tensor:
        """The degraded batch, repeated to the length of ``latents``."""
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
