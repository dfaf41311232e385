"""Training data from reports of ``BestOfN``: inputs, stored candidates and their ratings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restoration_guide.finetune.methods import Batch, RatedCandidates
from restoration_guide.report.folder import RECORD, read_record
from zoomiqa_core.data.photos import read_8_bit
from zoomiqa_core.images.sources import find_images, read_image


class Report(NamedTuple):
    """An input with its candidates and their ratings."""

    input: Path
    candidates: tuple[Path, ...]
    ratings: tuple[float, ...]
    """Lower confidence bound of each candidate's rating, of the whole image."""


class ReportedPhotos:
    """The inputs of reports with their candidates, of which the same crops are taken.

    ``ReportedPhotos("reports", "inputs", min_side=128)``

    Args:
        folder: reports, at any depth, as written by ``restoration-guide best-of-n``.
        inputs: folder of the restored images, which are identified by their file names.
        min_side: size of the largest crop.
        confidence: k of the lower confidence bound, rating − k · std.

    Raises:
        ValueError: no report has two rated candidates, an input is missing or its name ambiguous,
            or an image is smaller than the crop.
    """

    def __init__(
        self, folder: str | Path, inputs: str | Path, *, min_side: int, confidence: float = 0.5
    ) -> None:
        known: dict[str, list[Path]] = {}
        for path in find_images([Path(inputs)]):
            known.setdefault(path.name, []).append(path)
        self.reports: list[Report] = []
        for path in sorted(Path(folder).rglob(RECORD)):
            report = _read(path, known, confidence)
            if report is not None:
                self.reports.append(report)
        if not self.reports:
            raise ValueError(f"{folder}: expected a report with at least two rated candidates")
        self.images: dict[Path, Tensor] = {}
        for report in self.reports:
            size = read_image(report.input).pixels.shape[-2:]
            if min(size) < min_side:
                raise ValueError(
                    f"{report.input.name} is {size[1]} x {size[0]} px, smaller than the crops of "
                    f"{min_side} px; leave it out or choose a smaller crop"
                )

    def __len__(self) -> int:
        return len(self.reports)

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """A random crop of each of these inputs and of its candidates."""
        most = max(len(self.reports[index].candidates) for index in indices)
        inputs, outputs, rewards = [], [], []
        for index in indices:
            report = self.reports[index]
            stack = torch.stack([self._pixels(p) for p in (report.input, *report.candidates)])
            top, left = (
                int(torch.randint(side - size + 1, (), generator=generator))
                for side in stack.shape[-2:]
            )
            stack = stack[..., top : top + size, left : left + size]
            missing = most - len(report.candidates)  # rows are padded to the longest
            inputs.append(stack[0])
            outputs.append(torch.cat([stack[1:], stack[:1].expand(missing, -1, -1, -1)]))
            rewards.append(torch.tensor([*report.ratings, *[math.nan] * missing]))
        candidates = RatedCandidates(torch.stack(outputs), {"reward": torch.stack(rewards)})
        return Batch(torch.stack(inputs), candidates=candidates)

    def _pixels(self, path: Path) -> Tensor:
        if path not in self.images:
            self.images[path] = read_8_bit(path)
        return self.images[path].float() / 255


def _read(path: Path, known: dict[str, list[Path]], confidence: float) -> Report | None:
    record: dict[str, Any] = read_record(path) or {}
    files: dict[str, str] = record.get("files", {}).get("candidates", {})
    rated = [
        (path.parent / files[str(row["index"])], row["rating"] - confidence * row["rating_std"])
        for row in record.get("rows", [])
        if str(row["index"]) in files and row["rating"] is not None
    ]
    if len(rated) < 2:
        return None
    name = record["image"]["name"]
    matches = known.get(name, [])
    if len(matches) != 1:
        raise ValueError(
            f"{path}: expected one image called {name} among the inputs, got {len(matches)}"
        )
    candidates, ratings = zip(*rated, strict=True)
    return Report(matches[0], candidates, ratings)
