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
``report.html``. Every file is written atomically. A folder that holds another run's report, or
anything that is no report, is refused unless ``overwrite`` is given; files that are not the
report's own are never touched.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from restoration_guide.comparison import View, draw_comparison
from restoration_guide.fidelity import TERMS
from restoration_guide.reference import (
    ReferenceFigures,
    compare_with_reference,
    rank_of_choice,
)
from restoration_guide.report_page import render_page
from restoration_guide.selection import Index, Row, Selection
from zoomiqa_core import __version__
from zoomiqa_core.files import atomic_path, write_text_atomic
from zoomiqa_core.heatmap import worst_region
from zoomiqa_core.images import ImageSource, read_image, save_png
from zoomiqa_core.training.run import versions

RECORD = "report.json"
OWN_FILES = frozenset(
    {RECORD, "report.html", "config.yaml", "best.png", "comparison.png", "candidates"}
)
CANDIDATE_FILE = re.compile(r"\d{2,}\.png")


class ReportExistsError(FileExistsError):
    """The folder holds something that the new report must not replace."""


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
        directory: made when missing. A report of the same run (same pixels, seed and settings) is
            renewed.
        reference: the clean image on the same grid; adds PSNR, MS-SSIM and the choice's rank.
        settings: further resolved settings to record, e.g. of the command line.
        overwrite: replace another run's report. Foreign files stay in any case.

    Raises:
        ReportExistsError: the folder holds another run's report, or files that are no report.
        ImageError: the reference cannot be read.
        ValueError: the reference has another size.
    """
    folder = Path(directory).expanduser()
    config = {**selection.config, "seed": selection.seed, **(settings or {})}
    identity = run_identity(selection.input, config)
    _check_folder(folder, identity, overwrite)
    figures: dict[Index, ReferenceFigures] = {}
    if reference is not None:
        figures = compare_with_reference(selection, read_image(reference).pixels)

    _clear(folder)
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
        "versions": {"zoomiqa-restoration-guide": __version__, **versions()},
    }
    write_text_atomic(folder / "report.html", render_page(selection, record, comparison))
    write_text_atomic(folder / RECORD, to_json(record))
    return folder


def run_identity(pixels: Tensor, config: Mapping[str, Any]) -> dict[str, str]:
    """What makes a run the same run: hashes of the input's pixels and of the settings."""
    shape = repr(tuple(pixels.shape)).encode()
    values = pixels.detach().float().cpu().contiguous().numpy().tobytes()
    return {
        "input_sha256": hashlib.sha256(shape + values).hexdigest(),
        "config_sha256": hashlib.sha256(to_json(config).encode()).hexdigest(),
    }


def read_report(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The record of a whole report; None when there is none."""
    try:
        record = json.loads(Path(directory, RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def describe(selection: Selection, figures: Mapping[Index, ReferenceFigures]) -> dict[str, Any]:
    """The selection as plain containers; everything that depends on time is under "timing"."""
    table = []
    for entry in selection.table:
        del entry["seconds"]
        if figures:
            known = figures.get(entry["index"])
            entry |= asdict(known) if known else {"psnr": None, "ms_ssim": None}
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
    """The comparison picture of the input and the chosen image."""
    before, after = selection.row("input"), selection.row(selection.choice)
    maps = [selection.quality_map(row.index) for row in (before, after)]
    if maps[0] is None or maps[1] is None:
        maps, bbox, legend = [None, None], None, ""  # nothing to compare
    else:
        bbox = worst_region(maps[0])
        was, now = (selection.region_rating(row.index, bbox) for row in (before, after))
        legend = f"worst region of the input: {was:.2f}"
        legend += "" if after is before else f" → {now:.2f}"
    kept = selection.choice == "input"
    count = len(selection.rows) - 1
    heading = "Input kept" if kept else f"Candidate {selection.choice} of {count} chosen"
    change = _rating(before) if kept else f"{before.rating:.2f} → {after.rating:.2f}"
    best = "Best = input" if kept else f"Best: no. {selection.choice}"
    reason = selection.reason
    if after.fidelity is not None:
        reason += (
            f"; faithful to the input: low-pass distance {after.fidelity.low_pass_distance:.4f}, "
            f"coarse PSNR {after.fidelity.degraded_psnr:.1f} dB"
        )
    return draw_comparison(
        View("Input", _rating(before), selection.input, maps[0]),
        View(best, _rating(after), selection.best, maps[1]),
        title=f"{heading}: rating {change}",
        reason=reason,
        bbox=bbox,
        legend=legend,
    )


def to_json(value: Any) -> str:
    """Stable JSON: sorted keys, two spaces; NaN and infinities become null."""
    text = json.dumps(_finite(value), indent=2, sort_keys=True, ensure_ascii=False)
    return f"{text}\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _rating(row: Row) -> str:
    if math.isnan(row.rating):
        return "not judged"
    return f"{row.rating:.2f} ± {row.rating_std:.2f}"


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True)


def _check_folder(folder: Path, identity: Mapping[str, str], overwrite: bool) -> None:
    """Refuse a folder whose content the new report must not replace."""
    if folder.exists() and not folder.is_dir():
        raise ReportExistsError(f"{folder} is a file; a report needs a folder.")
    if not folder.is_dir():
        return
    record = read_report(folder)
    if record is not None:
        same = all(record.get(key) == value for key, value in identity.items())
        if not (same or overwrite):
            raise ReportExistsError(
                f"{folder} holds the report of another run (other image, seed or settings); "
                "choose another folder, or overwrite it (--overwrite, overwrite=True)."
            )
        return
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    unfinished = "config.yaml" in names and names <= OWN_FILES
    if names and not unfinished:
        raise ReportExistsError(
            f"{folder} holds files that are no report ({', '.join(sorted(names)[:3])}); "
            "choose an empty or a new folder."
        )


def _clear(folder: Path) -> None:
    """Unmark the folder as a whole report and drop candidates of a longer run."""
    (folder / RECORD).unlink(missing_ok=True)
    candidates = folder / "candidates"
    if candidates.is_dir():
        for path in candidates.iterdir():
            if CANDIDATE_FILE.fullmatch(path.name):
                path.unlink()
