"""Summarise judgements of voted pairs: figures, a table for the terminal, a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoomiqa_core.data.benchmarks.votes import VotedPair, photos
from zoomiqa_core.evaluation.correlation import Estimate
from zoomiqa_core.evaluation.run import Judgement
from zoomiqa_core.evaluation.vote_agreement import (
    VoteAgreement,
    majority_ceiling,
    preferences,
    vote_agreement,
)
from zoomiqa_core.evaluation.votes import images_of
from zoomiqa_core.runs.files import atomic_path, to_json, write_text_atomic

if TYPE_CHECKING:
    from rich.console import Group

MEASURES = {"votes": "votes agreed", "pairs": "majorities agreed", "best": "best picked"}


def summarise_votes(
    pairs: Sequence[VotedPair],
    judged: Mapping[str, Sequence[Judgement]],
    identity: dict[str, Any],
) -> dict[str, Any]:
    """The figures of a run as plain containers; None where there is none.

    Args:
        pairs: with people's votes.
        judged: what :func:`judge_pairs` returns.
        identity: what heads the summary: ``dataset``, ``scorer``, ``seed`` and more.
    """
    seed = identity.get("seed", 0)
    images = images_of(pairs)
    found: dict[str, VoteAgreement] = {}
    for row, judgements in judged.items():
        ratings = {
            image: judgement["rating"] if failure(judgement) is None else np.nan
            for image, judgement in zip(images, judgements, strict=True)
        }
        found[row] = vote_agreement(pairs, preferences(pairs, ratings), seed=seed)
    found["majority ceiling"] = majority_ceiling(pairs, seed=seed)
    found["chance"] = vote_agreement(pairs, np.full(len(pairs), 0.5), seed=seed)
    failures = {row: filter(None, map(failure, js)) for row, js in judged.items()}
    return {
        **identity,
        "photos": len(photos(pairs)),
        "images": len(images),
        "pairs": len(pairs),
        "votes": sum(pair.votes for pair in pairs),
        "invalid": {row: dict(sorted(Counter(each).items())) for row, each in failures.items()},
        "agreement": {row: _plain(figures) for row, figures in found.items()},
        "timing": {row: round(sum(j["seconds"] for j in js), 6) for row, js in judged.items()},
    }


def failure(judgement: Judgement) -> str | None:
    """Name of a judgement's failure; ``"no_rating"`` where it is valid without a number."""
    if judgement["valid"] and judgement["rating"] is not None:
        return None
    return judgement["error"] or "no_rating"


def votes_table(summary: dict[str, Any]) -> Group:
    """A table for the terminal: judges, ceiling and chance in rows, measures in columns."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(summary["scorer"], box=box.SIMPLE)
    for title in (*MEASURES.values(), "pairs judged"):
        table.add_column(title, justify="right", no_wrap=True)
    for row, figures in summary["agreement"].items():
        cells = [_interval(figures[measure]) for measure in MEASURES]
        table.add_row(row, *map(Text, cells), f"{figures['judged']:,}")
    remarks = [
        f"{row}: {sum(failed.values())} of {summary['images']:,} images failed ("
        + ", ".join(f"{count} {name}" for name, count in failed.items())
        + "); their pairs are left out"
        for row, failed in summary["invalid"].items()
        if failed
    ]
    remarks.append("95 % intervals over photos; a tie of the judge counts half")
    return Group(Text(votes_heading(summary), "bold"), table, Text("\n".join(remarks)))


def votes_heading(summary: dict[str, Any]) -> str:
    """Dataset, judge and counts in one line."""
    counts = (f"{summary[key]:,} {key}" for key in ("photos", "images", "pairs", "votes"))
    return " · ".join((summary["dataset"], summary["scorer"], *counts))


def write_votes_summary(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``summary.json`` and ``agreement.png`` atomically; return their paths."""
    text = to_json(summary, sort_keys=False)
    return [
        write_text_atomic(folder / "summary.json", text),
        draw_votes(summary, folder / "agreement.png"),
    ]


def draw_votes(summary: dict[str, Any], path: Path) -> Path:
    """Draw every row's shares with their intervals, one panel a measure, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(summary["agreement"])
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(votes_heading(summary), fontsize=9, x=0.01, ha="left")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for height, row in enumerate(rows):
            value, low, high = summary["agreement"][row][measure].values()
            if value is not None:
                axes.plot(value, height, "o", color="#3b528b")
            if low is not None:
                axes.plot([low, high], [height, height], color="#3b528b", lw=2)
        axes.set_title(title, fontsize=9)
        axes.set_xlim(-0.03, 1.03)
        axes.set_yticks(range(len(rows)), rows)
        axes.grid(alpha=0.25)
    panels[0].invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _plain(found: VoteAgreement) -> dict[str, Any]:
    figures: dict[str, Any] = {measure: getattr(found, measure)._asdict() for measure in MEASURES}
    for estimate in figures.values():
        for key, value in estimate.items():
            estimate[key] = None if np.isnan(value) else round(value, 6)
    return {**figures, "judged": found.judged}


def _interval(figures: dict[str, float | None]) -> str:
    if figures["value"] is None or figures["low"] is None:
        return "–" if figures["value"] is None else f"{figures['value']:.3f}"
    return str(Estimate(**{key: np.nan if v is None else v for key, v in figures.items()}))
