"""A fine-tuning with its folder: resume, train, check, stop, and export the kept weights."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from rich.progress import Progress
from torchvision.utils import make_grid

from restoration_guide.finetune.card import model_card, verdict
from restoration_guide.finetune.checkpoints import (
    checkpoint_steps,
    keep_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from restoration_guide.finetune.checks import Check
from restoration_guide.finetune.loop import Loop
from restoration_guide.finetune.monitor import Monitor
from restoration_guide.finetune.pictures import draw_before_after, draw_curves
from restoration_guide.finetune.samplers import Sampler
from zoomiqa_core.images.sources import read_image, save_png
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import RunFolder

PREVIEWS = 6
"""Held-out images in the picture of a check."""


class TuningRun:
    """Trains in a folder, which a later run with the same configuration resumes.

    Args:
        run: the folder.
        loop: trains; on every process.
        monitor: checks; on the main process.

    Raises:
        ValueError: no image of a new run has a finite reward.
    """

    def __init__(self, run: RunFolder, loop: Loop, monitor: Monitor) -> None:
        self.run, self.loop, self.monitor = run, loop, monitor
        self.accelerator = loop.accelerator
        self.checkpoints = run.path / "checkpoints"
        self.checks: list[Check] = []
        self.spent = {"seconds": 0.0, "cpu_seconds": 0.0}
        """By earlier runs in the same folder."""
        steps = checkpoint_steps(self.checkpoints)
        if steps:
            self._resume(steps[-1])
            return
        rewards = loop.calibrate()["reward"]
        if not torch.isfinite(rewards).any():
            raise ValueError(
                f"none of {len(rewards)} images has a finite reward: does the judge answer?"
            )
        self._check()

    def _resume(self, step: int) -> None:
        state = load_checkpoint(self.checkpoints, step)
        self.loop.load(state["loop"])
        self.checks = [Check(**check) for check in state["checks"]]
        if self.accelerator.is_main_process:
            for record in self.run.rewind(step)[-1:]:
                self.spent = {name: record[name] for name in self.spent}

    @property
    def stopped(self) -> bool:
        """Whether the last check ends the run."""
        return self.checks[-1].hacked and self.monitor.config.stop

    @property
    def kept(self) -> int:
        """Step whose weights are kept: the last honest check, or the last step without a stop."""
        return last_honest(self.checks) if self.monitor.config.stop else self.loop.step

    def train(self) -> None:
        """Take all steps, with a check at every interval, unless a check stops the run."""
        loop, config, main = self.loop, self.loop.config, self.accelerator.is_main_process
        began, cpu = time.perf_counter(), time.process_time()
        with Progress(disable=not (sys.stderr.isatty() and main)) as progress:
            bar = progress.add_task("fine-tuning", total=config.steps, completed=loop.step)
            while loop.step < config.steps and not self.stopped:
                record = loop.take_step()
                seconds = self.spent["seconds"] + time.perf_counter() - began
                cpu_seconds = self.spent["cpu_seconds"] + time.process_time() - cpu
                record |= {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}
                if main:
                    self.run.log(record)
                numbers = {name: value for name, value in record.items() if value is not None}
                self.accelerator.log(numbers, step=loop.step)
                if loop.step % self.monitor.config.every == 0 or loop.step == config.steps:
                    self._check()
                progress.update(bar, completed=loop.step)

    def export(self, sampler: Sampler, config: str, base: str) -> None:
        """Go back to the weights that are kept; write pictures, adapter, pipeline and card.

        Args:
            sampler: writes the pipeline.
            config: the configuration as YAML, without the user's folders, for the card.
            base: the restorer that was tuned, as in :func:`.card.model_card`.
        """
        loop, monitor, path, kept = self.loop, self.monitor, self.run.path, self.kept
        skipped_steps = loop.skipped_steps  # of the whole run, not up to the step that is kept
        loop.load(load_checkpoint(self.checkpoints, kept)["loop"])
        loop.tuned.load(dict(zip(loop.tuned.names, loop.export_weights(), strict=True)))
        draw_curves(self.run.records(), self.checks, kept, path / "curves.png")
        with torch.no_grad():
            after = monitor.restored()
        figures = (monitor.start, monitor.measure(after))
        draw_before_after(
            monitor.batch, monitor.untuned, after, *figures, path / "before_after.png"
        )
        for name in ("curves", "before_after"):
            self._track_picture(name, path / f"{name}.png")
        text = model_card(
            self.checks,
            kept,
            sampler.save(loop.tuned, path / "pipeline"),
            config,
            images=monitor.config.images,
            skipped_steps=skipped_steps,
            base=base,
        )
        write_text_atomic(path / "pipeline" / "README.md", text)
        if loop.tuned.peft is not None:
            loop.tuned.save_adapter(path / "adapter")
            write_text_atomic(path / "adapter" / "README.md", text)
        print(f"{verdict(self.checks, kept)}\nweights: {path / 'pipeline'}")

    def _check(self) -> None:
        """Check the held-out images and write a checkpoint."""
        check: list[Any] = [None]
        main, step, monitor = self.accelerator.is_main_process, self.loop.step, self.monitor
        if main:
            with self.loop.use_export_weights():
                check = [monitor.check(step)]
        self.checks.extend(broadcast_object_list(check))  # all processes act on one verdict
        if not main:
            return
        checks = [check.to_dict() for check in self.checks]
        write_text_atomic(self.run.path / "checks.json", to_json(checks))
        rows = [monitor.degraded, monitor.untuned, monitor.images]
        rows += [] if monitor.batch.truth is None else [monitor.batch.truth]
        grid = torch.cat([row[:PREVIEWS].cpu() for row in rows]).nan_to_num().clamp(0, 1)
        picture = make_grid(grid, nrow=min(PREVIEWS, len(monitor.images)))
        path = save_png(picture, self.run.path / "previews" / f"step-{step:06d}.png")
        print(f"step {step}: {self.checks[-1].reason}")
        self._track(self.checks[-1])
        self._track_picture("previews", path)
        state = {"loop": self.loop.state(), "checks": checks}
        save_checkpoint(self.checkpoints, step, state)
        keep_checkpoints(self.checkpoints, {step, last_honest(self.checks)})

    def _track(self, check: Check) -> None:
        """A check's figures for the experiment trackers."""
        numbers = {
            **{f"check/{name}": value for name, value in check.means.items()},
            **{f"check/change/{name}": value for name, value in check.changes.items()},
            "check/gain": check.gain,
            "check/honest": float(check.honest),
            "check/hacked": float(check.hacked),
        }
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self.accelerator.log(finite, step=check.step)

    def _track_picture(self, name: str, path: Path) -> None:
        """A picture for the trackers that take some: TensorBoard and Weights & Biases."""
        for tracker in self.accelerator.trackers:
            pixels = read_image(path).pixels.permute(1, 2, 0)
            image = (pixels * 255).round().byte().numpy()
            if tracker.name == "tensorboard":
                options = {"dataformats": "NHWC"}
                tracker.log_images({name: image[None]}, step=self.loop.step, **options)
            elif hasattr(tracker, "log_images") and tracker.name != "aim":
                tracker.log_images({name: [image]}, step=self.loop.step)


def last_honest(checks: list[Check]) -> int:
    """Step of the last check without evidence against it; the start is honest."""
    return max((check.step for check in checks if check.honest), default=0)


def without(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Settings without those of the given names, at any depth.

    >>> without({"crop": 96, "photos": "here", "pipeline": {"controlnet": "there"}},
    ...         ("photos", "controlnet"))
    {'crop': 96, 'pipeline': {}}
    """
    return {
        name: without(value, names) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in names
    }
