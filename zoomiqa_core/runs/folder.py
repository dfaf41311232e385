"""A training run's folder: resolved config, versions, JSONL log, atomic checkpoints."""

from __future__ import annotations

import json
import platform
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from zoomiqa_core.runs.files import atomic_path, write_text_atomic

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "timm",
    "kornia",
    "pillow",
)


def versions() -> dict[str, str]:
    """Versions of Python, the processor's architecture and the libraries that shape a result."""
    installed = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def check_same_run(path: Path, config: str) -> None:
    """Check that a folder holds no run of another configuration.

    Raises:
        ValueError: the folder holds a run of another configuration.
    """
    saved = path / "config.yaml"
    if saved.is_file() and saved.read_text(encoding="utf-8") != config:
        raise ValueError(
            f"{path} holds a run of another configuration (see its config.yaml); "
            "give the same configuration to resume it, or another `out` folder"
        )


def warn_of_slow_bf16(bf16: bool, device: str) -> None:
    """Warn when bf16 is requested on a processor without bf16 arithmetic.

    PyTorch then emulates it, which takes many times as long as fp32 (with AVX2 alone, for example).
    """
    if bf16 and torch.device(device).type == "cpu" and not _cpu_has_bf16():
        warnings.warn(
            "bf16 autocast on a processor without bf16 arithmetic takes many times as long as "
            "fp32: switch it off",
            stacklevel=2,
        )


def _cpu_has_bf16() -> bool:
    # the operator exists only where PyTorch was built with mkldnn
    known = torch.backends.mkldnn.is_available()
    return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class RunFolder:
    """The folder of one training: ``config.yaml``, ``log.jsonl``, ``checkpoint.pt``.

    Args:
        path: folder, made when missing.
        config: resolved configuration as YAML text; saved, and compared on resume.

    Raises:
        ValueError: the folder holds a run of another configuration.

    >>> run = RunFolder("run", "seed: 0")
    >>> run.log({"step": 1, "loss": 0.5})
    >>> run.records()
    [{'step': 1, 'loss': 0.5}]
    >>> run.save({"step": 1})
    >>> run.load()
    {'step': 1}
    """

    def __init__(self, path: str | Path, config: str) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        check_same_run(self.path, config)
        write_text_atomic(self.path / "config.yaml", config)
        write_text_atomic(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``log.jsonl``, flushed at once."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """Records of ``log.jsonl``; a last line that a kill cut short is left out."""
        path = self.path / "log.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop records after a step from ``log.jsonl``; a run that resumes writes them again.

        Returns:
            The remaining records.
        """
        stay = [record for record in self.records() if record["step"] <= step]
        lines = "".join(json.dumps(record) + "\n" for record in stay)
        write_text_atomic(self.path / "log.jsonl", lines)
        return stay

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a kill leaves the old or the new one whole."""
        with atomic_path(self.path / "checkpoint.pt") as partial:
            torch.save(state, partial)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None before the first. Tensors and plain containers only."""
        path = self.path / "checkpoint.pt"
        if not path.is_file():
            return None
        return torch.load(path, map_location="cpu", weights_only=True)
