"""A fine-tuning that is killed at any moment ends with the weights of an unbroken one.

`recipes.finetune_restorer` on the CPU: the bundled restorer and judge, a LoRA with a moving
average, a few steps on miniature photos. SIGKILL ends each run at a random moment of the unbroken
run's time (also while it loads, checks, writes a checkpoint or exports). Started again, its adapter
and merged network must equal the unbroken run's bit by bit, and its log and checks apart from their
timing. Runs are forked from a process that has the libraries loaded, so they begin at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from zoomiqa_core.images.sources import save_png

STEPS = 6
SETTINGS = (
    "crop=64",
    "threads=1",
    "rollout.steps=2",
    "reward.views.count=1",
    "reward.weights={restoration: 1.0, rating: 1.0, low_pass: 0.5, truth: 1.0}",
    "loop={batch_size: 1, learning_rate: 1.0e-3, ema_decay: 0.9, cpu: true}",
    "lora={rank: 2, alpha: 4}",
    "monitor={every: 3, images: 2, side: 64, stop: false}",
)
"""Checks and checkpoints every three steps, so that most kills fall between two of them."""


def write_photos(folder: Path, count: int = 4) -> Path:
    """Smooth random photos of 72 x 80 px."""
    for number in range(count):
        coarse = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(number))
        photo = functional.interpolate(coarse, (72, 80), mode="bicubic").clamp(0, 1)
        save_png(photo, folder / f"{number}.png")
    return folder


def log_file(out: Path) -> Path:
    """Beside the run's folder, which is the run's own."""
    return out.parent / f"{out.name}.log"


def fine_tune(photos: Path, out: Path, steps: int) -> None:
    """Body of a trial's process: the recipe, its words into ``out.log``."""
    with log_file(out).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        from recipes.finetune_restorer import main as recipe

        recipe([f"photos={photos}", f"out={out}", *SETTINGS, f"loop.steps={steps}"])


def start(photos: Path, out: Path, steps: int) -> Any:
    """A process that fine-tunes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recipes.finetune_restorer"])
    process = context.Process(target=fine_tune, args=(photos, out, steps))
    process.start()
    return process


def finish(process: Any, out: Path) -> None:
    """Wait for a run to end well."""
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the run failed:\n{log_file(out).read_text()[-3000:]}")


def result(out: Path) -> dict[str, Any]:
    """What must be the same: bytes of the weights, log and checks without their timing."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    weights = {
        f"{path.parent.name}/{name}": weight.numpy().tobytes()
        for path in (
            out / "adapter" / "adapter_model.safetensors",
            out / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors",
        )
        for name, weight in load_file(path).items()
    }
    return {
        "weights": weights,
        "log": [{k: v for k, v in x.items() if not k.endswith("seconds")} for x in lines],
        "checks": (out / "checks.json").read_text(encoding="utf-8"),
    }


def end_of_killed_run(photos: Path, out: Path, moment: float) -> dict[str, Any]:
    """Kill a run ``moment`` seconds after its start, start it again, and see how it ends."""
    process = start(photos, out, STEPS)
    process.join(moment)
    process.kill()  # SIGKILL
    process.join()
    finish(start(photos, out, STEPS), out)
    return result(out)


@pytest.mark.slow
def test_killed_trainings_end_like_the_unbroken_one(tmp_path: Path) -> None:
    """20 kills (``ZOOMIQA_TEST_KILLS=20``) all ended with the same weights, bit for bit."""
    photos = write_photos(tmp_path / "photos")
    finish(start(photos, tmp_path / "warm-up", 1), tmp_path / "warm-up")  # the libraries load
    began = time.perf_counter()
    finish(start(photos, tmp_path / "unbroken", STEPS), tmp_path / "unbroken")
    seconds = time.perf_counter() - began
    expected, chance = result(tmp_path / "unbroken"), random.Random(1)
    for number in range(int(os.environ.get("ZOOMIQA_TEST_KILLS", "2"))):
        moment = chance.uniform(0, seconds)
        out = tmp_path / f"killed-{number}"
        assert end_of_killed_run(photos, out, moment) == expected, f"killed after {moment:.2f} s"
