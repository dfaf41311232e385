"""A transformers trainer inside a run folder: its settings, log, progress, checkpoints, result."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training.policy import save_judge
from zoomiqa_core.zoom_iqa.prompts import Prompts


@dataclass(frozen=True)
class LoopSettings:
    """What every training through transformers' trainer needs."""

    steps: int = 1000
    """Optimiser steps."""
    seconds: float | None = None
    """Time after which training ends, with the rate's schedule run to its end by then; None sets
    no limit. Such a run is not repeatable to the bit."""
    batch_size: int = 1
    """Sequences a process in one forward pass."""
    learning_rate: float = 1e-4
    """Peak rate of AdamW."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """Of the learning rate, in transformers' names."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    bf16: bool = False
    """bf16 autocast."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, for memory."""
    cpu: bool = False
    """Train on the CPU even where there is an accelerator."""
    workers: int = 0
    """Processes that read images."""
    seed: int = 0
    log_every: int = 10
    """Steps a line of ``log.jsonl``."""
    save_every: int = 100
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept; 0 keeps all."""
    report_to: list[str] = field(default_factory=list)
    """Trackers, in accelerate's names, e.g. ``[tensorboard]``."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.log_every, self.save_every)
        if min(counts) < 1 or self.keep < 0:
            raise ValueError(
                "expected steps, batch_size, log_every and save_every ≥ 1 and keep ≥ 0, got "
                f"{counts} and {self.keep}"
            )


def trainer_arguments(loop: LoopSettings, run: RunFolder) -> dict[str, Any]:
    """The settings in ``TrainingArguments``' names."""
    return {
        "output_dir": str(run.path / "checkpoints"),
        "max_steps": loop.steps,
        "per_device_train_batch_size": loop.batch_size,
        "learning_rate": loop.learning_rate,
        "warmup_steps": loop.warmup_steps,
        "lr_scheduler_type": loop.schedule,
        "weight_decay": loop.weight_decay,
        "max_grad_norm": loop.max_grad_norm,
        "bf16": loop.bf16,
        "gradient_checkpointing": loop.gradient_checkpointing,
        "use_cpu": loop.cpu,
        "dataloader_num_workers": loop.workers,
        "seed": loop.seed,
        "logging_steps": loop.log_every,
        "save_strategy": "steps",
        "save_steps": loop.save_every,
        "save_total_limit": loop.keep or None,
        "report_to": list(loop.report_to) or "none",
        "disable_tqdm": True,
    }


def train_to_judge(
    trainer: Any, run: RunFolder, prompts: Prompts, *, seconds: float | None = None
) -> Path:
    """Train from the last checkpoint, if there is one, and save ``judge/`` in the run folder.

    Args:
        trainer: a transformers trainer with a processor.
        run: its folder.
        prompts: the texts the model is trained on.
        seconds: time limit, see :class:`LoopSettings`.
    """
    trainer.add_callback(_run_callback(run))
    if seconds is not None:
        trainer.add_callback(_time_limit(seconds))
    _load_checkpoints_whole(trainer)
    checkpoint = last_checkpoint(run.path / "checkpoints")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    folder = run.path / "judge"
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        save_judge(model, trainer.processing_class, prompts, folder)
        print(f"judge: {folder}")
    trainer.accelerator.wait_for_everyone()
    return folder


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint: its state is written last, so one without it was broken off."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _load_checkpoints_whole(trainer: Any) -> None:
    """Make the trainer resume from the weights of its checkpoint.

    ``save_pretrained`` of Qwen2.5-VL writes its weights under the names of older versions, and
    transformers' trainer (5.24) reads the file as it is: no name matches, it warns and trains on
    from the weights it was given. Adapters have no such names.
    """
    from peft import PeftModel

    load = trainer._load_from_checkpoint

    def load_whole(folder: str, model: Any = None) -> None:
        if model is not None or isinstance(trainer.model, PeftModel):
            load(folder, model)
            return
        kept = type(trainer.model).from_pretrained(folder, dtype=trainer.model.dtype)
        trainer.model.load_state_dict(kept.state_dict())

    trainer._load_from_checkpoint = load_whole


def _time_limit(seconds: float) -> Any:
    """Ends a training in time; its rate falls with the steps or with the time, what is sooner."""
    from transformers import TrainerCallback

    class TimeLimit(TrainerCallback):
        begun = 0.0

        def share(self) -> float:
            return (time.monotonic() - self.begun) / seconds

        def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
            self.begun = time.monotonic()
            schedule: Any = getattr(lr_scheduler, "scheduler", lr_scheduler)
            first = state.global_step

            def hurried(shape: Any) -> Any:
                left = state.max_steps - first
                return lambda step: shape(max(step, first + min(1.0, self.share()) * left))

            schedule.lr_lambdas = [hurried(shape) for shape in schedule.lr_lambdas]

        def on_step_end(self, args, state, control, **kwargs):
            if self.share() >= 1:
                control.should_training_stop = True

    return TimeLimit()


def _run_callback(run: RunFolder) -> Any:
    """Writes ``log.jsonl`` and shows the progress, on the main process."""
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
