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

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, OmegaConf
from rich.progress import Progress
from torch import Tensor
from torchvision.utils import make_grid

from recipes.compose import compose
from restoration_guide.fidelity.full_reference import psnr
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.training import RestorerTraining, RestorerTrainingConfig
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import find_images, save_png, to_batch
from zoomiqa_core.runs.files import write_text_atomic
from zoomiqa_core.runs.folder import RunFolder, warn_of_slow_bf16
from zoomiqa_core.runs.learning_rate import warmup_cosine

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
class Config(RestorerTrainingConfig):
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
    learning_rate: float = 5e-4
    """Peak rate of AdamW."""
    warmup_steps: int = 150
    """Steps of linear warm-up."""
    cosine_from: float = 0.3
    """Share of the budget after which the rate falls as a cosine to 2 % of its peak."""
    threads: int = 1
    """CPU threads; 0 leaves torch's choice."""
    log_every: int = 20
    """Steps per log line."""
    save_minutes: float = 4.0
    """Minutes between checkpoints."""
    check_minutes: float = 10.0
    """Minutes between checks on held-out photos, with a preview picture."""
    check_on: int = 12
    """Held-out photos per check."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give one budget: either steps=N or minutes=M")


def learning_rate(config: Config, step: int, share: float) -> float:
    """Rate of a step, when a share of the budget is spent."""
    progress = (share - config.cosine_from) / (1.0 - config.cosine_from)
    return config.learning_rate * warmup_cosine(
        step, warmup=config.warmup_steps, progress=progress, floor=0.02
    )


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
    torch.manual_seed(config.seed)  # the network's initial weights
    training = RestorerTraining(photos, config, state)
    step, seconds = (state["step"], state["seconds"]) if state else (0, 0.0)

    def save() -> None:
        run.save({**training.state(), "step": step, "seconds": seconds})

    began = time.monotonic() - seconds
    saved = checked = seconds
    recent: list[Tensor] = []
    with Progress(disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("restorer", total=1.0)
        while (share := spent(config, step, seconds)) < 1.0:
            progress.update(bar, completed=share)
            rate = learning_rate(config, step, share)
            recent.append(training.step(step, rate))
            step, seconds = step + 1, time.monotonic() - began
            if step % config.log_every == 0:
                run.log({"step": step, "seconds": round(seconds, 1), "lr": rate} | summary(recent))
                recent.clear()
            if seconds - saved >= 60.0 * config.save_minutes:
                saved = seconds
                save()
            if held_out is not None and seconds - checked >= 60.0 * config.check_minutes:
                checked = seconds
                figures = check(training.pipeline(), held_out, run.path / "preview.png")
                run.log({"step": step} | figures)
    save()

    pipe = training.pipeline()
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in training.unet.parameters()),
        "photos": len(photos),
        "steps": step,
        "minutes": round(seconds / 60.0, 1),
        "sigma_data": training.flow.sigma_data,
    }
    if held_out is not None:
        facts |= check(pipe, held_out, run.path / "preview.png")
    run.log({"step": step} | facts)
    pipe.unet.half()
    pipe.save_pretrained(run.path / "pipeline")
    write_text_atomic(run.path / "pipeline" / "README.md", card(config, facts))
    print(f"weights: {run.path / 'pipeline'}")


if __name__ == "__main__":
    main()
