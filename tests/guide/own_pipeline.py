"""A small pipeline of a class that diffusers does not know."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from torch import Tensor


class OwnPipeline(DiffusionPipeline):
    """Denoises pixels in three steps, beside the image; then applies `after` to the result."""

    unet: UNet2DModel

    def __init__(self, unet: UNet2DModel, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.after: Callable[[Tensor], Any] = lambda made: made

    @torch.no_grad()
    def __call__(self, image: Tensor, generator: Any = None, gain: float = 0.05) -> Any:
        scheduler: Any = self.scheduler
        noise = torch.cat([torch.randn(1, *image.shape[1:], generator=g) for g in generator])
        scheduler.set_timesteps(3)
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(self.unet(x, t).sample, t, x).prev_sample
        return SimpleNamespace(images=self.after((image + gain * x).clamp(0, 1)))


def build_own_pipeline() -> OwnPipeline:
    """With random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
        )
    return OwnPipeline(unet.eval(), DDIMScheduler(clip_sample=True))
