"""The report folder: a picture to look at, a page to read, a record for programs.

=====================  =========================================================================
``best.png``           the chosen image
``comparison.png``     input and best, quality maps on one scale from 1 to 5, worst region
``candidates/NN.png``  every candidate with usable pixels
``report.html``        one page that can be sent alone
``config.yaml``        resolved settings
``report.json``        every term of every candidate; written last, so it marks a whole report
=====================  =========================================================================

The same run gives the same bytes, except for ``report.json["timing"]`` and the seconds shown in
``report.html``. Every file is written atomically. What a folder may hold already:
:mod:`restoration_guide.report_folder`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from restoration_guide.comparison import View, draw_comparison
from restoration_guide.fidelity import TERMS
from restoration_guide.reference import (
    UNITS,
    ReferenceFigures,
    compare_with_reference,
    rank_of_choice,
)
from restoration_guide.report_folder import PACKAGE, RECORD, check_folder, clear, run_identity
from restoration_guide.report_page import render_page
from restoration_guide.selection import Index, Row, Selection
from zoomiqa_core import __version__
from zoomiqa_core.files import atomic_path, to_json, write_text_atomic
from zoomiqa_core.heatmap import worst_region
from zoomiqa_core.images import ImageSource, read_image, save_png
from zoomiqa_core.training.run import versions


def write_report(
    selection: Selection,
    directory: str | os.PathLike[str],
    *,
    reference: ImageSource | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report folder of a selection and return its path.

    Args:
        selection: the outcome of a search.
        directory: made when missing.
        reference: the clean image on the same grid; adds PSNR, MS-SSIM and the choice's rank.
        settings: further resolved settings to record, e.g. of the command line.
        overwrite: replace another run's report.

    Raises:
        ReportExistsError: the folder holds something else, see
            :func:`~restoration_guide.report_folder.check_folder`.
        ImageError: the reference cannot be read.
        ValueError: the reference has another size.
    """
    folder = Path(directory).expanduser()
    config = {**selection.config, "seed": selection.seed, **(settings or {})}
    identity = run_identity(selection.input, config)
    check_folder(folder, identity, overwrite)
    figures: dict[Index, ReferenceFigures] = {}
    if reference is not None:
        figures = compare_with_reference(selection, read_image(reference).pixels)

    clear(folder)
    write_text_atomic(folder / "config.yaml", _yaml(config))
    files = {"best": "best.png", "comparison": "comparison.png", "page": "report.html"}
    candidates = {
        str(row.index): f"candidates/{row.index:02d}.png"
        for row in selection.rows
        if row.index != "input" and row.fidelity is not None
    }
    for row in selection.rows:
        if str(row.index) in candidates:
            save_png(selection.image(row.index), folder / candidates[str(row.index)])
    save_png(selection.best, folder / "best.png")
    comparison = compare(selection)
    with atomic_path(folder / "comparison.png") as temporary:
        comparison.save(temporary, "PNG")
    record = {
        **describe(selection, figures),
        **identity,
        "config": config,
        "files": {**files, "candidates": candidates},
        "versions": {PACKAGE: __version__, **versions()},
    }
    write_text_atomic(folder / "report.html", render_page(selection, record, comparison))
    write_text_atomic(folder / RECORD, to_json(record))
    return folder


def describe(selection: Selection, figures: Mapping[Index, ReferenceFigures]) -> dict[str, Any]:
    """The selection as plain containers; everything that depends on time is under "timing"."""
    table = []
    for entry in selection.table:
        del entry["seconds"]
        if figures:
            known = figures.get(entry["index"])
            entry |= asdict(known) if known else dict.fromkeys(UNITS)
        table.append(entry)
    height, width = selection.input.shape[-2:]
    timing = selection.timing
    return {
        "image": {
            "name": Path(selection.name).name,
            "width": width,
            "height": height,
            "notes": list(selection.notes),
        },
        "seed": selection.seed,
        "choice": selection.choice,
        "reason": selection.reason,
        "error": selection.error,
        "skipped": selection.skipped,
        "nfe": selection.nfe,
        "rows": table,
        "rank_of_choice": rank_of_choice(selection, figures) if figures else None,
        "fidelity_terms": {
            name: {"unit": unit, "direction": direction}
            for name, (unit, direction) in TERMS.items()
        },
        "timing": {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "total_seconds": timing.total,
            "restoring_seconds": timing.restoring,
            "judging_seconds": timing.judging,
            "fidelity_seconds": timing.fidelity,
            "judging_share": timing.judging_share,
            "candidate_seconds": {
                str(row.index): row.seconds for row in selection.rows if row.index != "input"
            },
        },
    }


def compare(selection: Selection) -> Image.Image:
    """The comparison picture of the input and the chosen image, or of the input that was kept."""
    kept = selection.choice == "input"
    before, after = selection.row("input"), selection.row(selection.choice)
    shown = (before,) if kept else (before, after)
    maps = [selection.quality_map(row.index) for row in shown]
    bbox, legend = None, ""
    if maps[0] is None or any(drawn is None for drawn in maps):
        maps = [None] * len(shown)  # nothing to compare
    else:
        bbox = worst_region(maps[0])
        ratings = (selection.region_rating(row.index, bbox) for row in shown)
        legend = "worst region of the input: " + " → ".join(f"{rating:.2f}" for rating in ratings)
    reason = selection.reason
    if after.fidelity is not None:
        reason += (
            f"; faithful to the input: low-pass distance {after.fidelity.low_pass_distance:.4f}, "
            f"coarse PSNR {after.fidelity.degraded_psnr:.1f} dB"
        )
    source = View("Input", _rating(before), selection.input, maps[0])
    if kept:
        title = f"Input kept: rating {_rating(before)}"
        return draw_comparison(source, title=title, reason=reason, bbox=bbox, legend=legend)
    chosen = f"Candidate {selection.choice} of {len(selection.rows) - 1} chosen"
    return draw_comparison(
        source,
        View(f"Best: no. {selection.choice}", _rating(after), selection.best, maps[1]),
        title=f"{chosen}: rating {before.rating:.2f} → {after.rating:.2f}",
        reason=reason,
        bbox=bbox,
        legend=legend,
    )


def _rating(row: Row) -> str:
    if math.isnan(row.rating):
        return "not judged"
    return f"{row.rating:.2f} ± {row.rating_std:.2f}"


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True)
