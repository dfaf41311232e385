"""Train the alarm: a second judge, from scratch, on full-reference similarity alone.

    python -m recipes.train_alarm --config recipes/configs/train_alarm/default.yaml \
        photos=PHOTOS held_out=VALIDATION restored=SETS out=runs/alarm

``photos`` is a folder of clean photographs, ``held_out`` another one to validate on, ``restored``
the folder ``sets`` of :mod:`recipes.build_restored_sets` made of ``photos``. No rating of the proxy
and no gradient of it is used, so that what fools the proxy need not fool the alarm. The run resumes
from its folder; the result is ``out/weights``. Batches: :mod:`zoomiqa_core.alarm.batches`.
"""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from omegaconf import MISSING
from rich.progress import Progress
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recipes.compose import compose
from zoomiqa_core.alarm.batches import Families, FamilyPlan, draw_families
from zoomiqa_core.alarm.losses import difference_loss, level_loss
from zoomiqa_core.alarm.model import Alarm
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images import find_images
from zoomiqa_core.metrics import srcc
from zoomiqa_core.proxy.losses import error_loss
from zoomiqa_core.training.run import RunFolder


@dataclass(frozen=True)
class Config:
    """Settings of one training of the alarm."""

    photos: str = MISSING
    """Folder of clean photographs, sides ≥ ``batch.crop``."""
    held_out: str = MISSING
    """Folder of other clean photographs."""
    restored: str = MISSING
    """Folder of restored sets."""
    start: str | None = None
    """Folder of an alarm to train on; None begins with random weights."""
    out: str = "runs/alarm"
    """Run folder."""
    steps: int = 2000
    """Optimisation steps."""
    batch: FamilyPlan = field(default_factory=FamilyPlan)
    """Families a step."""
    lr: float = 7e-4
    """Peak learning rate."""
    weight_decay: float = 0.02
    level_weight: float = 0.25
    """Of the rating itself, beside its differences within a family."""
    ema: float = 0.99
    """Decay of the averaged weights that are evaluated and shipped."""
    bf16: bool = False
    """Run the network in bfloat16."""
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    seed: int = 0
    save_every: int = 50
    """Steps between checkpoints."""
    validate_every: int = 200
    """Steps between validations."""
    validate_on: int = 24
    """Held-out families."""


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: 50 steps of warm-up, a cosine to zero."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def validate(alarm: Alarm, families: Families, device: str) -> dict[str, float]:
    """Within families: mean SRCC with the reference rating, and RMS error of the differences."""
    found = torch.cat([alarm(part.to(device)).rating for part in families.images.split(32)])
    rows = found.cpu().view(-1, families.size), families.rating.view(-1, families.size)
    order = [srcc(a.tolist(), b.tolist()) for a, b in zip(*rows, strict=True)]
    error = (rows[0] - rows[0].mean(1, keepdim=True)) - (rows[1] - rows[1].mean(1, keepdim=True))
    return {"family_srcc": float(np.mean(order)), "family_rmse": float(error.square().mean() ** 0.5)}


def main(arguments: list[str] | None = None) -> None:
    """Train, validate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    plan = config.batch
    photos = PhotoPool(find_images([config.photos]), min_side=plan.crop)
    restored = PhotoPool(find_images([config.restored]), min_side=plan.crop)
    unseen = PhotoPool(find_images([config.held_out]), min_side=plan.crop)
    held_out = draw_families(
        restored,  # not drawn from: sets of held-out photos are not to be had
        unseen,
        FamilyPlan(0, config.validate_on, plan.size, plan.crop),
        generator=torch.Generator().manual_seed(config.seed),
    )

    torch.manual_seed(config.seed)  # the initial weights
    alarm = Alarm() if config.start is None else Alarm.from_pretrained(config.start)
    alarm = alarm.to(config.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(alarm.parameters(), lr=0.0, weight_decay=config.weight_decay)
    averaged = AveragedModel(
        alarm, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
    )
    shipped = cast(Alarm, averaged.module).eval()
    kind = torch.device(config.device).type  # "cuda" of "cuda:1"
    start = 0
    if state := run.load():
        alarm.load_state_dict(state["alarm"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    def draw(step: int) -> Families:
        # a generator per step: a resumed run sees the batches of an unbroken one
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        return draw_families(restored, photos, plan, generator=generator)

    with (
        Progress(disable=not sys.stderr.isatty()) as progress,
        ThreadPoolExecutor(1) as ahead,  # draws the next batch while this one is learned
    ):
        bar = progress.add_task("alarm", total=config.steps, completed=start)
        upcoming = ahead.submit(draw, start)
        for step in range(start, config.steps):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(step, config.steps)
            families = upcoming.result()
            upcoming = ahead.submit(draw, step + 1)

            target = families.rating.to(config.device)
            images = families.images.to(config.device, memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
                out = alarm(images)
            terms = {
                "difference": difference_loss(out.rating, target, families.size),
                "level": level_loss(out.rating, target),
                "error": error_loss(out.rating, out.rating_std, target),
            }
            (terms["difference"] + config.level_weight * terms["level"] + terms["error"]).backward()
            torch.nn.utils.clip_grad_norm_(alarm.parameters(), 5.0, error_if_nonfinite=True)
            optimizer.step()
            averaged.update_parameters(alarm)

            done = step + 1
            record: dict[str, float] = {"step": done}
            record |= {name: round(term.item(), 5) for name, term in terms.items()}
            record["seconds"] = round(time.perf_counter() - began, 3)
            if done % config.validate_every == 0 or done == config.steps:
                record |= validate(shipped, held_out, config.device)
            run.log(record)
            if done % config.save_every == 0 or done == config.steps:
                run.save(
                    {
                        "alarm": alarm.state_dict(),
                        "averaged": averaged.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": done,
                    }
                )
            progress.advance(bar)
    shipped.half().save_pretrained(run.path / "weights")  # loaded into fp32 modules
    print(f"weights: {run.path / 'weights'}")


if __name__ == "__main__":
    main()
