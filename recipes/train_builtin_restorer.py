"""Train the bundled diffusion restorer from a folder of clean photos.

    python -m recipes.train_builtin_restorer \
        --config recipes/configs/train_builtin_restorer/default.yaml \
        photos=PHOTOS val_photos=PHOTOS out=runs/builtin_restorer

Method: flow matching of the scaled residual with EDM-style preconditioning, conditioned on the
degraded image (`restoration_guide.restorers.builtin.residual_flow`). Degradations are drawn on the
fly; at 2 ms per 96 px crop they cost a few per cent of a step. The run resumes from its folder,
which also holds `preview.png` (input, one step, four steps at temperature 0.5 and 1, clean) and at
the end `pipeline/`: the averaged weights in fp16 as a diffusers folder with a model card.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from omegaconf import MISSING, OmegaConf
from rich.progress import Progress
from torch import Tensor
from torchvision.utils import make_grid

from recipes.compose import compose
from restoration_guide.fidelity.full_reference import psnr
from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline, tiny_unet
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import find_images, save_png, to_batch
from zoomiqa_core.runs.files import write_text_atomic
from zoomiqa_core.runs.folder import RunFolder, warn_of_slow_bf16
from zoomiqa_core.runs.random import numbered_generator

CHECK_SIDE = 128
"""Side in pixels of the held-out centre crops."""

CARD = """---
library_name: diffusers
license: apache-2.0
pipeline_tag: image-to-image
---

# Tiny restorer

A `TinyRestorationPipeline`: flow matching on residuals. Use it with `load_restorer(FOLDER)`.

## Data

A folder of clean photographs, cropped, flipped, turned and degraded on the fly by
`zoomiqa_core.data.damage.restoration`; the figures below, if any, are on photographs held out.

## Measured

{facts}
## Configuration

Without the folders of data and results:

```yaml
{config}```
"""


@dataclass(frozen=True)
class Config:
    """Settings of one restorer training."""

    photos: str = MISSING
    """Folder of clean photos, sides ≥ ``crop``."""
    val_photos: str | None = None
    """Folder of held-out clean photos for the periodic check, sides ≥ 128; None leaves it out."""
    out: str = "runs/builtin_restorer"
    """Run folder."""
    steps: int | None = None
    """Optimisation steps; None trains for ``minutes``."""
    minutes: float | None = None
    """Budget of training time, resumed runs included; None trains for ``steps``."""
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
    learning_rate: float = 5e-4
    """Peak rate of AdamW."""
    warmup_steps: int = 150
    """Steps of linear warm-up."""
    cosine_from: float = 0.3
    """Share of the budget after which the rate falls as a cosine to 2 % of its peak."""
    weight_decay: float = 1e-3
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    """Ceiling of the averaging decay, which starts as (1 + n) / (10 + n)."""
    mmse_share: float = 0.3
    """Share of crops trained at t = 1, the first step of every sampler."""
    time_low: float = 0.1
    """Other times are uniform from here …"""
    time_high: float = 0.9
    """… to here: the sampler's last step stands at 1 / steps, its second at 1 - 1 / steps."""
    autocast: bool = True
    """bf16 autocast of the network; the loss stays in fp32."""
    device: str = "cpu"
    threads: int = 1
    """CPU threads; 0 leaves torch's choice."""
    seed: int = 0
    log_every: int = 20
    """Steps per log line."""
    save_minutes: float = 4.0
    """Minutes between checkpoints."""
    check_minutes: float = 10.0
    """Minutes between checks on held-out photos, with a preview picture."""
    check_on: int = 12
    """Held-out photos per check."""
    sigma_crops: int = 128
    """Crops from which the residual's standard deviation is measured."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give one budget: either steps=N or minutes=M")
        if self.crop % 8:
            raise ValueError(f"crop must be a multiple of 8, got {self.crop}")
        if not 0.0 < self.time_low < self.time_high <= 1.0:
            raise ValueError(
                f"need 0 < time_low < time_high ≤ 1, got {self.time_low} and {self.time_high}"
            )


def training_pair(
    photos: PhotoPool, config: Config, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Clean and degraded crops, both (B, 3, crop, crop) in [-1, 1], flipped and turned."""
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


def measure_sigma(photos: PhotoPool, config: Config) -> float:
    """Root mean square of the scaled residual over fresh training pairs."""
    generator = torch.Generator().manual_seed(config.seed)
    squares = []
    for _ in range(math.ceil(config.sigma_crops / config.batch_size)):
        clean, degraded = training_pair(photos, config, generator)
        squares.append(((clean - degraded) / config.residual_scale).square().mean())
    return round(math.sqrt(torch.stack(squares).mean()), 3)


def learning_rate(config: Config, step: int, progress: float) -> float:
    """Warm-up, plateau, cosine to 2 % of the peak; progress is the spent share of the budget."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    tail = (progress - config.cosine_from) / (1.0 - config.cosine_from)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(tail, 0.0), 1.0)))
    return config.learning_rate * warm * (0.02 + 0.98 * cosine)


def spent(config: Config, step: int, seconds: float) -> float:
    """Share of the budget that is used up."""
    if config.steps is not None:
        return step / config.steps
    return seconds / (60.0 * (config.minutes or 1.0))


def check_photos(config: Config) -> Tensor | None:
    """Held-out centre crops, (N, 3, 128, 128) in [0, 1]."""
    if config.val_photos is None:
        return None
    crops = []
    for path in find_images([config.val_photos])[: config.check_on]:
        photo = to_batch(path)
        top, left = ((side - CHECK_SIDE) // 2 for side in photo.shape[-2:])
        crops.append(photo[..., top : top + CHECK_SIDE, left : left + CHECK_SIDE])
    return torch.cat(crops)


def check(pipe: TinyRestorationPipeline, clean: Tensor, picture: Path) -> dict[str, float]:
    """PSNR in dB of the input, one step and four steps on fixed damage; saves a picture."""
    degraded = degrade(clean, "mixed", generator=torch.Generator().manual_seed(7)).images
    rows = {"psnr_input": degraded}
    for name, steps, temperature in (("1", 1, 0.0), ("4_half", 4, 0.5), ("4_full", 4, 1.0)):
        (images,) = pipe(
            degraded,
            steps,
            temperature=temperature,
            generator=torch.Generator().manual_seed(7),
            output_type="pt",
            return_dict=False,
        )
        rows[f"psnr_{name}"] = images.cpu()
    shown = torch.cat([row[:8] for row in (*rows.values(), clean)])
    save_png(make_grid(shown, nrow=min(8, len(clean))), picture)
    return {name: round(float(psnr(row, clean).mean()), 3) for name, row in rows.items()}


def make_pipeline(unet: UNet2DModel, flow: rf.ResidualFlow) -> TinyRestorationPipeline:
    """Wrap a network for sampling and saving."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    pipe = TinyRestorationPipeline(unet, scheduler, **asdict(flow))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def card(config: Config, facts: dict[str, Any]) -> str:
    """The model card: measured facts and the settings, without the user's paths."""
    settings = asdict(config)
    for name in ("photos", "val_photos", "out"):
        del settings[name]
    listed = "".join(f"- {name}: {value}\n" for name, value in facts.items())
    return CARD.format(facts=listed, config=OmegaConf.to_yaml(OmegaConf.create(settings)))


def summary(recent: list[Tensor]) -> dict[str, float]:
    """Mean loss, and apart at t = 1 and below, of (2, B) rows of times and losses."""
    times, losses = torch.cat(recent, dim=1)
    parts = {"loss": losses, "loss_first": losses[times == 1], "loss_later": losses[times < 1]}
    return {name: round(float(part.mean()), 5) for name, part in parts.items() if part.numel()}


def main(arguments: list[str] | None = None) -> None:
    """Train, check, export."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    warn_of_slow_bf16(config.autocast, config.device)
    photos = PhotoPool(find_images([config.photos]), min_side=config.crop)
    held_out = check_photos(config)
    state = run.load()
    sigma = state["sigma_data"] if state else measure_sigma(photos, config)
    flow = rf.ResidualFlow(config.residual_scale, sigma, config.detail_gain)

    torch.manual_seed(config.seed)  # the network's initial weights
    unet = tiny_unet(config.channels, config.layers_per_block).train()
    torch.nn.init.zeros_(unet.conv_out.weight)  # starts from the preconditioned skip alone
    shown = tiny_unet(config.channels, config.layers_per_block).eval()
    torch.nn.ModuleList([unet, shown]).to(config.device)
    pipe = make_pipeline(shown, flow)
    optimizer = torch.optim.AdamW(
        unet.parameters(), 0.0, (0.9, 0.99), weight_decay=config.weight_decay
    )
    averaged = EMAModel(unet.parameters(), decay=config.ema_decay)
    step, seconds = 0, 0.0
    if state:
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.load_state_dict(state["averaged"])
        averaged.to(config.device)  # loading leaves the averages on the CPU
        step, seconds = state["step"], state["seconds"]

    kind = torch.device(config.device).type  # "cuda" of "cuda:1"

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=config.autocast):
            return unet(x, timestep).sample

    def save() -> None:
        run.save(
            {
                "unet": unet.state_dict(),
                "optimizer": optimizer.state_dict(),
                "averaged": averaged.state_dict(),
                "step": step,
                "seconds": seconds,
                "sigma_data": sigma,
            }
        )

    began = time.monotonic() - seconds
    saved = checked = seconds
    recent: list[Tensor] = []
    with Progress(disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("restorer", total=1.0)
        while (share := spent(config, step, seconds)) < 1.0:
            progress.update(bar, completed=share)
            rate = learning_rate(config, step, share)
            for group in optimizer.param_groups:
                group["lr"] = rate

            # a generator per step: a resumed run sees the batches of an unbroken one
            generator = numbered_generator(config.seed, step)
            clean, degraded = training_pair(photos, config, generator)
            t = rf.sample_times(
                len(clean),
                mmse_share=config.mmse_share,
                low=config.time_low,
                high=config.time_high,
                generator=generator,
            )
            noise = torch.randn(clean.shape, generator=generator)
            clean, degraded, t, noise = (x.to(config.device) for x in (clean, degraded, t, noise))
            losses = rf.flow_loss(network, clean, degraded, t, noise, flow)
            optimizer.zero_grad()
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(
                unet.parameters(), config.max_grad_norm, error_if_nonfinite=True
            )
            optimizer.step()
            averaged.step(unet.parameters())

            step, seconds = step + 1, time.monotonic() - began
            recent.append(torch.stack([t, losses.detach()]).cpu())
            if step % config.log_every == 0:
                run.log({"step": step, "seconds": round(seconds, 1), "lr": rate} | summary(recent))
                recent.clear()
            if seconds - saved >= 60.0 * config.save_minutes:
                saved = seconds
                save()
            if held_out is not None and seconds - checked >= 60.0 * config.check_minutes:
                checked = seconds
                averaged.copy_to(shown.parameters())
                run.log({"step": step} | check(pipe, held_out, run.path / "preview.png"))
    save()

    averaged.copy_to(shown.parameters())
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "photos": len(photos),
        "steps": step,
        "minutes": round(seconds / 60.0, 1),
        "sigma_data": sigma,
    }
    if held_out is not None:
        facts |= check(pipe, held_out, run.path / "preview.png")
    run.log({"step": step} | facts)
    shown.half()
    pipe.save_pretrained(run.path / "pipeline")
    write_text_atomic(run.path / "pipeline" / "README.md", card(config, facts))
    print(f"weights: {run.path / 'pipeline'}")


if __name__ == "__main__":
    main()
