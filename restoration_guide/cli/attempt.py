"""One image of ``best-of-n``: its result, or why there is none, on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from zoomiqa_core.cli.inputs import is_picture
from zoomiqa_core.cli.results import report

if TYPE_CHECKING:
    from restoration_guide.report.index import Failure, Job
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.selection import Selection


def attempt(
    job: Job,
    n: int,
    make: Callable[[Callable[[Candidate], None] | None], Selection | None],
    brief: bool = False,
) -> Failure | None:
    """Make one image's result and print it; why there is none, if there is none."""
    from restoration_guide.report.index import Failure
    from restoration_guide.search.selection import SearchInterrupted
    from zoomiqa_core.images.errors import ImageError

    def show(selection: Selection) -> None:
        typer.echo(_summary(job, selection, brief))
        if selection.error is not None:
            typer.echo(f"error: {job.path}: the search stopped early: {selection.error}", err=True)

    try:
        with _progress(job.path, n) as advance:
            selection = make(advance)
    except ImageError as error:
        report(error.code, str(error))
        return Failure("unreadable", error.code, str(error))
    except SearchInterrupted as interrupt:
        if (error := interrupt.__cause__) is None:
            show(interrupt.selection)
        else:
            typer.echo(f"error: {job.path}: {type(error).__name__}: {error}", err=True)
        raise
    except Exception as error:  # a failure affects only that image
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
        f"judging {100 * selection.timing.judging_share:.1f} %, "
        f"fidelity {100 * selection.timing.fidelity_share:.1f} %",
    ]
    if is_picture(job.folder):
        lines.append(f"  picture   {job.folder}")
    else:
        lines.append(f"  picture   {job.folder / 'comparison.png'}")
        lines.append(f"  report    {job.folder / 'report.html'}")
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
