"""A one-step restorer as a sampler: one network evaluation from the degraded image's latents.

    python -m recipes.finetune_restorer --config recipes/configs/finetune_restorer/default.yaml \
        sampler=recipes.samplers.one_step:OneStepSampler restorer=FOLDER photos=PHOTOS

After Wu et al., *One-Step Effective Diffusion Network for Real-World Image Super-Resolution*
(OSEDiff), NeurIPS 2024: the noisy state of the last timestep is replaced by the latents z of the
degraded image, and the network's noise ε gives the clean latents (z − σ ε) / α. ``FOLDER`` is a
Stable Diffusion folder (``unet``, ``vae``, ``text_encoder``, ``tokenizer``, ``scheduler``).
Departures: an empty prompt instead of tags read from the image; the VAE's encoder is frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.rollout import RolloutConfig, Sampled

TIMESTEP = 999


class OneStepSampler:
    """Restores in one evaluation, without noise: ``rollout`` says nothing about it."""

    scale = 1

    def __init__(self, restorer: str, rollout: RolloutConfig, device: torch.device) -> None:
        # diffusers sets the parts by their names
        pipe: Any = diffusers.StableDiffusionPipeline.from_pretrained(
            restorer, use_safetensors=True, safety_checker=None
        ).to(device)
        self.unet, self.vae = pipe.unet, pipe.vae
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False)
        with torch.no_grad():  # the text is encoded once
            self.prompt, _ = pipe.encode_prompt("", device, 1, False)
        kept = pipe.scheduler.alphas_cumprod[TIMESTEP]
        self.alpha, self.sigma = float(kept.sqrt()), float((1 - kept).sqrt())

    @property
    def network(self) -> nn.Module:
        """The UNet."""
        return self.unet

    def _restore(self, degraded: Tensor) -> Tensor:
        factor = self.vae.config.scaling_factor
        latents = self.vae.encode(degraded * 2 - 1).latent_dist.mode() * factor
        prompt = self.prompt.expand(len(latents), -1, -1)
        noise = self.unet(latents, TIMESTEP, encoder_hidden_states=prompt).sample
        clean = (latents - self.sigma * noise) / self.alpha
        return (self.vae.decode(clean / factor).sample / 2 + 0.5).clamp(0, 1)

    def sample(self, degraded: Tensor, generator: torch.Generator) -> Sampled:
        """One evaluation with gradients."""

        @torch.no_grad()
        def again() -> Tensor:
            return self._restore(degraded)

        return Sampled(self._restore(degraded), again)

    @torch.no_grad()
    def restore(self, degraded: Tensor, generator: torch.Generator) -> Tensor:
        """One evaluation without gradients."""
        return self._restore(degraded)

    def save(self, tuned: TunedNetwork, folder: Path) -> str:
        """The UNet with the adapter merged."""
        merged: Any = tuned.merged()
        merged.save_pretrained(folder / "unet")
        return "The `unet` of a one-step restorer (`recipes/samplers/one_step.py`)."
