"""``zoomiqa``: judge images from the command line.

Results go to the standard output, everything else to the standard error. Exit codes: 0 done,
1 error (wrong usage, or nothing could run), 2 no input gave a valid result.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from zoomiqa_core import __version__
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.data.benchmarks import find_benchmark, read_benchmark
from zoomiqa_core.environment import environment, environment_text
from zoomiqa_core.evaluate import default_folder, evaluate, launched_process, sample
from zoomiqa_core.evaluation_summary import summarise, summary_table, write_summary
from zoomiqa_core.files import to_json, write_text_atomic
from zoomiqa_core.heatmap import draw_map, worst_region
from zoomiqa_core.images import ImageError, find_images, read_image, save_png
from zoomiqa_core.scorer import Scorer, load_scorer
from zoomiqa_core.training.run import versions

ERROR, NOTHING_VALID = 1, 2
"""Exit codes."""

Item = TypeVar("Item")

COLUMNS: tuple[str, ...] = ("name", "rating", "rating_std", "score", "valid", "error", "message")
"""Columns of the CSV table; the numbers of a failed judgement are empty."""

# Typer exports this class's children only, and where it lives differs between its versions.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class CommandGroup(TyperGroup):
    """A command group in which wrong usage exits with 1: 2 is taken by "nothing valid"."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the options of the program."""
        with _usage_exits_with_error():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Parse and run a command."""
        with _usage_exits_with_error():
            return super().invoke(ctx)


@contextmanager
def _usage_exits_with_error() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.exit_code = ERROR  # pyright: ignore[reportAttributeAccessIssue]
        raise


app = typer.Typer(
    cls=CommandGroup,
    help="Judge image quality: ratings from 1 (bad) to 5 (excellent), and maps of where.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Image files, folders or glob patterns.")
]
ScorerName = Annotated[
    str, typer.Option("--scorer", help='"proxy" (bundled), or a folder or hub id of a judge.')
]
Device = Annotated[str, typer.Option(help='Where to judge, e.g. "cuda".')]


@app.command()
def score(
    inputs: Inputs,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a table to FILE as well.")
    ] = None,
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
) -> None:
    """Rate images: rating ± standard deviation (1–5), score (0–100), name."""
    paths = find_images(inputs)
    judge = _load(scorer, device)
    results: list[Assessment] = []
    for path in _progress(paths, "Rating", hidden=not as_json and sys.stdout.isatty()):
        result = replace(judge.assess(path), name=str(path))
        results.append(result)
        _report_notes(result.name, result.notes)
        if not result.valid:
            _report(result.error or "invalid", result.message, result.name)
        elif not as_json:
            typer.echo(
                f"{result.rating:.2f} ± {result.rating_std:.2f}  {result.score:5.1f}  {result.name}"
            )
    if as_json:
        records = [result.to_dict() for result in results]
        document = {"scorer": scorer, "results": records}
        typer.echo(to_json(document, sort_keys=False), nl=False)
    if csv_file is not None:
        with _write_errors():
            write_text_atomic(csv_file, _to_csv(results))
    _finish([result.valid for result in results])


@app.command(name="map")
def draw(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures.")] = Path(
        "runs/maps"
    ),
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
) -> None:
    """Draw quality maps with the worst region boxed, one PNG per image; print their paths."""
    paths = find_images(inputs)
    judge = _load(scorer, device)
    drawn: list[Path] = []
    for path in _progress(paths, "Mapping", hidden=sys.stdout.isatty()):
        try:
            image = read_image(path)
        except ImageError as error:
            _report(error.code, str(error), str(path))
            continue
        _report_notes(image.name, image.notes)
        quality_map = judge.quality_map(image.pixels)
        bbox = worst_region(quality_map)
        rating = judge.score_regions(image.pixels, [bbox])[0].rating
        picture = draw_map(image.pixels, quality_map, bbox, rating)
        target = _map_path(out, path.stem, drawn)
        with _write_errors():
            save_png(picture, target)
        drawn.append(target)
        typer.echo(str(target))
    _finish([True] * len(drawn))


@app.command(name="eval")
def evaluate_judge(
    dataset: Annotated[
        str, typer.Argument(metavar="SET", help="Dataset, or a .json file of annotations.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The dataset's folder.")],
    split: Annotated[
        str | None, typer.Option(help="training, validation or test; all without.")
    ] = None,
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Images per call of the judge.")] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Judge this many images, drawn at random.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder; resumed. Default: runs/eval/SET-SPLIT-JUDGE"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and of the intervals.")] = 0,
) -> None:
    """Compare a judge with people: correlations on a dataset, a summary, a scatter plot.

    Several processes share the images: `accelerate launch --multi_gpu -m zoomiqa_core.cli eval …`,
    or torchrun on CPUs. Killed, the same command goes on, on any number of processes.
    """
    with launched_process(device) as process, _run_errors():
        benchmark = find_benchmark(dataset)
        images = sample(read_benchmark(dataset, data, split), limit, seed)
        judge = _load(scorer, device)
        identity = {"dataset": benchmark.title, "split": split or "", "scorer": scorer}
        identity |= {"labels": str(benchmark.scale), "seed": seed}
        folder = out or default_folder(identity)
        judgements = evaluate(
            images,
            judge,
            folder,
            root=data,
            config={**identity, "settings": getattr(judge, "settings", {})},
            batch=batch,
            process=process,
            progress=lambda chunks: _progress(chunks, "Judging", hidden=not process.is_main),
        )
        if process.is_main:
            summary = summarise(judgements, identity)
            _print_table(summary_table(summary))
            for path in write_summary(judgements, summary, folder):
                typer.echo(str(path))
            _finish([judgement["valid"] for judgement in judgements])


@app.command(name="env")
def show_environment(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is installed here: versions, devices, optional parts."""
    document = {"zoomiqa": __version__, "versions": versions(), **environment()}
    typer.echo(
        to_json(document, sort_keys=False) if as_json else environment_text(document), nl=False
    )


def _load(name: str, device: str) -> Scorer:
    try:
        return load_scorer(name, device=device)
    # An absent folder, a hub out of reach, a device that is not there: all end the program.
    except (OSError, RuntimeError, ValueError) as error:
        raise _failed(f"cannot load the scorer {name!r}: {error}") from error


def _progress(items: Sequence[Item], label: str, *, hidden: bool) -> Iterator[Item]:
    """The items, with a bar on a terminal; where results themselves scroll by, ``hidden``."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        console=Console(stderr=True),
        disable=hidden or not sys.stderr.isatty(),
        transient=True,
        redirect_stdout=False,  # rich would send results to the standard error
    ) as progress:
        yield from progress.track(items, description=label)


def _report(code: str, message: str, name: str) -> None:
    typer.echo(f"error: {code}: {message or name}", err=True)


def _report_notes(name: str, notes: Sequence[str]) -> None:
    if notes:
        typer.echo(f"note: {name}: {'; '.join(notes)}", err=True)


def _finish(valid: Sequence[bool]) -> None:
    if not any(valid):
        typer.echo("error: no input gave a valid result", err=True)
        raise typer.Exit(NOTHING_VALID)


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


@contextmanager
def _run_errors() -> Iterator[None]:
    """What ends a run with a message: files, labels, another run's folder, a missing package."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if isinstance(error, typer.Exit):  # a RuntimeError, for click's sake
            raise
        raise _failed(str(error)) from error


@contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(f"cannot write: {error}") from error


def _failed(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(ERROR)


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Away from a terminal rich would fold everything into 80 columns.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    app()
