"""`TinyRestorationPipeline`: a few-step diffusion restorer made of diffusers parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from restoration_guide.restorers.builtin import residual_flow as rf

PAD_MULTIPLE = 8
"""Two halvings in the UNet after the pixel-unshuffle by two."""

MIN_RESTORED_SIDE = 8
"""Smallest side in pixels: reflection pads up to 7, and needs more than it pads."""

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class RestorationOutput(BaseOutput):
    """Output of the pipeline."""

    images: Any
    """(B, 3, H, W) in [0, 1] for `output_type="pt"`, a list of PIL images for "pil"."""


def tiny_unet(channels: Sequence[int] = (32, 64, 128), layers_per_block: int = 2) -> UNet2DModel:
    """The fully convolutional `UNet2DModel` the pipeline expects, with random weights."""
    return UNet2DModel(
        in_channels=rf.NETWORK_IN_CHANNELS,
        out_channels=rf.NETWORK_OUT_CHANNELS,
        block_out_channels=tuple(channels),
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        norm_num_groups=8,
        attention_head_dim=8,
        add_attention=False,
    )


class TinyRestorationPipeline(DiffusionPipeline):
    """Restores degraded images by flow matching on their residual (see `residual_flow`).

    The whole image goes through the network at once: about 1 kB of memory per pixel in fp32, so
    4 megapixels need some 4 GB.

    Args:
        unet: Predicts the preconditioned residual; see `tiny_unet`.
        scheduler: Integrates the flow; sigmas are the times t.
        residual_scale: S of `ResidualFlow`.
        sigma_data: σ of `ResidualFlow`.
        detail_gain: Gain of `ResidualFlow`.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "predicted_residual"]

    unet: UNet2DModel
    scheduler: FlowMatchEulerDiscreteScheduler

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        residual_scale: float = 0.2,
        sigma_data: float = 0.5,
        detail_gain: float = 4.0,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            residual_scale=residual_scale, sigma_data=sigma_data, detail_gain=detail_gain
        )

    @property
    def flow(self) -> rf.ResidualFlow:
        """The parametrisation the weights were trained with."""
        config: Any = self.config
        return rf.ResidualFlow(config.residual_scale, config.sigma_data, config.detail_gain)

    def predict_residual(self, latents: Tensor, degraded: Tensor, t: Tensor) -> Tensor:
        """r̂ (B, 3, H, W) for padded inputs in [-1, 1] and times t (B,); differentiable."""
        return rf.predict_residual(
            lambda x, timestep: self.unet(x, timestep).sample, latents, degraded, t, self.flow
        )

    def prepare_image(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> [-1, 1] on the network's device, padded to multiples of 8."""
        check_image(image)
        image = image.to(self.device, self.unet.dtype) * 2.0 - 1.0
        height, width = image.shape[-2:]
        pad = (0, -width % PAD_MULTIPLE, 0, -height % PAD_MULTIPLE)
        return F.pad(image, pad, mode="reflect") if any(pad) else image

    def first_prediction(self, image: Tensor) -> Tensor:
        """r̂ at t = 1, on the padded grid: no noise enters it, so candidates can share it."""
        degraded = self.prepare_image(image)
        t = torch.ones(len(degraded), device=degraded.device, dtype=degraded.dtype)
        return self.predict_residual(torch.zeros_like(degraded), degraded, t)

    def advance(
        self,
        latents: Tensor,
        degraded: Tensor,
        i: int,
        steps: int,
        *,
        renew_noise: Callable[[], Tensor] | None = None,
        first_prediction: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Step i of `steps`: one network evaluation, differentiable. Nothing is kept between calls.

        Args:
            latents: State z (B, 3, H, W) on the padded grid; at step 0 it is noise.
            degraded: Result of `prepare_image`, or (1, 3, H, W) for states of one image.
            i: Step, from 0.
            steps: Steps of the whole chain; their times are evenly spaced.
            renew_noise: Draws the noise of a stochastic sampler; not called at the first and at
                the last step.
            first_prediction: Replaces the network evaluation of step 0.

        Returns:
            The next state, and r̂: after the last step both are the prediction.
        """
        scheduler: Any = self.scheduler
        times = [1.0 - k / steps for k in range(steps)]
        scheduler.set_timesteps(sigmas=times, device=latents.device)
        scheduler.set_begin_index(i)
        degraded = degraded.expand_as(latents)
        t = scheduler.sigmas[i].to(latents.dtype).expand(len(latents))
        if i == 0 and first_prediction is not None:
            residual = first_prediction.to(latents.device, latents.dtype).expand_as(latents)
        else:
            residual = self.predict_residual(latents, degraded, t)
        if renew_noise is not None and 0 < i < steps - 1:
            latents = rf.interpolate(residual, renew_noise(), t)
        model_output = rf.velocity(latents, residual, t)
        timestep = scheduler.timesteps[i]
        return scheduler.step(model_output, timestep, latents, return_dict=False)[0], residual

    def restored_image(self, degraded: Tensor, residual: Tensor, size: Sequence[int]) -> Tensor:
        """Images (B, 3, height, width) in [0, 1] from the padded input and a residual."""
        restored = rf.apply_residual(degraded, residual, self.flow)[..., : size[0], : size[1]]
        return ((restored + 1.0) / 2.0).clamp(0.0, 1.0)

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        num_inference_steps: int = 3,
        strength: float | Tensor = 1.0,
        temperature: float | Tensor = 1.0,
        stochastic: bool = False,
        generator: Generators = None,
        first_prediction: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]
        | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> RestorationOutput | tuple[Any]:
        """Restore a batch.

        Gradients: `type(pipe).__call__.__wrapped__(pipe, image, ..., output_type="pt")`.

        Args:
            image: Degraded images, (B, 3, H, W) in [0, 1], sides of at least 8 px.
            num_inference_steps: Network evaluations; 1 gives the MMSE estimate.
            strength: Scale of the final residual, a number or one per image (B,).
            temperature: Scale of the noise, a number or one per image (B,).
            stochastic: Renew the noise between the first and the last step. A renewal at the last
                step would change nothing: it ends on the prediction whatever the noise.
            generator: One generator, or one per image, for reproducible noise.
            first_prediction: Result of `first_prediction(image)`, to save the first evaluation.
            output_type: "pt" or "pil".
            return_dict: Return a `RestorationOutput`, otherwise a tuple.
            callback_on_step_end: Called as `(pipe, i, t, tensors) -> tensors` after each step.
            callback_on_step_end_tensor_inputs: Names among `_callback_tensor_inputs`.

        Raises:
            ValueError: Bad shapes, counts, names or output type.
            TypeError: The image is not a float tensor.
        """
        self._check_call(num_inference_steps, output_type, callback_on_step_end_tensor_inputs)
        degraded = self.prepare_image(image)
        count, device, dtype = len(degraded), degraded.device, degraded.dtype
        generators = list(generator) if isinstance(generator, Sequence) else generator
        heat = _per_image(temperature, count, "temperature").to(device, dtype)
        scale = _per_image(strength, count, "strength").to(device, dtype)

        def draw_noise() -> Tensor:
            noise = randn_tensor(degraded.shape, generator=generators, device=device, dtype=dtype)
            return heat * noise

        bar: Any = self.progress_bar
        scheduler: Any = self.scheduler
        latents = draw_noise()
        for i in bar(range(num_inference_steps)):
            latents, predicted_residual = self.advance(
                latents,
                degraded,
                i,
                num_inference_steps,
                renew_noise=draw_noise if stochastic else None,
                first_prediction=first_prediction,
            )
            if callback_on_step_end is not None:
                named = {"latents": latents, "predicted_residual": predicted_residual}
                wanted = {k: named[k] for k in callback_on_step_end_tensor_inputs}
                timestep = scheduler.timesteps[i]
                latents = callback_on_step_end(self, i, timestep, wanted).pop("latents", latents)

        restored = self.restored_image(degraded, scale * latents, image.shape[-2:])
        self.maybe_free_model_hooks()
        images = restored if output_type == "pt" else _to_pil(restored)
        return RestorationOutput(images=images) if return_dict else (images,)

    def _check_call(self, steps: int, output_type: str, names: Sequence[str]) -> None:
        if steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {steps}.")
        if output_type not in ("pt", "pil"):
            raise ValueError(f'output_type must be "pt" or "pil", got {output_type!r}.')
        unknown = set(names) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs {sorted(unknown)} are not available; "
                f"choose among {self._callback_tensor_inputs}."
            )


def check_image(image: Tensor) -> None:
    """Refuse what cannot be restored.

    Raises:
        TypeError: Not a floating point tensor.
        ValueError: Wrong shape or too small.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"Expected a float tensor (B, 3, H, W) in [0, 1], got {kind}; "
            "zoomiqa_core.images.sources.to_batch makes one from a file or a PIL image."
        )
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"Expected (B, 3, H, W), got {tuple(image.shape)}.")
    if min(image.shape[-2:]) < MIN_RESTORED_SIDE:
        raise ValueError(
            f"Sides must be at least {MIN_RESTORED_SIDE} px, got {tuple(image.shape[-2:])}; "
            "enlarge the image first."
        )


def _per_image(value: float | Tensor, count: int, name: str) -> Tensor:
    values = torch.as_tensor(value, dtype=torch.float32).reshape(-1)
    if values.numel() not in (1, count):
        raise ValueError(f"{name} must be one number or {count}, got {values.numel()}.")
    return values.expand(count).view(-1, 1, 1, 1)


def _to_pil(images: Tensor) -> list[Any]:
    from zoomiqa_core.images.sources import to_pil

    return [to_pil(image) for image in images]
