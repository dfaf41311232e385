"""Report of a GR-IQA build: what was kept and dropped, and why; and the dataset card."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoomiqa_core.data.gr_iqa.predictability import record_predictability
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, reply_text
from zoomiqa_core.data.gr_iqa.records import record_from_row

CARD = """\
---
task_categories: [image-text-to-text]
tags: [image-quality-assessment, grounded-rationales]
---

# Grounded rationales of image quality

Images, ratings on 1–5 and what a judge should write about them in one round or two
(`records.jsonl`, read by `zoomiqa_core.data.gr_iqa.records.read_records`). Ratings of photos are
people's; those of damaged pictures are KADID-10k's mean opinions of the damage, weighted by area
where it is local (`provenance.label`). An uncertain first round is rated as a judge rates a
thumbnail (`provenance.blind`). No section states the rating. The images keep the licences of their
sources.

`predictability` is the share of the ratings' variance that words alone explain, held out: what is
left has to be seen in the image (the rating given the reply's thought) or in the crop (the second
rating given the whole first reply). Aim for .8 at most.
"""
EXAMPLES = 5
"""Examples listed for each reason."""


@dataclass(frozen=True)
class Outcome:
    """Result for one picture; cached as JSON."""

    source: str
    """``"damaged"``, ``"rated"`` or ``"wordless"``."""
    record: dict[str, Any] | None
    """Row of the record; None if dropped."""
    reasons: list[list[str]] = field(default_factory=list)
    """Reason and detail of each refused rationale."""
    refuted: list[list[str]] = field(default_factory=list)
    """Dropped sentences of a kept record, and what contradicts them."""
    reliance: dict[str, float] | None = None
    """Visual reliance of a kept record, if measured."""
    calls: int = 0
    tokens: int = 0


def build_report(outcomes: Sequence[Outcome], *, unreached: int, cost: float) -> dict[str, Any]:
    """Counts, reasons with examples, and distributions of ratings, rounds and lengths.

    Args:
        outcomes: of all processed pictures.
        unreached: number of pictures not processed within the budget.
        cost: of the teacher's calls.
    """
    records = [record_from_row(o.record) for o in outcomes if o.record is not None]
    report: dict[str, Any] = {
        "pictures": len(outcomes),
        "kept": len(records),
        "dropped": len(outcomes) - len(records),
        "unreached": unreached,
        "calls": sum(outcome.calls for outcome in outcomes),
        "tokens": sum(outcome.tokens for outcome in outcomes),
        "cost": round(cost, 4),
        "kept_of_source": Counter(o.source for o in outcomes if o.record is not None),
        "dropped_of_reason": Counter(
            o.reasons[-1][0] for o in outcomes if o.record is None and o.reasons
        ),
        "rewritten_for": Counter(
            reason for o in outcomes if o.record is not None for reason, _ in o.reasons
        ),
        "sentences_dropped": sum(len(outcome.refuted) for outcome in outcomes),
        "predictability": record_predictability(records),
        "examples": _examples(outcomes),
    }
    return report | _spread(records)


def dataset_card(report: dict[str, Any]) -> str:
    """The report as a dataset card in Markdown."""
    counted = ("pictures", "kept", "dropped", "unreached", "sentences_dropped", "calls", "tokens")
    counted = (*counted, "cost")
    lines = [CARD, "## Build", "", "| | |", "|---|---:|"]
    lines += [f"| {name.replace('_', ' ')} | {report[name]} |" for name in counted]
    tables = ("kept_of_source", "dropped_of_reason", "rewritten_for", "rounds", "mos_bins")
    for name in (*tables, "words_of_reply", "predictability"):
        if report.get(name):
            lines += ["", f"## {name.replace('_', ' ').capitalize()}", "", "| | |", "|---|---:|"]
            lines += [f"| {key} | {value} |" for key, value in report[name].items()]
    if report["examples"]:
        lines += ["", "## Examples of what was refused", ""]
        lines += [
            f"- {reason}: `{json.dumps(detail, ensure_ascii=False)}`"
            for reason, details in report["examples"].items()
            for detail in details
        ]
    return "\n".join(lines) + "\n"


def _examples(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        said = [*outcome.reasons]
        said += [["sentence", f"{text} — {why}"] for text, why in outcome.refuted]
        for reason, detail in said:
            details = found.setdefault(reason, [])
            if len(details) < EXAMPLES:
                details.append(detail)
    return found


def _spread(records: Sequence[GRIQARecord]) -> dict[str, Any]:
    """Distributions of rounds, ratings and lengths of replies."""
    replies = [
        len(reply_text(look, number).split())
        for record in records
        for number, look in enumerate(record.rounds, start=1)
    ]
    bins = Counter(min(int((record.mos - 1) * 2), 7) for record in records)
    words = {"most": max(replies), "median": int(statistics.median(replies))} if replies else {}
    return {
        "rounds": {str(n): c for n, c in sorted(Counter(len(r.rounds) for r in records).items())},
        "mos_bins": {f"{1 + b / 2:.1f}–{1.5 + b / 2:.1f}": bins[b] for b in range(8)},
        "words_of_reply": words,
    }
