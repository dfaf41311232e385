"""The report folder: a picture to look at, a page to read, a record for programs.

=====================  =========================================================================
``best.png``           the chosen image
``comparison.png``     input and best, quality maps on one scale from 1 to 5, worst region
``preview.jpg``        input and best side by side, small, for the index of a run
``candidates/NN.png``  every candidate with usable pixels
``report.html``        one page that can be sent alone
``config.yaml``        resolved settings
``report.json``        every term of every candidate; written last, so it marks a whole report
=====================  =========================================================================

While a search runs, its candidates stand in ``unfinished/``, so that a kill loses none.

Files are built first and then replace older ones. The same run gives the same bytes, except for
``report.json["timing"]`` and the seconds shown in ``report.html``. What a folder may hold before:
:mod:`restoration_guide.report.folder`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from restoration_guide.fidelity.full_reference import ReferenceFigures
from restoration_guide.report.folder import (
    CONFIG,
    PACKAGE,
    RECORD,
    UNFINISHED,
    check_folder,
    plain,
    remove_unfinished,
    replaced,
    run_identity,
)
from restoration_guide.report.page import picture_of, render_page
from restoration_guide.report.picture import View, draw_comparison
from restoration_guide.report.reference import compare_with_reference, rank_of_choice
from restoration_guide.report.wording import (
    fidelity_in_words,
    figure,
    outcome_in_words,
    rating_in_words,
    term_notes,
)
from restoration_guide.search.selection import Index, Selection
from zoomiqa_core import __version__
from zoomiqa_core.images.errors import ImageError
from zoomiqa_core.images.heatmap import worst_region
from zoomiqa_core.images.sources import ImageSource, read_image, save_image, to_pil
from zoomiqa_core.runs.files import atomic_path, to_json, write_text_atomic
from zoomiqa_core.runs.folder import versions

if TYPE_CHECKING:
    from restoration_guide.restorers.base import Candidate
    from zoomiqa_core.images.decoded import DecodedImage

FILES = {
    "best": "best.png",
    "comparison": "comparison.png",
    "page": "report.html",
    "preview": "preview.jpg",
}
PREVIEW_HEIGHT, PREVIEW_GAP = 160, 4
"""Pixels."""


def write_report(
    selection: Selection,
    directory: str | os.PathLike[str],
    *,
    reference: ImageSource | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    bits: int = 8,
) -> Path:
    """Write the report folder of a selection and return its path.

    >>> import torch, zoomiqa_core as zi
    >>> from restoration_guide import BestOfN, load_restorer
    >>> search = BestOfN(load_restorer("builtin"), zi.load_scorer("proxy"), n=1)
    >>> folder = write_report(search(torch.rand(3, 32, 32)), "report")
    >>> sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
    ['best.png', 'comparison.png']

    Args:
        selection: the outcome of a search.
        directory: made when missing.
        reference: the clean image on the same grid; adds PSNR, MS-SSIM and the choice's rank.
        settings: further resolved settings to record, e.g. of the command line.
        overwrite: replace another run's report.
        bits: per channel of ``best.png``, 8 or 16.

    Raises:
        ReportExistsError: the folder holds something else, see
            :func:`~restoration_guide.report.folder.check_folder`.
        ImageError: the reference cannot be read.
        ValueError: the reference has another size.
    """
    folder = Path(directory).expanduser()
    config = plain({**selection.config, "seed": selection.seed, **(settings or {})})
    shown = selection.best if selection.input is None else selection.input
    identity = run_identity(shown, config)
    check_folder(folder, identity, overwrite)
    figures: dict[Index, ReferenceFigures] = {}
    if reference is not None:
        figures = compare_with_reference(selection, read_image(reference).pixels)

    with replaced(folder) as built:
        write_text_atomic(built / CONFIG, _yaml(config))
        candidates = {}
        for row in selection.rows:
            if row.index == "input":
                continue
            image = picture_of(selection, row)
            if image is not None:
                number = row.index if isinstance(row.index, str) else f"{row.index:02d}"
                candidates[str(row.index)] = f"candidates/{number}.png"
                path = built / "candidates" / f"{number}.png"
                save_image(image, path, like=selection.decoded)
        selection.save(built / "best.png", bits=bits)
        comparison = compare(selection)
        with atomic_path(built / "comparison.png") as temporary:
            comparison.save(temporary, "PNG")
        with atomic_path(built / "preview.jpg") as temporary:
            draw_preview(selection).save(temporary, "JPEG", quality=90)
        record = {
            **describe(selection, figures),
            **identity,
            "config": config,
            "files": {**FILES, "candidates": candidates},
            "versions": {PACKAGE: __version__, **versions()},
        }
        write_text_atomic(built / "report.html", render_page(selection, record, comparison))
        write_text_atomic(built / RECORD, to_json(record))
    return folder


def keep_candidate(
    candidate: Candidate, folder: Path, like: DecodedImage, settings: Mapping[str, Any]
) -> None:
    """Write a candidate of a search that goes on into ``unfinished/`` of its report folder.

    :func:`write_report` removes it. Pixels that make no picture are left out.

    Args:
        candidate: as it was finished.
        folder: of the report, see :func:`~restoration_guide.report.folder.check_folder`.
        like: the input, whose EXIF and alpha the picture keeps.
        settings: of the search; candidates of other settings are removed first.
    """
    unfinished = folder / UNFINISHED
    config = _yaml(plain(settings))
    with suppress(ImageError, OSError):  # where nothing can be written the report will say so
        known = unfinished / CONFIG
        if not known.is_file() or known.read_text(encoding="utf-8") != config:
            remove_unfinished(folder)
            write_text_atomic(known, config)
        save_image(candidate.image, unfinished / f"{candidate.index:02d}.png", like=like)


def describe(selection: Selection, figures: Mapping[Index, ReferenceFigures]) -> dict[str, Any]:
    """The selection as plain containers; everything that depends on time is under "timing"."""
    table = []
    names = [field.name for field in fields(ReferenceFigures)] if figures else []
    for entry in selection.table:
        del entry["seconds"]
        entry["settings"] = {key: plain(value) for key, value in entry["settings"].items()}
        known = figures.get(entry["index"])
        table.append({**entry, **{name: getattr(known, name, None) for name in names}})
    height, width = selection.best.shape[-2:]
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
            name: note
            for name, note in term_notes().items()
            if any(math.isfinite(row.get(name) or math.nan) for row in table)
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
    """The comparison picture of the input and the chosen image, or of the only one there is."""
    after = selection.row(selection.choice)
    shown = [selection.row(index) for index in _compared(selection)]
    maps, bbox, regions = [None] * len(shown), None, [""] * len(shown)
    note = f"restorer {selection.config['restorer']}, judge {selection.config['scorer']}"
    note += "" if selection.seed is None else f", seed {selection.seed}"
    try:
        drawn = [selection.quality_map(row.index) for row in shown]
        if drawn[0] is not None and all(quality_map is not None for quality_map in drawn):
            bbox = worst_region(drawn[0])
            ratings = [selection.region_rating(row.index, bbox) for row in shown]
            maps, regions = drawn, [f"rating {figure(rating)}" for rating in ratings]
    except Exception as error:  # a judge that cannot draw does not cost the report
        bbox, note = None, f"{note}; no quality map: {type(error).__name__}: {error}"
    views = [
        View(
            "Input" if row.index == "input" else "Best",
            rating_in_words(row),
            selection.image(row.index),
            quality_map,
            region,
        )
        for row, quality_map, region in zip(shown, maps, regions, strict=True)
    ]
    reason = selection.reason
    if after.fidelity is not None:
        reason += f"; faithful to the input: {fidelity_in_words(after.fidelity)}"
    name = Path(selection.name).name
    return draw_comparison(
        views,
        title=": ".join(filter(None, (name, outcome_in_words(selection)))),
        reason=reason,
        bbox=bbox,
        note=note,
    )


def draw_preview(selection: Selection) -> Image.Image:
    """Input and best side by side, small; the best alone where it is the input or has none."""
    images = [to_pil(selection.image(index)) for index in _compared(selection)]
    for image in images:
        image.thumbnail((2 * PREVIEW_HEIGHT, PREVIEW_HEIGHT))
    width = sum(image.width for image in images) + PREVIEW_GAP * (len(images) - 1)
    preview = Image.new("RGB", (width, images[0].height), "white")
    for number, image in enumerate(images):
        preview.paste(image, (number * (image.width + PREVIEW_GAP), 0))
    return preview


def _compared(selection: Selection) -> list[Index]:
    """The input, where there is one, and the chosen image, where it is another."""
    first: list[Index] = [] if selection.input is None else ["input"]
    return list(dict.fromkeys([*first, selection.choice]))


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True)
