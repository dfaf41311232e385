"""``restoration-guide``: restore images N ways and keep the best, from the command line.

Results go to the standard output, everything else to the standard error. Exit codes: 0 done,
1 error (wrong usage, a restorer or a report that failed), 2 no input gave a valid result (images
that cannot be read, candidates that cannot be judged), 130 interrupted. A bad image never stops
the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restoration_guide.cli.gate import calibrate_gate, gate
from restoration_guide.cli.prompts import prompts
from zoomiqa_core.cli.options import ERROR, NOTHING_VALID, CommandGroup, stop
from zoomiqa_core.images.sources import ImageError, find_images

if TYPE_CHECKING:
    from restoration_guide.cli.config import RunConfig
    from restoration_guide.report.index import Failure, Job
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.best_of_n import BestOfN
    from restoration_guide.search.selection import Selection

DEMO_PHOTO = Path(__file__).resolve().parents[1] / "demo" / "photo.jpg"

app = typer.Typer(
    cls=CommandGroup,
    help="Restore images N ways, judge every candidate, keep the best one or the input.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

app.command("gate")(gate)
app.command("calibrate-gate")(calibrate_gate)
app.command("prompts")(prompts)

# torchrun reads the whole line and takes `--n` for one of its own options: there it is `-n`.
N = Annotated[int | None, typer.Option("-n", "--n", help="Candidates per image.  [default: 8]")]
Seed = Annotated[int | None, typer.Option(help="Seed of the candidates.  [default: 0]")]


@app.command("best-of-n")
def best_of_n(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Image files, folders or globs.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Gets one report folder per image.")
    ] = Path("runs/best-of-n"),
    n: N = None,
    seed: Seed = None,
    restorer: Annotated[
        str | None,
        typer.Option(help='"builtin", or a pipeline\'s folder or hub id.  [default: builtin]'),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Words for a pipeline that takes a prompt.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What such a pipeline is to avoid.")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help='"proxy", "tiny", or a judge\'s folder or hub id.  [default: proxy]'),
    ] = None,
    second: Annotated[
        str | None,
        typer.Option(help='A second judge, who chooses among the best: "tiny", folder, hub id, …'),
    ] = None,
    finalists: Annotated[
        int | None, typer.Option(help="How many the second judge sees.  [default: 3]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help='Where both compute, e.g. "cuda".  [default: cpu]')
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Stds of doubt about the input.  [default: 1.5]")
    ] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="Rating points to gain over the input.  [default: 0]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Candidates made at once.  [default: 1]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="Settings, e.g. a report's config.yaml; options win."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip images whose report is there already.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace reports of other runs.")
    ] = False,
) -> None:
    """Restore each image N ways, keep the best; a report folder for each, an index of all.

    Several processes share the images: `accelerate launch --multi_gpu -m restoration_guide.cli.main
    best-of-n … --device cuda`, or torchrun on CPUs. Cut short, the same command goes on with
    `--resume`, on any number of processes.
    """
    from restoration_guide.cli.batch import share_of
    from restoration_guide.cli.output_folders import output_folders
    from restoration_guide.report.index import (
        PAGE,
        Job,
        record_outcome,
        totals,
        totals_in_words,
        write_index,
    )
    from zoomiqa_core.runs.launch import interrupted_once, launched_process

    options = {
        "n": n,
        "seed": seed,
        "restorer": restorer,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "scorer": scorer,
        "second": second,
        "finalists": finalists,
        "device": device,
        "confidence": confidence,
        "min_gain": min_gain,
        "batch_size": batch_size,
        "threads": threads,
    }
    run, paths = _resolve(config, options), find_images(inputs)
    jobs = [Job(*pair) for pair in zip(paths, output_folders(paths, out), strict=True)]
    with launched_process(run.device) as process, interrupted_once():
        search = _load(run, out)
        try:
            for job in share_of(process, jobs, asdict(run)):
                failure = _restore(job, run, search, len(jobs) > 1, resume, overwrite)
                with suppress(OSError):  # a full disk is the image's failure: it stays pending
                    record_outcome(job, failure)
            process.wait()
        finally:
            if process.is_main:
                rows = write_index(out, jobs)
                typer.echo(f"{totals_in_words(totals(rows))}\nindex {out / PAGE}")
        if process.is_main:
            _finish([row["status"] for row in rows])


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The report folder.")] = Path(
        "runs/demo"
    ),
    n: N = None,
    seed: Seed = None,
    photo: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own photo instead of the bundled one.")
    ] = None,
) -> None:
    """Restore a bundled, damaged photo: everything is local, and it takes under a minute."""
    from restoration_guide.report.index import Job, image_row

    run = _resolve(None, {"n": n, "seed": seed})
    job = Job(photo or DEMO_PHOTO, out)
    failure = _restore(job, run, _load(run), overwrite=True)
    _finish([failure.status if failure else image_row(out)["status"]])


def _resolve(config: Path | None, options: dict[str, Any]) -> RunConfig:
    """The settings of a run; bad ones end the program."""
    from restoration_guide.cli.config import ConfigError, resolve_config

    try:
        return resolve_config(config, options)
    except ConfigError as error:
        stop(str(error), error)


def _load(run: RunConfig, out: Path | None = None) -> BestOfN:
    """Load the models and look at the run's folder; whatever fails here ends the program."""
    import torch

    from restoration_guide.report.index import check_index

    try:
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        if out is not None:
            check_index(out)
        return run.build()
    # Absent folders, a hub out of reach, weights of another shape, a folder of somebody else's.
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        stop(str(error), error)


def _restore(
    job: Job,
    run: RunConfig,
    search: BestOfN,
    brief: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> Failure | None:
    """Restore, report and print one image; what kept it from a report, if anything did."""
    from restoration_guide.cli.batch import restore_image
    from restoration_guide.report.index import Failure
    from restoration_guide.search.best_of_n import SearchInterrupted

    def show(selection: Selection) -> None:
        typer.echo(_summary(job, selection, brief))
        if selection.error is not None:
            typer.echo(
                f"error: {job.path}: the restorer stopped early: {selection.error}", err=True
            )

    try:
        with _progress(job.path, run.n) as advance:
            selection = restore_image(
                job, search, asdict(run), resume=resume, overwrite=overwrite, progress=advance
            )
    except ImageError as error:
        typer.echo(f"error: {error.code}: {error}", err=True)
        return Failure("unreadable", error.code, str(error))
    except SearchInterrupted as interrupt:
        if (error := interrupt.__cause__) is None:
            show(interrupt.selection)
        else:
            typer.echo(f"error: {job.path}: {type(error).__name__}: {error}", err=True)
        raise
    except Exception as error:  # one image's failure is not the others'
        typer.echo(f"error: {job.path}: {type(error).__name__}: {error}", err=True)
        return Failure("failed", type(error).__name__, str(error))
    if selection is None:
        typer.echo(f"{job.path}: already done, see {job.folder / 'report.html'}")
    else:
        show(selection)
    return None


def _summary(job: Job, selection: Selection, brief: bool) -> str:
    """What was chosen and, unless ``brief``, why, the figures, and where the picture is."""
    from restoration_guide.report.wording import fidelity_in_words, outcome_in_words

    first = f"{job.path}: {outcome_in_words(selection)}"
    if brief:
        return f"{first}, {selection.timing.total:.1f} s"
    lines = [first, f"  why       {selection.reason}"]
    after = selection.row(selection.choice)
    if after.fidelity is not None:
        lines.append(f"  fidelity  {fidelity_in_words(after.fidelity)}")
    if selection.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in selection.skipped.items())
        lines.append(f"  skipped   {reasons}")
    lines += [
        f"  time      {selection.timing.total:.1f} s, "
        f"judging {100 * selection.timing.judging_share:.1f} %",
        f"  picture   {job.folder / 'comparison.png'}",
        f"  report    {job.folder / 'report.html'}",
    ]
    return "\n".join(lines)


@contextmanager
def _progress(path: Path, n: int) -> Iterator[Callable[[Candidate], None] | None]:
    """A bar over the candidates, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(escape(path.name), total=n)
        yield lambda candidate: bar.advance(task)


def _finish(statuses: Sequence[str]) -> None:
    """The exit code: 1 when something failed, 2 when no image gave a valid result."""
    if {"failed", "stopped", "pending"} & set(statuses):
        raise typer.Exit(ERROR)
    if not {"restored", "kept"} & set(statuses):
        typer.echo("error: no input gave a valid result", err=True)
        raise typer.Exit(NOTHING_VALID)


if __name__ == "__main__":
    app()
