"""A transformers trainer inside a run folder: settings, log, progress, checkpoints and result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training.policy import gathered_model, is_sharded, save_judge
from zoomiqa_core.zoom_iqa.prompts import Prompts


@dataclass(frozen=True)
class LoopSettings:
    """Settings of a training loop that runs on transformers' trainer.

    >>> LoopSettings(steps=200, batch_size=4, seconds=3600.0).save_every
    100
    """

    steps: int = 1000
    """Optimiser steps."""
    seconds: float | None = None
    """Time after which training ends; the learning-rate schedule is compressed to end by then. None
    sets no limit. A run with a limit cannot be repeated to the bit."""
    batch_size: int = 1
    """Sequences per process in one forward pass."""
    learning_rate: float = 1e-4
    """Peak rate of AdamW; it follows a cosine to zero."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    bf16: bool = False
    """bf16 autocast."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    cpu: bool = False
    """Train on the CPU even if there is an accelerator."""
    workers: int = 0
    """Data-loading processes."""
    seed: int = 0
    log_every: int = 10
    """Steps between lines of ``log.jsonl``."""
    save_every: int = 100
    """Steps between checkpoints."""
    save_total_limit: int = 2
    """Number of newest checkpoints that are kept; 0 keeps all."""
    report_to: list[str] = field(default_factory=list)
    """Experiment trackers, by accelerate's names, e.g. ``[tensorboard]``."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.log_every, self.save_every)
        if min(counts) < 1 or self.save_total_limit < 0:
            raise ValueError(
                "expected steps, batch_size, log_every and save_every ≥ 1 and save_total_limit "
                f"≥ 0, got {counts} and {self.save_total_limit}"
            )


def trainer_arguments(loop: LoopSettings, run: RunFolder) -> dict[str, Any]:
    """The settings as keyword arguments of ``TrainingArguments``."""
    return {
        "output_dir": str(run.path / "checkpoints"),
        "max_steps": loop.steps,
        "per_device_train_batch_size": loop.batch_size,
        "learning_rate": loop.learning_rate,
        "warmup_steps": loop.warmup_steps,
        "lr_scheduler_type": "cosine",
        "bf16": loop.bf16,
        "gradient_checkpointing": loop.gradient_checkpointing,
        "use_cpu": loop.cpu,
        "dataloader_num_workers": loop.workers,
        "seed": loop.seed,
        "logging_steps": loop.log_every,
        "save_strategy": "steps",
        "save_steps": loop.save_every,
        "save_total_limit": loop.save_total_limit or None,
        "report_to": list(loop.report_to) or "none",
        "disable_tqdm": True,
    }


def train_to_judge(
    trainer: Any, run: RunFolder, prompts: Prompts, *, seconds: float | None = None
) -> Path:
    """Train from the last checkpoint, if there is one, and save ``judge/`` in the run folder.

    ``log.jsonl`` is cut back to the checkpoint first, so every step is logged once. Weights that
    are sharded over processes (FSDP, ZeRO-3) are gathered for the judge.

    Args:
        trainer: a transformers trainer with a processor.
        run: its folder.
        prompts: texts the model is trained on.
        seconds: time limit, see :class:`LoopSettings`.
    """
    trainer.add_callback(_run_callback(run))
    if seconds is not None:
        trainer.add_callback(time_limit(seconds))
    if not is_sharded(trainer.accelerator):
        _load_checkpoints_by_name(trainer)
    checkpoint = last_checkpoint(run.path / "checkpoints")
    if trainer.accelerator.is_main_process:
        run.rewind(_step_of(checkpoint) if checkpoint else 0)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    folder = run.path / "judge"
    trainer.accelerator.wait_for_everyone()
    model = gathered_model(trainer.accelerator, trainer.model, run.path / "trained")
    if trainer.accelerator.is_main_process:
        save_judge(model, trainer.processing_class, prompts, folder)
        print(f"judge: {folder}")
    trainer.accelerator.wait_for_everyone()
    return folder


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint: its state is written last, so it exists only if all does."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _load_checkpoints_by_name(trainer: Any) -> None:
    """Make the trainer resume from the weights of its checkpoint.

    ``save_pretrained`` of Qwen2.5-VL writes its weights under the names of older versions, and
    transformers' trainer (5.24) reads the file without renaming: no name matches, it warns and
    continues from the weights it was given. Adapters have no such names.
    """
    from peft import PeftModel

    load = trainer._load_from_checkpoint

    def load_by_name(folder: str, model: Any = None) -> None:
        if model is not None or isinstance(trainer.model, PeftModel):
            load(folder, model)
            return
        saved = type(trainer.model).from_pretrained(folder, dtype=trainer.model.dtype)
        trainer.model.load_state_dict(saved.state_dict())

    trainer._load_from_checkpoint = load_by_name


def time_limit(seconds: float, clock: Callable[[], float] = time.monotonic) -> Any:
    """A trainer callback that ends training after ``seconds`` on the clock of the main process.

    The learning rate follows the steps or the time, whichever is ahead. The main process reads its
    clock once a step and broadcasts the share of the time that has passed, so that all processes
    train with the same rate and stop at the same step.
    """
    from accelerate.utils import broadcast_object_list
    from transformers import TrainerCallback

    class TimeLimit(TrainerCallback):
        begun = 0.0
        share = 0.0

        def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
            self.begun, self.share = clock(), 0.0
            scheduler: Any = getattr(lr_scheduler, "scheduler", lr_scheduler)
            first = state.global_step

            def compressed(schedule: Callable[[float], float]) -> Callable[[int], float]:
                left = state.max_steps - first
                return lambda step: schedule(max(step, first + self.share * left))

            scheduler.lr_lambdas = [compressed(schedule) for schedule in scheduler.lr_lambdas]

        def on_optimizer_step(self, args, state, control, **kwargs):
            share = [min(1.0, (clock() - self.begun) / seconds)]
            self.share = broadcast_object_list(share)[0]

        def on_step_end(self, args, state, control, **kwargs):
            if self.share >= 1:
                control.should_training_stop = True

    return TimeLimit()


def _run_callback(run: RunFolder) -> Any:
    """A trainer callback that writes ``log.jsonl`` and shows progress, on the main process."""
    from rich.progress import Progress
    from transformers import TrainerCallback

    class RunCallback(TrainerCallback):
        def __init__(self) -> None:
            self.progress = Progress(disable=not sys.stderr.isatty())
            self.bar = self.progress.add_task("training", total=1)

        def on_train_begin(self, args, state, control, **kwargs):
            if state.is_world_process_zero:
                self.progress.start()
                self.progress.update(self.bar, total=state.max_steps, completed=state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            self.progress.update(self.bar, completed=state.global_step)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.is_world_process_zero:
                run.log({"step": state.global_step, **(logs or {})})

        def on_train_end(self, args, state, control, **kwargs):
            self.progress.stop()

    return RunCallback()
