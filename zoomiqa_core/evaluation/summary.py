"""Summary of an evaluation: statistics of the judgements, a table, a scatter plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.evaluation.agreement import Agreement, agreement
from zoomiqa_core.evaluation.correlation import Estimate, logistic_fit
from zoomiqa_core.runs.files import atomic_path, to_json, write_text_atomic

if TYPE_CHECKING:
    from rich.console import Group

Summary = dict[str, Any]

STATISTICS = ("plcc", "srcc", "krcc")


def summarise(judgements: Sequence[dict[str, Any]], identity: dict[str, Any]) -> Summary:
    """Summarise the judgements of a dataset: counts, agreement with people, costs.

    >>> judgements = [
    ...     {"valid": True, "error": None, "rating": rating, "mos": mos}
    ...     for rating, mos in ((2.1, 2.0), (3.2, 3.5), (3.9, 4.4))
    ... ]
    >>> judgements.append({"valid": False, "error": "missing_answer", "rating": None, "mos": 3.0})
    >>> summary = summarise(judgements, {"dataset": "spaq", "seed": 0})
    >>> summary["images"], summary["invalid"], summary["agreement"]["raw"]["srcc"]["value"]
    (4, {'missing_answer': 1}, 1.0)

    Args:
        judgements: one per image (:func:`zoomiqa_core.evaluation.run.evaluate`).
        identity: the summary's first entries: ``dataset``, ``split``, ``scorer``, ``labels``,
            ``seed``.

    Returns:
        Plain containers; all but ``timing`` is the same whether a run was resumed or not. None
        where no judgement has the value: ``zoom_rate`` (mean share of an image's judgements that
        zoomed), ``zoom_shift`` (mean change of the rating by zooming), ``tokens`` (generated).
    """
    valid = [judgement for judgement in judgements if judgement["valid"]]
    ratings = [judgement["rating"] for judgement in valid]
    by_fit = agreement(ratings, [j["mos"] for j in valid], seed=identity.get("seed", 0))
    tokens, seconds = _of_chains(judgements, "tokens"), _values(judgements, "seconds")
    return {
        **identity,
        "images": len(judgements),
        "valid": len(valid),
        "invalid": _counts(j["error"] for j in judgements if not j["valid"]),
        "fallbacks": _counts(_of_chains(valid, "fallback")),
        "agreement": {fit: _plain(result) for fit, result in by_fit.items()},
        "mean_rating": _mean(ratings),
        "zoom_rate": _mean(_of_chains(valid, "zoom_share")),
        "zoom_shift": _mean(_of_chains(valid, "zoom_shift")),
        "retries": sum(_of_chains(judgements, "retries")),
        "tokens": {"total": sum(tokens), "per_image": _mean(tokens)} if any(tokens) else None,
        "timing": {
            "judging_seconds": round(sum(seconds), 6),
            "seconds_per_image": _mean(seconds),
            "median_seconds_per_image": round(float(np.median(seconds)), 6) if seconds else None,
        },
    }


def summary_table(summary: Summary) -> Group:
    """Render a summary for the terminal: a row per fit, correlations with 95 % intervals."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("fit", box=box.SIMPLE)
    for statistic in STATISTICS:
        table.add_column(statistic.upper(), justify="right", no_wrap=True)
    for fit, figures in summary["agreement"].items():
        table.add_row(fit, *(Text(_interval(figures[name])) for name in STATISTICS))
    # rich would wrap a title and a caption to the width of the table
    return Group(Text(heading(summary), "bold"), table, Text("\n".join(_remarks(summary))))


def write_summary(
    judgements: Sequence[dict[str, Any]], summary: Summary, folder: Path
) -> list[Path]:
    """Write ``summary.json`` and ``scatter.png`` atomically; return their paths."""
    text = to_json(summary, sort_keys=False)
    return [
        write_text_atomic(folder / "summary.json", text),
        draw_scatter(judgements, summary, folder / "scatter.png"),
    ]


def heading(summary: Summary) -> str:
    """One line that names dataset, split, judge, number of images and failures.

    >>> summary = {"dataset": "spaq", "split": None, "scorer": "proxy", "images": 1200}
    >>> heading({**summary, "invalid": {"missing_answer": 2}})
    'spaq all · proxy · 1,200 images · invalid: 2 missing_answer'
    """
    invalid = ", ".join(f"{count} {name}" for name, count in summary["invalid"].items())
    parts = (
        f"{summary['dataset']} {summary['split'] or 'all'}",
        summary["scorer"],
        f"{summary['images']:,} images",
        f"invalid: {invalid or 'none'}",
    )
    return " · ".join(parts)


def draw_scatter(judgements: Sequence[dict[str, Any]], summary: Summary, path: Path) -> Path:
    """Save a scatter plot of mean opinion against rating, with the logistic fit, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    valid = [judgement for judgement in judgements if judgement["valid"]]
    x, y = (np.array([j[key] for j in valid], float) for key in ("rating", "mos"))
    figure = Figure(figsize=(6.4, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    alpha = float(np.clip(9 / np.sqrt(max(len(x), 1)), 0.2, 0.8))  # dense regions appear darker
    axes.scatter(x, y, s=16, alpha=alpha, linewidths=0, color="#3b528b")
    fit = logistic_fit(x, y)
    if fit.curve is not None:
        along = np.linspace(x.min(), x.max(), 200)
        axes.plot(along, fit.curve(along), color="#d1495b", lw=2, label="logistic fit")
        axes.legend(loc="upper left", frameon=False)
    axes.set_xlim(MIN_RATING - 0.1, MAX_RATING + 0.1)
    axes.set_xticks(range(int(MIN_RATING), int(MAX_RATING) + 1))
    axes.set_xlabel(f"rating by {summary['scorer']} (1 bad – 5 excellent)")
    axes.set_ylabel(f"mean opinion ({summary['labels']}, higher is better)")
    raw = summary["agreement"]["raw"]
    figures = ", ".join(f"{name.upper()} {_interval(raw[name])}" for name in ("srcc", "plcc"))
    axes.set_title(f"{heading(summary)}\n{figures}", fontsize=9, loc="left", wrap=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _remarks(summary: Summary) -> list[str]:
    """Lines below the table: why correlations are missing, fallbacks, costs."""
    reasons: dict[str, list[str]] = {}
    for fit, figures in summary["agreement"].items():
        reasons.setdefault(figures["reason"], []).append(fit)
    remarks = [f"{', '.join(fits)}: {reason}" for reason, fits in reasons.items() if reason]
    if summary["fallbacks"]:
        named = ", ".join(f"{count} {name}" for name, count in summary["fallbacks"].items())
        remarks.append(f"fallbacks: {named}")
    costs = []
    if summary["zoom_rate"] is not None:
        costs.append(f"zoom rate {summary['zoom_rate']:.1%}")
    if summary["zoom_shift"] is not None:
        costs.append(f"rating changed by {summary['zoom_shift']:+.3f}")
    if summary["tokens"] is not None:
        costs.append(f"{summary['tokens']['per_image']:,.0f} tokens an image")
    seconds = summary["timing"]["seconds_per_image"]
    if seconds is not None:
        costs.append(f"{seconds:.3f} s an image")
    return [*remarks, ", ".join(costs)]


def _interval(figures: dict[str, float | None]) -> str:
    if figures["value"] is None:
        return "–"
    return str(Estimate(**{key: np.nan if v is None else v for key, v in figures.items()}))


def _plain(result: Agreement) -> dict[str, Any]:
    figures: dict[str, Any] = {name: getattr(result, name)._asdict() for name in STATISTICS}
    for estimate in figures.values():
        for key, value in estimate.items():
            estimate[key] = None if np.isnan(value) else round(value, 6)
    return {**figures, "reason": result.reason}


def _counts(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _of_chains(judgements: Sequence[dict[str, Any]], key: str) -> list[Any]:
    chains = (judgement.get("chains") or {} for judgement in judgements)
    return [record[key] for record in chains if record.get(key) is not None]


def _values(judgements: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [judgement[key] for judgement in judgements if judgement.get(key) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 6) if values else None
