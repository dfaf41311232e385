"""``zoomiqa score`` and ``zoomiqa regions``: rate images, and regions of images."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoomiqa_core.assessment import Assessment, BBox, RegionScore, check_bbox
from zoomiqa_core.cli.inputs import check_output, find_inputs
from zoomiqa_core.cli.options import (
    AsJson,
    Batch,
    Inputs,
    MaxMegapixels,
    SeededJudgeOptions,
    image_limits,
    limit_arguments,
    stop,
    with_options,
)
from zoomiqa_core.cli.results import Results, printable, progress, report, report_notes
from zoomiqa_core.cli.scaled import RayOptions, run_scaled

if TYPE_CHECKING:
    from zoomiqa_core.scorer import Scorer

COLUMNS: tuple[str, ...] = ("name", "rating", "rating_std", "score", "valid", "error", "message")
"""Columns of the CSV table; the numbers of a failed judgement are empty."""


@with_options
def score(
    inputs: Inputs,
    judge: SeededJudgeOptions,
    ray: RayOptions,
    as_json: AsJson = False,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Ray: folder or URI of the results.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a table to FILE as well.")
    ] = None,
    batch: Batch = 1,
    max_megapixels: MaxMegapixels = None,
    expected: Annotated[
        bool,
        typer.Option(
            "--expected", help="Zoom-IQA judges: the expected rating at once, without reasoning."
        ),
    ] = False,
    words: Annotated[
        bool, typer.Option("--words", help="Print what to improve and what to avoid as well.")
    ] = False,
) -> None:
    """Rate images: rating ± standard deviation (1–5), score (0–100), name."""
    if ray.on_ray():
        if out is None or as_json or csv_file or words:
            stop("--engine ray writes Parquet: give --out DIR, without --json, --csv and --words")
        _score_on_ray(inputs, out, judge, ray, batch, max_megapixels, expected)
        return
    if out is not None:
        stop("--out needs --engine ray; --csv FILE writes a table, --json prints all results")
    found = find_inputs(inputs)
    if csv_file is not None:
        check_output(csv_file.parent)
    scorer = judge.load()
    if expected and not _is_zoom_iqa(scorer):
        stop(f"--expected needs a Zoom-IQA judge, and {judge.scorer!r} is not one")
    how = limit_arguments(scorer, max_megapixels) | ({"mode": "expected"} if expected else {})
    paths = found.paths
    chunks = [paths[first : first + batch] for first in range(0, len(paths), batch)]
    with Results(
        {"scorer": judge.scorer}, as_json=as_json, table=csv_file, columns=COLUMNS
    ) as results:
        for absent in found.absent:
            failed = Assessment.failed(absent.code, absent.message, absent.name)
            results.add(failed.to_dict(), valid=False)
        for chunk in progress(chunks, "Rating", hidden=not as_json and sys.stdout.isatty()):
            assessments = scorer.assess(chunk, **how)
            for path, assessment in zip(chunk, assessments, strict=True):
                result = replace(assessment, name=str(path))
                report_notes(result.name, result.notes)
                if not result.valid:
                    report(result.error or "invalid", result.message or result.name)
                text = _lines(result, words=words) if result.valid else ""
                results.add(result.to_dict(), text, valid=result.valid)
    results.finish()


@with_options
def regions(
    inputs: Inputs,
    judge: SeededJudgeOptions,
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            "--bbox",
            metavar="X0,Y0,X1,Y1",
            help="A region, as fractions of width and height; repeatable.",
        ),
    ] = None,
    max_megapixels: MaxMegapixels = None,
    as_json: AsJson = False,
) -> None:
    """Rate regions of images: those given, or those that a Zoom-IQA judge chooses."""
    bboxes = [_parse_bbox(text) for text in boxes or ()]
    found = find_inputs(inputs)
    scorer = judge.load()
    if not bboxes and not _is_zoom_iqa(scorer):
        stop(f"give --bbox: only a Zoom-IQA judge chooses regions, and {judge.scorer!r} is not one")
    limits = limit_arguments(scorer, max_megapixels)
    with Results({"scorer": judge.scorer}, as_json=as_json) as results:
        for absent in found.absent:
            results.add({"name": absent.name, "regions": []}, valid=False)
        for path in progress(
            found.paths, "Rating regions", hidden=not as_json and sys.stdout.isatty()
        ):
            rated = _rate_regions(scorer, path, bboxes, limits)
            lines = []
            for region in rated:
                box = ",".join(f"{edge:.3f}" for edge in region.bbox)
                if region.valid:
                    lines.append(f"{_rating(region.rating, region.rating_std)}  {box}  {path}")
                else:
                    report(region.error or "invalid", f"{path}, region {box}: {region.message}")
            record = {"name": str(path), "regions": [asdict(region) for region in rated]}
            results.add(record, "\n".join(lines), valid=bool(lines))
    results.finish()


def _score_on_ray(
    inputs: list[str],
    out: str,
    judge: SeededJudgeOptions,
    ray: RayOptions,
    batch: int,
    max_megapixels: float | None,
    expected: bool,
) -> None:
    from zoomiqa_core.scale.ray_data import JudgeBatch

    how: dict[str, Any] = {"mode": "expected"} if expected else {}
    if max_megapixels is not None:
        how["limits"] = image_limits(max_megapixels)
    make = partial(JudgeBatch, judge.scorer, device=judge.device, **judge.settings(), **how)
    settings = {**asdict(judge), "command": "score", "expected": expected}
    settings |= {"max_megapixels": max_megapixels, "column": ray.column, "key": ray.key}
    del settings["device"]
    units, lost = ray.units(inputs)
    run_scaled(units, lost, make, JudgeBatch.fields, out, settings, ray, batch if batch > 1 else 16)


def _is_zoom_iqa(scorer: Scorer) -> bool:
    from zoomiqa_core.zoom_iqa.judge import ZoomIQA

    return isinstance(scorer, ZoomIQA)


def _parse_bbox(text: str) -> BBox:
    try:
        return check_bbox([float(edge) for edge in text.split(",")])
    except ValueError as error:
        raise typer.BadParameter(f"--bbox {text!r}: expected X0,Y0,X1,Y1; {error}") from error


def _rate_regions(
    scorer: Scorer, path: Path, bboxes: list[BBox], limits: dict[str, Any]
) -> list[RegionScore]:
    """Regions of one image; none, and a message, when it cannot be judged."""
    from zoomiqa_core.images.errors import ImageError

    if bboxes:
        try:
            return scorer.score_regions(path, bboxes, **limits)
        except ImageError as error:
            report(error.code, str(error))
            return []
    assessment = scorer.assess(path, regions="model", **limits)  # pyright: ignore[reportCallIssue]
    if not assessment.valid:
        report(assessment.error or "invalid", assessment.message or str(path))
    elif not assessment.regions:
        typer.echo(f"note: {path}: the judge chose no region", err=True)
    return list(assessment.regions)


def _lines(result: Assessment, *, words: bool) -> str:
    lines = [f"{_rating(result.rating, result.rating_std)}  {result.score:5.1f}  {result.name}"]
    for label, sentences in (("improve", result.directions), ("avoid", result.issues)):
        lines += [f"  {label}: {printable(sentence)}" for sentence in sentences if words]
    return "\n".join(lines)


def _rating(rating: float, std: float) -> str:
    return f"{rating:.2f}" if math.isnan(std) else f"{rating:.2f} ± {std:.2f}"
