"""A shifted-residual sampler: diffusion from the clean latents to the noisy degraded ones.

    python -m recipes.finetune_restorer --config recipes/configs/finetune_restorer/default.yaml \
        sampler=recipes.samplers.shifted_residual:ShiftedResidualSampler \
        restorer=FOLDER photos=PHOTOS

After Yue et al., *ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
Shifting*, NeurIPS 2023: with latents x₀ of the clean and y of the degraded image, the state at step
t is x₀ + η_t (y − x₀) + κ √η_t ε, the network predicts x₀ from the state and y, and the posterior
mean of the next state is (η_{t−1} / η_t) x_t + (α_t / η_t) x₀ with α_t = η_t − η_{t−1} (their
Eq. 5–7). ``FOLDER`` has a ``unet`` (UNet2DModel, twice as many channels in as out) and a
``vqvae`` (VQModel). Departure: state and y are concatenated in latent space.

The sampler is written as a :class:`~restoration_guide.finetune.rollout.Chain`, so that every
truncation scheme of ``rollout`` works.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel, VQModel
from torch import Tensor, nn

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.rollout import RolloutConfig, Sampled, roll_out

KAPPA = 2.0
"""κ: noise of the state in units of the latents' standard deviation."""
POWER = 0.3
FIRST, LAST = 0.04, 0.99
"""√η of the first and the last step; between them √η grows geometrically in (t / T)^POWER."""


def shifts(steps: int) -> list[float]:
    """η of the steps, falling, with a 0 at the end.

    >>> [round(eta, 4) for eta in shifts(3)]
    [0.9801, 0.2938, 0.0016, 0.0]
    """
    places = [(t / max(steps - 1, 1)) ** POWER for t in range(steps)] if steps > 1 else [1.0]
    roots = [FIRST * (LAST / FIRST) ** place for place in places]
    return [root**2 for root in reversed(roots)] + [0.0]


class ShiftedResidualChain:
    """The sampling chain of one batch of degraded images in [0, 1]."""

    def __init__(self, unet: Any, vqvae: Any, degraded: Tensor, steps: int) -> None:
        self.unet, self.vqvae, self.steps, self.etas = unet, vqvae, steps, shifts(steps)
        with torch.no_grad():
            self.degraded = vqvae.encode(degraded * 2 - 1).latents
        self.noises: list[Tensor] = []

    def prepare(self, generator: torch.Generator) -> Tensor:
        """Noisy latents of the degraded image; also draws the noise of all steps."""
        self.noises = [self._noise(self.degraded, generator) for _ in range(self.steps)]
        return self.degraded + KAPPA * self.etas[0] ** 0.5 * self._noise(self.degraded, generator)

    def predict(self, latents: Tensor, index: int) -> Tensor:
        """Clean latents, by one evaluation."""
        pair = torch.cat([latents, self._repeated(self.degraded, latents)], 1)
        return self.unet(pair, self.steps - 1 - index).sample

    def step(self, latents: Tensor, predicted: Tensor, index: int) -> Tensor:
        """A sample of the posterior; the prediction at the last step, where η is 0."""
        eta, after = self.etas[index], self.etas[index + 1]
        mean = after / eta * latents + (eta - after) / eta * predicted
        spread = KAPPA * (after / eta * (eta - after)) ** 0.5
        return mean + spread * self._repeated(self.noises[index], latents)

    def renoise(self, clean: Tensor, index: int, generator: torch.Generator) -> Tensor:
        """The state of a step, from clean latents."""
        eta = self.etas[index]
        shifted = clean + eta * (self._repeated(self.degraded, clean) - clean)
        return shifted + KAPPA * eta**0.5 * self._noise(clean, generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1]."""
        return (self.vqvae.decode(latents).sample / 2 + 0.5).clamp(0, 1)

    def _repeated(self, values: Tensor, latents: Tensor) -> Tensor:
        return values.repeat(len(latents) // len(values), 1, 1, 1)

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)


class ShiftedResidualSampler:
    """Restores by ``rollout.steps`` evaluations of a :class:`ShiftedResidualChain`."""

    scale = 1

    def __init__(self, restorer: str, rollout: RolloutConfig, device: torch.device) -> None:
        self.unet: Any = UNet2DModel.from_pretrained(restorer, subfolder="unet")
        self.vqvae: Any = VQModel.from_pretrained(restorer, subfolder="vqvae")
        for part in (self.unet, self.vqvae):
            part.to(device).eval().requires_grad_(False)
        self.rollout = rollout

    @property
    def network(self) -> nn.Module:
        """The UNet."""
        return self.unet

    def sample(self, degraded: Tensor, generator: torch.Generator) -> Sampled:
        """A roll-out with the gradients that the configuration selects."""
        chain = ShiftedResidualChain(self.unet, self.vqvae, degraded, self.rollout.steps)
        made = roll_out(chain, self.rollout, generator)

        @torch.no_grad()
        def again() -> Tensor:
            return chain.decode(chain.predict(made.latents, made.index))

        return Sampled(made.images, again)

    @torch.no_grad()
    def restore(self, degraded: Tensor, generator: torch.Generator) -> Tensor:
        """A whole chain without gradients."""
        chain = ShiftedResidualChain(self.unet, self.vqvae, degraded, self.rollout.steps)
        latents = chain.prepare(generator)
        for index in range(chain.steps):
            latents = chain.step(latents, chain.predict(latents, index), index)
        return chain.decode(latents)

    def save(self, tuned: TunedNetwork, folder: Path) -> str:
        """The UNet with the adapter merged, and the autoencoder."""
        merged: Any = tuned.merged()
        merged.save_pretrained(folder / "unet")
        self.vqvae.save_pretrained(folder / "vqvae")
        return "For `ShiftedResidualSampler(FOLDER, rollout, device)` (`recipes/samplers`)."
