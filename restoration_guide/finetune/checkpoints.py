"""Checkpoints of a fine-tuning: one folder each, whole or not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

MARKER = "COMPLETE"
"""Written last; a folder without it was broken off and is not read."""


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:06d}"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a step's state (tensors and plain containers); a checkpoint that is there stays."""
    target = checkpoint_folder(folder, step)
    if (target / MARKER).is_file():
        return target
    shutil.rmtree(target, ignore_errors=True)  # of a run that was killed while writing it
    target.mkdir(parents=True)
    torch.save(state, target / "state.pt")
    (target / MARKER).touch()
    return target


def load_checkpoint(folder: Path, step: int) -> dict[str, Any]:
    """The state of a step, on the CPU. Tensors and plain containers only.

    Raises:
        FileNotFoundError: there is no whole checkpoint of this step.
    """
    target = checkpoint_folder(folder, step)
    if not (target / MARKER).is_file():
        raise FileNotFoundError(
            f"no whole checkpoint of step {step} in {folder}; there are {checkpoint_steps(folder)}"
        )
    return torch.load(target / "state.pt", map_location="cpu", weights_only=True)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of all whole checkpoints, in order."""
    return sorted(int(path.parent.name[5:]) for path in folder.glob(f"step-*/{MARKER}"))


def keep_checkpoints(folder: Path, steps: set[int]) -> None:
    """Remove every whole checkpoint but those of these steps."""
    for step in set(checkpoint_steps(folder)) - steps:
        target = checkpoint_folder(folder, step)
        (target / MARKER).unlink()  # first: what is half removed must not be read
        shutil.rmtree(target)
