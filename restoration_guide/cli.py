"""``restoration-guide``: restore images N ways and keep the best, from the command line.

Results go to the standard output, everything else to the standard error. Exit codes: 0 done,
1 error (wrong usage, a restorer or a report that failed), 2 no input gave a valid result (images
that cannot be read, candidates that cannot be judged), 130 interrupted. A bad image never stops
the others.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from restoration_guide.cli_gate import calibrate_gate, gate
from restoration_guide.cli_prompts import prompts
from zoomiqa_core.command_line import ERROR, NOTHING_VALID, CommandGroup
from zoomiqa_core.images import ImageError, find_images, read_image

if TYPE_CHECKING:
    from restoration_guide.best_of_n import BestOfN
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.run_config import RunConfig
    from restoration_guide.selection import Selection

DEMO_PHOTO = Path(__file__).resolve().parent / "demo" / "photo.jpg"

Outcome = Literal["done", "invalid", "error"]

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

N = Annotated[int | None, typer.Option("--n", help="Candidates per image.  [default: 8]")]
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
        str | None, typer.Option(help='"builtin", or a folder.  [default: builtin]')
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help='"proxy", or a judge\'s folder or hub id.  [default: proxy]')
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="k of the bound rating − k·std.  [default: 0.5]")
    ] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="Rating points to gain over the input.  [default: 0.1]")
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
    """Restore each image N ways, keep the best and write a report folder."""
    from restoration_guide.output_folders import output_folders

    options = {
        "n": n,
        "seed": seed,
        "restorer": restorer,
        "scorer": scorer,
        "confidence": confidence,
        "min_gain": min_gain,
        "batch_size": batch_size,
        "threads": threads,
    }
    run, search = _prepare(config, options)
    paths = find_images(inputs)
    outcomes = []
    for path, folder in zip(paths, output_folders(paths, out), strict=True):
        outcomes.append(_process(path, folder, run, search, overwrite=overwrite, resume=resume))
    _finish(Counter(outcomes))


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
    run, search = _prepare(None, {"n": n, "seed": seed})
    outcome = _process(photo or DEMO_PHOTO, out, run, search, overwrite=True)
    _finish(Counter([outcome]))


def _prepare(config: Path | None, options: dict[str, Any]) -> tuple[RunConfig, BestOfN]:
    """Resolve the settings and load the models; whatever fails here ends the program."""
    import torch

    from restoration_guide.run_config import resolve_config

    try:
        run = resolve_config(config, options)
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        return run, run.build()
    # Bad settings, absent folders, a hub out of reach, weights of another shape.
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(ERROR) from error


def _process(
    path: Path,
    folder: Path,
    run: RunConfig,
    search: BestOfN,
    *,
    overwrite: bool,
    resume: bool = False,
) -> Outcome:
    """Search, report and print one image; what can be refused is refused before the search."""
    from restoration_guide.best_of_n import SearchInterrupted
    from restoration_guide.report_folder import check_folder, is_done, run_identity

    settings = asdict(run)
    try:
        pixels = read_image(path, limits=search.restorer.limits).pixels
        identity = run_identity(pixels, settings)
        if resume and is_done(folder, identity):
            typer.echo(f"{path}: already done, see {folder / 'report.html'}")
            return "done"
        check_folder(folder, identity, overwrite)
        with _progress(path, run.n) as advance:
            selection = search(path, seed=run.seed, progress=advance)
        selection.report(folder, settings=settings, overwrite=overwrite)
    except ImageError as error:
        typer.echo(f"error: {error.code}: {error}", err=True)
        return "invalid"
    except SearchInterrupted as interrupt:
        try:
            interrupt.selection.report(folder, settings=settings, overwrite=overwrite)
        except Exception as error:
            typer.echo(f"error: {path}: {type(error).__name__}: {error}", err=True)
        else:
            typer.echo(_summary(path, folder, interrupt.selection))
        raise
    except Exception as error:  # one image's failure is not the others'
        typer.echo(f"error: {path}: {type(error).__name__}: {error}", err=True)
        return "error"
    typer.echo(_summary(path, folder, selection))
    if selection.error is not None:
        typer.echo(f"error: {path}: the restorer stopped early: {selection.error}", err=True)
        return "error"
    return "done" if _was_judged(selection) else "invalid"


def _was_judged(selection: Selection) -> bool:
    """Whether the input and at least one candidate have a valid judgement."""
    valid = {index for index, judgement in selection.assessments.items() if judgement.valid}
    return "input" in valid and len(valid) > 1


def _summary(path: Path, folder: Path, selection: Selection) -> str:
    """A few aligned lines: what was chosen, the figures, where the picture is."""
    before, after = selection.row("input"), selection.row(selection.choice)
    count = len(selection.rows) - 1
    kept = selection.choice == "input"
    change = "" if kept else f" → {after.rating:.2f} ± {after.rating_std:.2f}"
    lines = [
        f"{path}: " + ("input kept" if kept else f"candidate {selection.choice} of {count} chosen"),
        f"  why       {selection.reason}",
        f"  rating    {before.rating:.2f} ± {before.rating_std:.2f}{change}",
    ]
    if after.fidelity is not None:
        lines.append(
            f"  fidelity  low-pass distance {after.fidelity.low_pass_distance:.4f}, "
            f"coarse PSNR {after.fidelity.degraded_psnr:.1f} dB"
        )
    if selection.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in selection.skipped.items())
        lines.append(f"  skipped   {reasons}")
    lines += [
        f"  time      {selection.timing.total:.1f} s, "
        f"judging {100 * selection.timing.judging_share:.1f} %",
        f"  picture   {folder / 'comparison.png'}",
        f"  report    {folder / 'report.html'}",
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


def _finish(outcomes: Counter[str]) -> None:
    if outcomes["error"]:
        raise typer.Exit(ERROR)
    if not outcomes["done"]:
        typer.echo("error: no input gave a valid result", err=True)
        raise typer.Exit(NOTHING_VALID)
