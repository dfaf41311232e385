"""Plots of a fine-tuning run: training curves, and images before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from restoration_guide.finetune.checks import EVIDENCE, IN_SAMPLE, Check
from restoration_guide.finetune.methods import Batch
from zoomiqa_core.runs.files import atomic_path

INK, GOOD, BAD = "#16181d", "#2a7d4f", "#b3261e"


def draw_curves(
    records: Sequence[dict[str, Any]], checks: Sequence[Check], kept: int, path: Path
) -> None:
    """Plot every reward term and its share of the gradient over the steps, figures over the checks.

    Args:
        records: lines of the log with ``step`` and the terms' means.
        checks: of the monitor, the first at step 0.
        kept: step whose weights are kept; marked.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    names = list(records[0]) if records else []
    training = [name for name in names if name.startswith("reward/")]
    shares = [name for name in names if name.startswith("share/")]
    held_out = list(checks[0].means) if checks else []
    count = len(training) + len(held_out) + bool(shares)
    columns = 4
    rows = -(-count // columns) or 1
    figure = Figure(figsize=(3.2 * columns, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.set_axis_off()
    if shares:
        panel = panels[count - 1]
        for name in shares:
            points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
            panel.plot(*zip(*points, strict=True), label=name[6:]) if points else None
        panel.set_title("training: shares of the gradient", fontsize=9)
        panel.legend(fontsize=6)
    for panel, name in zip(panels, training, strict=False):
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        panel.plot(*zip(*points, strict=True), color=INK, linewidth=1) if points else None
        scaled = " (rescaled each step)" if name == "reward/reward" else ""
        panel.set_title(f"training: {name.removeprefix('reward/')}{scaled}", fontsize=9)
    for panel, name in zip(panels[len(training) :], held_out, strict=False):
        better = EVIDENCE[name].better if name in EVIDENCE else int(name.startswith(IN_SAMPLE))
        panel.plot([c.step for c in checks], [c.means[name] for c in checks], color=INK)
        for check in checks:
            colour = BAD if check.hacked else GOOD if check.honest else "#c98a00"
            panel.plot(check.step, check.means[name], "o", color=colour, markersize=4)
        panel.axvline(kept, color=GOOD, linewidth=1, linestyle=":")
        arrow = {1: " (↑ better)", -1: " (↓ better)", 0: ""}[better]  # a statistic has no better
        panel.set_title(f"held out: {name}{arrow}", fontsize=9)
    for panel in panels:
        panel.tick_params(labelsize=7)
    figure.suptitle(
        "held out: green honest, amber doubtful, red hacked; dotted line: weights kept", fontsize=9
    )
    _save(figure, path)


def draw_before_after(
    batch: Batch,
    before: Tensor,
    after: Tensor,
    figures_before: dict[str, np.ndarray],
    figures_after: dict[str, np.ndarray],
    path: Path,
    *,
    count: int = 4,
) -> None:
    """Draw a row per image: input, restored before and after tuning, clean image if known.

    Args:
        batch: (B, 3, H, W) inputs.
        before: (B, 3, H, W) of the untuned restorer.
        after: (B, 3, H, W) of the tuned one.
        figures_before: the monitor's statistics of ``before``, (B,) each.
        figures_after: those of ``after``.
        path: of the PNG.
        count: most rows.
    """
    from matplotlib.figure import Figure

    columns = [("input", batch.degraded, None), ("before", before, figures_before)]
    columns.append(("after", after, figures_after))
    if batch.truth is not None:
        columns.append(("clean", batch.truth, None))
    count = min(count, len(before))
    figure = Figure(figsize=(2.6 * len(columns), 2.8 * count), layout="constrained")
    panels = figure.subplots(count, len(columns), squeeze=False)
    for row in range(count):
        for panel, (title, images, figures) in zip(panels[row], columns, strict=True):
            panel.imshow(
                np.asarray(images[row].permute(1, 2, 0).cpu().clamp(0, 1)), interpolation="nearest"
            )
            panel.set_axis_off()
            words = "" if figures is None else _caption(figures, row)
            panel.set_title(f"{title}{words}", fontsize=8)
    _save(figure, path)


def _caption(figures: dict[str, np.ndarray], row: int) -> str:
    rated = [values[row] for name, values in figures.items() if name.startswith(IN_SAMPLE)]
    rating = f": rated {np.mean(rated):.2f}" if rated else ":"
    return rating + (f", {figures['psnr'][row]:.1f} dB" if "psnr" in figures else "")


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})
