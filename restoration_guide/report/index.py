"""The index of a run over many images: what came of each, rebuilt from the report folders.

``index.json`` has one row per image and totals, ``index.html`` shows them with links to the
reports. Nothing else remembers what is done, so that a run may be cut short anywhere and go on
with any number of processes. An image that could not be restored leaves ``NAME.error.json``
beside where its folder would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from restoration_guide.report.folder import PACKAGE, RECORD, ReportExistsError, read_record
from restoration_guide.report.page import render
from restoration_guide.report.wording import columns, term_notes
from zoomiqa_core import __version__
from zoomiqa_core.runs.files import to_json, write_text_atomic

INDEX, PAGE = "index.json", "index.html"
FAILURE_SUFFIX = ".error.json"

STATUSES = {
    "restored": "a candidate was chosen",
    "kept": "the input was kept",
    "unjudged": "the input or every candidate could not be judged",
    "unreadable": "no image that can be restored",
    "stopped": "the restorer failed or was interrupted; finished candidates count",
    "failed": "no report was written",
    "pending": "not reached yet",
}
"""What can come of an image."""
FAILURES = ("unreadable", "failed")
"""Without a report."""
SHOWN_APART = ("choice", "rating_before", "rating_after", "gain", "seconds", "judging_seconds")
"""Figures with columns of their own."""


class Job(NamedTuple):
    """An image and the folder of its report."""

    path: Path
    folder: Path


class Failure(NamedTuple):
    """Why an image has no report."""

    status: str
    """One of :data:`FAILURES`."""
    code: str
    """Of an image error, or the name of another one."""
    message: str


def failure_file(folder: Path) -> Path:
    """Where an image's failure is kept: beside its folder, which may be somebody else's."""
    return folder.with_name(folder.name + FAILURE_SUFFIX)


def record_outcome(job: Job, failure: Failure | None) -> None:
    """Keep why an image has no report; None takes an earlier failure back."""
    file = failure_file(job.folder)
    if failure is None:
        file.unlink(missing_ok=True)
    else:
        write_text_atomic(file, to_json({"name": job.path.name, **failure._asdict()}))


def image_row(folder: Path, name: str = "") -> dict[str, Any]:
    """The outcome of one image, from its report or, without one, from its failure.

    A failed attempt does not hide the whole report of an earlier one; ``last_attempt`` names the
    failure.

    Args:
        folder: of its report.
        name: of the image, used while there is neither.
    """
    row: dict[str, Any] = {"name": name or folder.name, "folder": folder.name}
    row |= {"status": "pending", "detail": "", **dict.fromkeys(SHOWN_APART), "skipped": {}}
    row["last_attempt"] = None
    with suppress(KeyError, TypeError):  # no report, or something else of that name
        row |= _reported(read_record(folder / RECORD) or {})
    failure = read_record(failure_file(folder)) or {}
    if failure.get("status") not in FAILURES:
        return row
    row["last_attempt"] = failure["status"]
    detail = f"{failure.get('code')}: {failure.get('message')}"
    if row["status"] in ("pending", "stopped"):
        row |= {"name": str(failure.get("name")), "status": failure["status"], "detail": detail}
    else:
        row["detail"] += f"; the last attempt failed: {detail}"
    return row


def _reported(record: Mapping[str, Any]) -> dict[str, Any]:
    rows = {row["index"]: row for row in record["rows"]}
    before, chosen = rows.get("input"), rows[record["choice"]]
    rated = before is None or before["rating"] is not None
    judged = rated and any(
        row["rating"] is not None for index, row in rows.items() if index != "input"
    )
    kept = record["choice"] == "input"
    status = "unjudged" if not judged else "kept" if kept else "restored"
    gain = chosen["rating"] - before["rating"] if judged and before else None
    return {
        "name": record["image"]["name"],
        "status": "stopped" if record["error"] else status,
        "detail": record["reason"],
        "choice": record["choice"],
        "rating_before": before and before["rating"],
        "rating_after": chosen["rating"],
        "gain": gain,
        **{term: chosen[term] for term in record["fidelity_terms"] if term in chosen},
        "seconds": record["timing"]["total_seconds"],
        "judging_seconds": record["timing"]["judging_seconds"],
        "skipped": record["skipped"],
    }


def read_rows(out: Path, jobs: Sequence[Job] = ()) -> list[dict[str, Any]]:
    """A row for each report and failure below ``out`` and for each job, by folder."""
    found = {path.parent for path in out.rglob(RECORD)}
    found |= {
        path.with_name(path.name.removesuffix(FAILURE_SUFFIX))
        for path in out.rglob(f"*{FAILURE_SUFFIX}")
    }
    names = {job.folder: job.path.name for job in jobs}
    rows = {
        folder: image_row(folder, names.get(folder, ""))
        | {"folder": folder.relative_to(out).as_posix()}
        for folder in sorted(found | names.keys())
    }
    return [row for folder, row in rows.items() if folder in names or row["status"] != "pending"]


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many images came to which end, mean ratings of those judged, seconds of all."""
    judged = [row for row in rows if row["gain"] is not None]
    timed = [row for row in rows if row["seconds"] is not None]
    seconds = sum(row["seconds"] for row in timed)
    judging = sum(row["judging_seconds"] for row in timed)
    counts = Counter(row["status"] for row in rows)
    return {
        "images": len(rows),
        **{status: counts[status] for status in STATUSES},
        **{
            key: sum(row[key] for row in judged) / len(judged) if judged else None
            for key in ("rating_before", "rating_after", "gain")
        },
        "seconds": seconds,
        "judging_share": judging / seconds if seconds > 0 else None,
    }


def totals_in_words(sums: Mapping[str, Any]) -> str:
    """``4 images: 2 restored, 1 kept, 1 unreadable; rating 3.10 → 3.52 on average; …``."""
    counts = ", ".join(f"{sums[status]} {status}" for status in STATUSES if sums[status])
    words = [f"{sums['images']} image{'s' * (sums['images'] != 1)}: {counts}"]
    if sums["gain"] is not None:
        ratings = f"{sums['rating_before']:.2f} → {sums['rating_after']:.2f}"
        words.append(f"rating {ratings} on average")
    if sums["judging_share"] is not None:
        words.append(f"{sums['seconds']:.0f} s, judging {100 * sums['judging_share']:.1f} %")
    return "; ".join(words)


def check_index(out: Path) -> None:
    """Refuse a folder whose index page is not a run's.

    Raises:
        ReportExistsError: it would be overwritten.
    """
    record = read_record(out / INDEX)
    theirs = [name for name in (INDEX, PAGE) if (out / name).exists()]
    if theirs and (record is None or PACKAGE not in record):
        raise ReportExistsError(f"{out / theirs[0]} is no index of a run; choose another folder.")


def write_index(out: Path, jobs: Sequence[Job] = ()) -> list[dict[str, Any]]:
    """Write ``index.json`` and ``index.html`` anew from what is on the disk.

    Returns:
        The rows of ``jobs``, in their order.
    """
    rows = read_rows(out, jobs)
    sums = totals(rows)
    write_text_atomic(out / INDEX, to_json({PACKAGE: __version__, "totals": sums, "images": rows}))
    page = render(
        "index.html.j2",
        rows=rows,
        summary=totals_in_words(sums),
        statuses=STATUSES,
        terms=columns(rows, term_notes(), SHOWN_APART),
    )
    write_text_atomic(out / PAGE, page)
    named = {row["folder"]: row for row in rows}
    return [named[job.folder.relative_to(out).as_posix()] for job in jobs]
