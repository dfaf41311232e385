"""Does a fine-tuning that is killed at any moment end with the weights of an unbroken one?

    python -m benchmarks.check_finetune_resume --kills 20 --seed 0

Runs ``recipes.finetune_restorer`` on the CPU: the bundled restorer and judge, a LoRA with a moving
average, a few steps on miniature photos. Each trial is a fresh run that SIGKILL ends at a random
moment, drawn evenly over the time of the unbroken run (also while it loads, looks, writes a
checkpoint or exports), and that is then started again. Its adapter and its merged network must be
equal to the unbroken run's bit by bit, and its log and its checks without their timing too. Exits
with 1 when they are not.

Trials are forked from a process that has the libraries loaded, so that they begin at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch.nn import functional

from benchmarks import killed_runs
from zoomiqa_core.images.sources import save_png

STEPS = 12
SETTINGS = (
    "crop=64",
    "threads=1",
    "rollout.steps=2",
    "reward.views.count=1",
    "reward.weights={rating: 1.0, low_pass: 0.5, truth: 1.0}",
    "loop={batch_size: 1, learning_rate: 1.0e-3, average: 0.9, cpu: true}",
    "lora={rank: 2, alpha: 4}",
    "monitor={every: 3, images: 2, side: 64, stop: false}",
)
"""Checks and checkpoints every three steps, so that most kills fall between two of them."""


class Trial(NamedTuple):
    """One kill and what came of it."""

    moment: float
    """Seconds after the start."""
    step: int | None
    """Of the last whole checkpoint when it was killed; None before the first."""
    logged: int
    """Steps in the log when it was killed."""
    torn: int
    """Checkpoints begun but not whole."""
    ended: bool
    """Whether the run had ended by itself before the kill."""
    same: bool
    """Whether the resumed run ended like the unbroken one."""


def write_photos(folder: Path, count: int = 4) -> Path:
    """Smooth random photos of 72 x 80 px."""
    for number in range(count):
        coarse = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(number))
        photo = functional.interpolate(coarse, (72, 80), mode="bicubic").clamp(0, 1)
        save_png(photo, folder / f"{number}.png")
    return folder


def fine_tune(photos: Path, out: Path, steps: int) -> None:
    """Body of a trial's process: the recipe, its words into ``out.log``."""
    with killed_runs.log_file(out).open("a") as log:
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
        raise killed_runs.failed(out)


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


def trial(photos: Path, out: Path, steps: int, expected: dict[str, Any], moment: float) -> Trial:
    """Kill a run ``moment`` seconds after its start, and start it again."""
    process = start(photos, out, steps)
    process.join(moment)
    ended = process.exitcode is not None
    process.kill()  # SIGKILL
    process.join()
    folders = list((out / "checkpoints").glob("step-*"))
    whole = [int(folder.name[5:]) for folder in folders if (folder / "COMPLETE").is_file()]
    log = out / "log.jsonl"
    logged = len(log.read_text().splitlines()) if log.is_file() else 0
    finish(start(photos, out, steps), out)
    same = result(out) == expected
    torn = len(folders) - len(whole)
    return Trial(moment, max(whole, default=None), logged, torn, ended, same)


def check(folder: Path, kills: int, seed: int, steps: int = STEPS) -> list[Trial]:
    """Run all trials in ``folder`` and print a line for each."""
    photos = write_photos(folder / "photos")
    finish(start(photos, folder / "warm-up", 1), folder / "warm-up")  # the libraries load
    began = time.perf_counter()
    finish(start(photos, folder / "unbroken", steps), folder / "unbroken")
    seconds = time.perf_counter() - began
    expected = result(folder / "unbroken")
    print(f"unbroken: {steps} steps, {len(expected['weights'])} tensors, {seconds:.1f} s")
    chance = random.Random(seed)
    trials = []
    for number in range(1, kills + 1):
        moment = chance.uniform(0, seconds)
        made = trial(photos, folder / f"killed-{number:02d}", steps, expected, moment)
        trials.append(made)
        where = "before any checkpoint" if made.step is None else f"checkpoint {made.step:2d}"
        print(
            f"kill {number:2d} after {made.moment:5.2f} s: {where}, {made.logged:2d} steps logged, "
            f"{made.torn} torn{', had ended' if made.ended else ''}: "
            f"{'the same weights, log and checks' if made.same else 'ANOTHER RESULT'}",
            flush=True,
        )
    return trials


def main() -> None:
    """Check, and say how many ended alike."""
    killed_runs.main(__doc__, lambda *given: [made.same for made in check(*given)])


if __name__ == "__main__":
    main()
