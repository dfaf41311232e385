"""Training of the bundled restorer: degraded crops, the network with its average, checkpoints.

Flow matching of the scaled residual, see :mod:`.residual_flow`. The recipe
``recipes.train_builtin_restorer`` draws the budget and logs; this module makes the steps.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline, tiny_unet
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.runs.random import numbered_generator

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class RestorerTrainingConfig:
    """Network, degradations and optimisation of one restorer training."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    """UNet widths, multiples of 8."""
    layers_per_block: int = 2
    """Residual blocks per UNet level."""
    residual_scale: float = 0.2
    """S of `ResidualFlow`; its σ is measured before the first step."""
    detail_gain: float = 4.0
    """Gain of `ResidualFlow`."""
    presets: dict[str, float] = field(
        default_factory=lambda: {
            "mixed": 0.55,
            "x2": 0.12,
            "x4": 0.1,
            "noise_jpeg": 0.07,
            "blur_noise": 0.06,
            "blur": 0.1,
        }
    )
    """Share of each degradation preset."""
    crop: int = 96
    """Side of the training crops in pixels, a multiple of 8."""
    batch_size: int = 8
    """Crops per step."""
    weight_decay: float = 1e-3
    ema_decay: float = 0.999
    """Largest decay of the averaged weights; it starts as (1 + n) / (10 + n)."""
    mmse_share: float = 0.3
    """Share of crops trained at t = 1, the first step of every sampler."""
    time_low: float = 0.1
    """Smallest of the other times, which are uniform up to ``time_high``."""
    time_high: float = 0.9
    """Largest of the other times: a sampler's last step is at 1 / steps, its second at
    1 − 1 / steps."""
    autocast: bool = True
    """bf16 autocast of the network; the loss stays in fp32."""
    device: str = "cpu"
    seed: int = 0
    sigma_crops: int = 128
    """Crops from which the residual's standard deviation is measured."""

    def __post_init__(self) -> None:
        if self.crop % 8:
            raise ValueError(f"crop must be a multiple of 8, got {self.crop}")
        if not 0.0 < self.time_low < self.time_high <= 1.0:
            raise ValueError(
                f"need 0 < time_low < time_high ≤ 1, got {self.time_low} and {self.time_high}"
            )


def training_pair(
    photos: PhotoPool, config: RestorerTrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Clean and degraded crops, both (B, 3, crop, crop) in [-1, 1], flipped and turned.

    >>> from zoomiqa_core.images.sources import save_png
    >>> photos = PhotoPool([save_png(torch.rand(3, 64, 64), "photo.png")], min_side=48)
    >>> config = RestorerTrainingConfig(crop=48, batch_size=2)
    >>> clean, degraded = training_pair(photos, config, torch.Generator().manual_seed(0))
    >>> clean.shape, degraded.shape
    (torch.Size([2, 3, 48, 48]), torch.Size([2, 3, 48, 48]))
    """
    clean, _ = photos.crops(config.batch_size, config.crop, generator=generator)
    turns = torch.randint(4, (len(clean),), generator=generator).tolist()
    clean = torch.stack([torch.rot90(c, k, (-2, -1)) for c, k in zip(clean, turns, strict=True)])
    names, shares = list(config.presets), torch.tensor(list(config.presets.values()))
    drawn = torch.multinomial(shares, len(clean), replacement=True, generator=generator).tolist()
    degraded = [
        degrade(image[None], names[k], generator=generator).images
        for image, k in zip(clean, drawn, strict=True)
    ]
    return clean * 2.0 - 1.0, torch.cat(degraded) * 2.0 - 1.0


def residual_rms(photos: PhotoPool, config: RestorerTrainingConfig) -> float:
    """Root mean square of the scaled residual over fresh training pairs: σ of `ResidualFlow`."""
    generator = torch.Generator().manual_seed(config.seed)
    squares = []
    for _ in range(math.ceil(config.sigma_crops / config.batch_size)):
        clean, degraded = training_pair(photos, config, generator)
        squares.append(((clean - degraded) / config.residual_scale).square().mean())
    return round(math.sqrt(torch.stack(squares).mean()), 3)


class RestorerTraining:
    """Network, moving average and optimiser of one training.

    The network's initial weights come from torch's global generator.

    Args:
        photos: clean photos.
        config: of the training.
        state: of :meth:`state`, to go on from; None begins.
    """

    def __init__(
        self,
        photos: PhotoPool,
        config: RestorerTrainingConfig,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.photos, self.config = photos, config
        sigma = state["sigma_data"] if state else residual_rms(photos, config)
        self.flow = rf.ResidualFlow(config.residual_scale, sigma, config.detail_gain)
        self.unet = tiny_unet(config.channels, config.layers_per_block).train()
        torch.nn.init.zeros_(self.unet.conv_out.weight)  # starts from the preconditioned skip alone
        averaged = tiny_unet(config.channels, config.layers_per_block).eval()
        torch.nn.ModuleList([self.unet, averaged]).to(config.device)
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
        self._pipe = TinyRestorationPipeline(averaged, scheduler, **asdict(self.flow))
        self._pipe.set_progress_bar_config(disable=True)
        self._optimizer = torch.optim.AdamW(
            self.unet.parameters(), 0.0, (0.9, 0.99), weight_decay=config.weight_decay
        )
        self._average = EMAModel(self.unet.parameters(), decay=config.ema_decay)
        if state:
            self.unet.load_state_dict(state["unet"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._average.load_state_dict(state["averaged"])
            self._average.to(config.device)  # loading leaves the averages on the CPU

    def state(self) -> dict[str, Any]:
        """What a resumed training needs, as tensors and plain containers."""
        return {
            "unet": self.unet.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "averaged": self._average.state_dict(),
            "sigma_data": self.flow.sigma_data,
        }

    def pipeline(self) -> TinyRestorationPipeline:
        """The restorer with the averaged weights; the same object at every call."""
        self._average.copy_to(self._pipe.unet.parameters())
        return self._pipe

    def step(self, number: int, learning_rate: float) -> Tensor:
        """Make one step.

        Args:
            number: of the step; its crops, times and noise depend on it and the seed alone, so a
                resumed run sees the batches of an unbroken one.
            learning_rate: of AdamW.

        Returns:
            (2, B) on the CPU: times, and losses.
        """
        config = self.config
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        generator = numbered_generator(config.seed, number)
        clean, degraded = training_pair(self.photos, config, generator)
        t = rf.sample_times(
            len(clean),
            mmse_share=config.mmse_share,
            low=config.time_low,
            high=config.time_high,
            generator=generator,
        )
        noise = torch.randn(clean.shape, generator=generator)
        clean, degraded, t, noise = (x.to(config.device) for x in (clean, degraded, t, noise))
        losses = rf.flow_loss(self._network, clean, degraded, t, noise, self.flow)
        self._optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(
            self.unet.parameters(), MAX_GRAD_NORM, error_if_nonfinite=True
        )
        self._optimizer.step()
        self._average.step(self.unet.parameters())
        return torch.stack([t, losses.detach()]).cpu()

    def _network(self, x: Tensor, timestep: Tensor) -> Tensor:
        kind = torch.device(self.config.device).type  # "cuda" of "cuda:1"
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.autocast):
            return self.unet(x, timestep).sample
