"""``restoration-guide best-of-n`` and ``demo``: restore images N ways and keep the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restoration_guide.cli.attempt import attempt
from restoration_guide.cli.restorer import RestorerOptions
from restoration_guide.cli.scaled import restore_on_ray
from zoomiqa_core.cli.inputs import (
    check_output,
    check_picture,
    find_inputs,
    is_picture,
    output_paths,
)
from zoomiqa_core.cli.options import (
    ERROR,
    ConfigFile,
    Inputs,
    finish,
    given_options,
    stop,
    with_options,
)
from zoomiqa_core.cli.scaled import RayOptions

if TYPE_CHECKING:
    from restoration_guide.cli.config import RunConfig
    from restoration_guide.report.index import Failure, Job
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.best_of_n import BestOfN
    from restoration_guide.search.selection import Selection

DEMO_PHOTO = Path(__file__).resolve().parents[1] / "demo" / "photo.jpg"

# torchrun reads the whole line and takes `--n` for one of its own options: there it is `-n`.
N = Annotated[int, typer.Option("-n", "--n", help="Candidates per image.")]
Seed = Annotated[int, typer.Option(help="Seed of the candidates.")]


@dataclass(frozen=True)
class DemoOptions:
    """Options of ``restoration-guide demo``; the defaults are those of its settings."""

    n: N = 8
    seed: Seed = 0


@dataclass(frozen=True)
class ChoiceOptions:
    """Options of the choice among candidates, and of the pictures that are read and written."""

    second: Annotated[
        str | None, typer.Option(help="A second judge, which chooses among the best candidates.")
    ] = None
    finalists: Annotated[
        int, typer.Option(help="Number of candidates that the second judge rates.")
    ] = 3
    device: Annotated[str, typer.Option(help='Where to compute, e.g. "cuda".')] = "cpu"
    select: Annotated[
        str, typer.Option(help='Of the better candidates: best "gain", "rating" or "consensus".')
    ] = "gain"
    min_probability: Annotated[
        float, typer.Option(help="Probability with which a candidate must beat the input.")
    ] = 0.6
    min_gain: Annotated[
        float, typer.Option(help="Rating points a candidate must gain over the input.")
    ] = 0.0
    batch_size: Annotated[int, typer.Option(help="Candidates restored and judged together.")] = 1
    bits: Annotated[
        int, typer.Option(help="Bits per channel of the chosen picture: 8, or 16 of a PNG.")
    ] = 8
    max_megapixels: Annotated[
        float | None,
        typer.Option(
            help="Largest image that is read, in millions of pixels.",
            show_default="64, or the restorer's limit",
        ),
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="Number of torch threads.", show_default="torch's own")
    ] = None


@dataclass(frozen=True)
class BestOfNOptions(ChoiceOptions, RestorerOptions, DemoOptions):
    """Options of ``restoration-guide best-of-n``; the defaults are those of its settings."""

    scorer: Annotated[
        str,
        typer.Option(
            help='Judge: "restoration", "proxy" or "tiny" (bundled), a folder, or a hub id.'
        ),
    ] = "restoration"
    target_gain: Annotated[
        float | None,
        typer.Option(help="End the search when the best gain is probably this many points."),
    ] = None
    min_improvement: Annotated[
        float,
        typer.Option(help="End it when one more is expected to add less; 0 makes all candidates."),
    ] = 0.0
    refine: Annotated[
        int, typer.Option(help="Then judge so many other strengths of the best candidate.")
    ] = 0


@with_options
def best_of_n(
    context: typer.Context,
    inputs: Inputs,
    options: BestOfNOptions,
    ray: RayOptions,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for one report folder per image; or, of one image, the chosen picture's "
            "file, e.g. restored.jpg.",
        ),
    ] = Path("runs/best-of-n"),
    config: ConfigFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip images whose report is there already.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace reports of other runs, or the picture.")
    ] = False,
) -> None:
    """Restore each image N ways, keep the best; a report folder for each, an index of all.

    The report of FOLDER/sub/photo.jpg is DIR/sub/photo.jpg/report.html. A report's config.yaml is
    a --config file that repeats its run. Pictures keep the input's EXIF and alpha.

    Several processes share the images: `accelerate launch --multi_gpu -m restoration_guide.cli.main
    best-of-n … --device cuda`, or torchrun on CPUs. After an interruption, the same command with
    `--resume` continues the run, on any number of processes.
    """
    from restoration_guide.cli.batch import resolved_settings, share_of
    from restoration_guide.cli.config import RunConfig, resolve_or_stop
    from restoration_guide.report.index import (
        PAGE,
        Job,
        record_outcome,
        totals,
        totals_in_words,
        write_index,
    )
    from zoomiqa_core.runs.launch import interrupted_once, launched_process

    run = resolve_or_stop(RunConfig, config, given_options(context, options))
    if ray.on_ray():
        restore_on_ray(inputs, str(out), run, ray)
        return
    if is_picture(out):
        _restore_to(out.expanduser(), run, find_inputs(inputs).paths, overwrite)
        return
    images = find_inputs(inputs, out).images
    out = out.expanduser()
    folders = output_paths(images, out)
    jobs = [Job(image.path, folder) for image, folder in zip(images, folders, strict=True)]
    check_output(out)
    with launched_process(run.device) as process, interrupted_once():
        search = _load(run, out)
        settings = resolved_settings(run, search)
        try:
            for job in share_of(process, jobs, settings):
                failure = _restore(job, settings, search, len(jobs) > 1, resume, overwrite)
                with suppress(OSError):  # on a full disk the image stays pending
                    record_outcome(job, failure)
            process.wait()
        finally:
            if process.is_main:
                rows = write_index(out, jobs)
                typer.echo(f"{totals_in_words(totals(rows))}\nindex {out / PAGE}")
        if process.is_main:
            _finish([row["last_attempt"] or row["status"] for row in rows])


@with_options
def demo(
    context: typer.Context,
    options: DemoOptions,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The report folder.")] = Path(
        "runs/demo"
    ),
    photo: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own photo instead of the bundled one.")
    ] = None,
) -> None:
    """Restore a bundled, damaged photo; needs no network and takes under a minute."""
    from restoration_guide.cli.batch import resolved_settings
    from restoration_guide.cli.config import RunConfig, resolve_or_stop
    from restoration_guide.report.index import Job, image_row

    run = resolve_or_stop(RunConfig, None, given_options(context, options))
    check_output(out)
    search = _load(run)
    job = Job(photo or DEMO_PHOTO, out)
    failure = _restore(job, resolved_settings(run, search), search, overwrite=True)
    _finish([failure.status if failure else image_row(out)["status"]])


def _restore_to(out: Path, run: RunConfig, paths: Sequence[Path], overwrite: bool) -> None:
    """Restore one image to a picture's file, without a report."""
    from restoration_guide.cli.batch import resolved_settings, restore_picture
    from restoration_guide.report.index import Job
    from zoomiqa_core.runs.launch import interrupted_once

    path = check_picture(out, paths, overwrite=overwrite, bits=run.bits)
    with interrupted_once():
        search = _load(run)
        settings = resolved_settings(run, search)
        job = Job(path, out)
        done: list[Selection] = []

        def make(advance: Callable[[Candidate], None] | None) -> Selection:
            done.append(restore_picture(path, out, search, settings, advance))
            return done[0]

        failure = attempt(job, settings["n"] + settings["refine"], make)
    if failure is not None:
        _finish([failure.status])
    judged = done[0].row("input").status == "ok" and any(
        row.status == "ok" for row in done[0].rows[1:]
    )
    _finish(["stopped" if done[0].error else "restored" if judged else "unjudged"])


def _load(run: RunConfig, out: Path | None = None) -> BestOfN:
    """Check the run's folder and load the models; a failure ends the program."""
    import torch

    from restoration_guide.report.index import check_index

    try:
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        if out is not None:
            check_index(out)
        return run.build()
    # Absent folders or libraries, a hub out of reach, weights of another shape.
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        stop(str(error), error)


def _restore(
    job: Job,
    settings: dict[str, Any],
    search: BestOfN,
    brief: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> Failure | None:
    """Restore, report and print one image; why it has no report, if it has none."""
    from restoration_guide.cli.batch import restore_image

    def make(advance: Callable[[Candidate], None] | None) -> Selection | None:
        return restore_image(
            job, search, settings, resume=resume, overwrite=overwrite, progress=advance
        )

    return attempt(job, settings["n"] + settings["refine"], make, brief)


def _finish(statuses: Sequence[str]) -> None:
    """Exit with 1 when something failed, with 2 when no image gave a valid result."""
    if {"failed", "stopped", "pending"} & set(statuses):
        raise typer.Exit(ERROR)
    finish([status in ("restored", "kept") for status in statuses])
