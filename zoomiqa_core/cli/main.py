"""``zoomiqa``: judge images from the command line.

Results go to the standard output, everything else to the standard error. Exit codes: 0 done,
1 error (wrong usage, or nothing could run), 2 no input gave a valid result.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from zoomiqa_core.assessment import Assessment, BBox, RegionScore, check_bbox
from zoomiqa_core.cli.evaluate import evaluate_judge, show_environment
from zoomiqa_core.cli.options import (
    AsJson,
    Batch,
    CommandGroup,
    Device,
    Inputs,
    ModelName,
    PromptsName,
    Samples,
    ScorerName,
    Seed,
    finish,
    load_judge,
    printable,
    progress,
    report,
    report_notes,
    stop,
    write_errors,
)
from zoomiqa_core.images.heatmap import draw_map, worst_region
from zoomiqa_core.images.sources import ImageError, find_images, read_image, save_png
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.scorer import Scorer
from zoomiqa_core.zoom_iqa.judge import ZoomIQA

COLUMNS: tuple[str, ...] = ("name", "rating", "rating_std", "score", "valid", "error", "message")
"""Columns of the CSV table; the numbers of a failed judgement are empty."""

app = typer.Typer(
    cls=CommandGroup,
    help="Judge image quality: ratings from 1 (bad) to 5 (excellent), and maps of where.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

app.command(name="eval")(evaluate_judge)
app.command(name="env")(show_environment)


@app.command()
def score(
    inputs: Inputs,
    as_json: AsJson = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a table to FILE as well.")
    ] = None,
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
    prompts: PromptsName = None,
    model: ModelName = None,
    samples: Samples = None,
    seed: Seed = None,
    batch: Batch = 1,
    expected: Annotated[
        bool,
        typer.Option(
            "--expected", help="Of a Zoom-IQA judge: the rating it would give at once, no words."
        ),
    ] = False,
    words: Annotated[
        bool, typer.Option("--words", help="Print what to improve and what to avoid as well.")
    ] = False,
) -> None:
    """Rate images: rating ± standard deviation (1–5), score (0–100), name."""
    paths = find_images(inputs)
    judge = load_judge(scorer, device, prompts, model, samples, seed)
    if expected and not isinstance(judge, ZoomIQA):
        stop(f"--expected asks a Zoom-IQA judge, and {scorer!r} is none")
    how: dict[str, Any] = {"mode": "expected"} if expected else {}
    results: list[Assessment] = []
    parts = [paths[first : first + batch] for first in range(0, len(paths), batch)]
    for part in progress(parts, "Rating", hidden=not as_json and sys.stdout.isatty()):
        for path, said in zip(part, judge.assess(part, **how), strict=True):
            result = replace(said, name=str(path))
            results.append(result)
            report_notes(result.name, result.notes)
            if not result.valid:
                report(result.error or "invalid", result.message, result.name)
            elif not as_json:
                _print(result, words=words)
    if as_json:
        records = [result.to_dict() for result in results]
        document = {"scorer": scorer, "results": records}
        typer.echo(to_json(document, sort_keys=False), nl=False)
    if csv_file is not None:
        with write_errors():
            write_text_atomic(csv_file, _to_csv(results))
    finish([result.valid for result in results])


@app.command()
def regions(
    inputs: Inputs,
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            "--bbox", metavar="X0,Y0,X1,Y1", help="A region in shares of the image; repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
    prompts: PromptsName = None,
    model: ModelName = None,
    samples: Samples = None,
    seed: Seed = None,
) -> None:
    """Rate regions of images: those given, or those a Zoom-IQA judge chooses to look at."""
    bboxes = [_parse_bbox(text) for text in boxes or ()]
    paths = find_images(inputs)
    judge = load_judge(scorer, device, prompts, model, samples, seed)
    if not bboxes and not isinstance(judge, ZoomIQA):
        stop(f"give --bbox; only a Zoom-IQA judge chooses regions itself, and {scorer!r} is none")
    records: list[dict[str, Any]] = []
    valid: list[bool] = []
    for path in progress(paths, "Rating regions", hidden=not as_json and sys.stdout.isatty()):
        found = _regions_of(judge, path, bboxes)
        valid.append(any(region.valid for region in found or ()))
        records.append({"name": str(path), "regions": found})
        for region in found or ():
            box = ",".join(f"{share:.3f}" for share in region.bbox)
            if not region.valid:
                report(
                    region.error or "invalid", f"{path}, region {box}: {region.message}", str(path)
                )
            elif not as_json:
                typer.echo(f"{_rating(region.rating, region.rating_std)}  {box}  {path}")
    if as_json:
        for record in records:
            record["regions"] = [asdict(region) for region in record["regions"] or ()]
        typer.echo(to_json({"scorer": scorer, "results": records}, sort_keys=False), nl=False)
    finish(valid)


@app.command(name="map")
def draw(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures.")] = Path(
        "runs/maps"
    ),
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
    prompts: PromptsName = None,
    model: ModelName = None,
    samples: Samples = None,
    seed: Seed = None,
) -> None:
    """Draw quality maps with the worst region boxed, one PNG per image; print their paths."""
    paths = find_images(inputs)
    judge = load_judge(scorer, device, prompts, model, samples, seed)
    drawn: list[Path] = []
    for path in progress(paths, "Mapping", hidden=sys.stdout.isatty()):
        try:
            image = read_image(path)
        except ImageError as error:
            report(error.code, str(error), str(path))
            continue
        report_notes(image.name, image.notes)
        quality_map = judge.quality_map(image.pixels)
        if not quality_map.isfinite().any():
            report("not_judged", "the judge gave no region a rating", str(path))
            continue
        bbox = worst_region(quality_map)
        region = judge.score_regions(image.pixels, [bbox])[0]
        rating = region.rating if region.valid else None
        picture = draw_map(image.pixels, quality_map, bbox, rating)
        target = _map_path(out, path.stem, drawn)
        with write_errors():
            save_png(picture, target)
        drawn.append(target)
        typer.echo(str(target))
    finish([True] * len(drawn))


def _parse_bbox(text: str) -> BBox:
    try:
        return check_bbox([float(share) for share in text.split(",")])
    except ValueError as error:
        raise typer.BadParameter(f"--bbox {text!r}: expected X0,Y0,X1,Y1; {error}") from error


def _regions_of(judge: Scorer, path: Path, bboxes: list[BBox]) -> list[RegionScore] | None:
    """Regions of one image; None, and a word on the standard error, when it cannot be judged."""
    if bboxes:
        try:
            return judge.score_regions(path, bboxes)
        except ImageError as error:
            report(error.code, str(error), str(path))
            return None
    said = judge.assess(path, regions="model")  # pyright: ignore[reportCallIssue]
    if not said.valid:
        report(said.error or "invalid", said.message, str(path))
        return None
    if not said.regions:
        typer.echo(f"note: {path}: the judge asked to see no region", err=True)
    return list(said.regions)


def _print(result: Assessment, *, words: bool) -> None:
    typer.echo(f"{_rating(result.rating, result.rating_std)}  {result.score:5.1f}  {result.name}")
    for label, sentences in (("improve", result.directions), ("avoid", result.issues)):
        for sentence in sentences if words else ():
            typer.echo(f"  {label}: {printable(sentence)}")


def _rating(rating: float, std: float) -> str:
    return f"{rating:.2f}" if math.isnan(std) else f"{rating:.2f} ± {std:.2f}"


def _to_csv(results: Sequence[Assessment]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.to_dict() for result in results)
    return table.getvalue()


def _map_path(out: Path, stem: str, taken: Sequence[Path]) -> Path:
    """``out/stem_map.png``, numbered when inputs of other folders or suffixes share the stem."""
    path, number = out / f"{stem}_map.png", 2
    while path in taken:
        path, number = out / f"{stem}_map_{number}.png", number + 1
    return path


if __name__ == "__main__":
    app()
