"""Predicts the clean image from the latents in the middle of a diffusion run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
)
from torch import Tensor

FLOW_SCHEDULERS = (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
)


def shows_clean(scheduler: Any) -> bool:
    """Whether `predicted_clean` knows this kind of scheduler."""
    if hasattr(scheduler, "precondition_outputs"):  # EDM: the network is wrapped further
        return "Euler" in type(scheduler).__name__
    return (
        isinstance(scheduler, FLOW_SCHEDULERS)
        or hasattr(scheduler, "_sigma_to_alpha_sigma_t")
        or hasattr(scheduler, "alphas_cumprod")
    )


def predicted_clean(
    scheduler: Any, stepped: Any, model_output: Tensor, timestep: Any, sample: Tensor
) -> Tensor:
    """Predicted x0 in the latents' space, float32; to be called right after `scheduler.step`.

    With x = α x0 + σ ε, the network's output m is read by the scheduler's parametrisation:
    m = ε gives (x − σ m) / α; m = v = α ε − σ x0 gives α x − σ m; m = x0 is itself; and flow,
    x = (1 − σ) x0 + σ ε with m = ε − x0, gives x − σ m.

    Args:
        scheduler: Of the run.
        stepped: What `step` returned; its own prediction is used where it has one.
        model_output: Of the network, after guidance.
        timestep: Of the step.
        sample: Latents before the step.

    Raises:
        ValueError: A parametrisation that is not among these.
    """
    for name in ("pred_original_sample", "denoised"):
        given = getattr(stepped, name, None)
        if given is not None:
            return given.float()
    x, m = sample.float(), model_output.float()
    if isinstance(scheduler, FLOW_SCHEDULERS):
        return x - _sigma(scheduler) * m
    kind = scheduler.config.get("prediction_type", "epsilon")
    alpha, sigma = _signal_and_noise(scheduler, timestep)
    alpha, sigma = alpha.to(x.device, x.dtype), sigma.to(x.device, x.dtype)
    if kind == "epsilon":
        return (x - sigma * m) / alpha
    if kind == "v_prediction":
        return alpha * x - sigma * m
    if kind == "flow_prediction":
        return x - sigma * m
    if kind == "sample":
        return m
    raise ValueError(
        f"{type(scheduler).__name__} predicts {kind!r}, from which no clean image can be shown; "
        "search without previews, or use another scheduler."
    )


def _sigma(scheduler: Any) -> Tensor:
    """Noise level of the step just done."""
    return scheduler.sigmas[scheduler.step_index - 1].float()


def _signal_and_noise(scheduler: Any, timestep: Any) -> tuple[Tensor, Tensor]:
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return scheduler._sigma_to_alpha_sigma_t(_sigma(scheduler))
    product = scheduler.alphas_cumprod[int(timestep)]
    return product.sqrt(), (1 - product).sqrt()


@torch.no_grad()
def decode_latents(pipe: Any, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Images in [0, 1], (B, 3, *size) or (B, 3, scale · size), as the pipeline itself decodes.

    Args:
        pipe: With an autoencoder called `vae` or `vqvae`, or with none: then latents are pixels.
        latents: (B, C, h, w), or packed, (B, h w / 4, 4 C).
        size: Pixels of the picture the pipeline was asked for; of packed latents only its shape
            counts, as some pipelines resize what they are asked for.
    """
    vae: Any = getattr(pipe, "vae", None)
    if vae is None:
        vae = getattr(pipe, "vqvae", None)
        images = latents if vae is None else vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return _unit_range(images)
    if latents.ndim == 3:
        pair = 2 * pipe.vae_scale_factor
        rows, columns = _packed_grid(latents.shape[1], size)
        latents = pipe._unpack_latents(latents, pair * rows, pair * columns, pipe.vae_scale_factor)
    config = vae.config
    if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
        shape = (1, -1, *[1] * (latents.ndim - 2))
        mean = torch.tensor(config.latents_mean).view(shape).to(latents)
        std = torch.tensor(config.latents_std).view(shape).to(latents)
    else:
        mean, std = 0.0, 1.0
    shift = getattr(config, "shift_factor", None) or 0.0
    latents = latents * std / (getattr(config, "scaling_factor", None) or 1.0) + mean + shift
    with _wide_enough(vae):
        images = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
    return _unit_range(images[:, :, 0] if images.ndim == 5 else images)


def _packed_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of `tokens` whose aspect ratio is closest to that of `size`, (H, W)."""
    grids = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    return min(grids, key=lambda grid: abs(math.log(grid[0] * size[1] / (grid[1] * size[0]))))


@contextmanager
def _wide_enough(vae: Any) -> Iterator[None]:
    """SDXL's autoencoder overflows in fp16: in fp32 meanwhile, as the pipelines do it."""
    narrow = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if narrow:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            vae.to(torch.float16)


def _unit_range(images: Tensor) -> Tensor:
    return (images.float() / 2 + 0.5).clamp(0, 1)
