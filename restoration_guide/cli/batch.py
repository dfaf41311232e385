"""Many images, restored one by one: a report folder each, distributed over processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from restoration_guide.report.folder import check_folder, config_hash, is_done, run_identity
from restoration_guide.report.index import Job
from restoration_guide.report.write import keep_candidate, write_report
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.selection import SearchInterrupted
from zoomiqa_core.images.sources import read_image
from zoomiqa_core.runs.launch import Process

if TYPE_CHECKING:
    from pathlib import Path

    from restoration_guide.cli.config import RunConfig
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.selection import Selection


def resolved_settings(run: RunConfig, search: BestOfN) -> dict[str, Any]:
    """The settings of a run as its reports record them, the restorer's defaults included."""
    config = getattr(search.restorer, "config", None)  # prompts, plan and options of a pipeline
    return {**asdict(run), "restorer_config": config or run.restorer_config}


def share_of(process: Process, jobs: Sequence[Job], settings: Mapping[str, Any]) -> Sequence[Job]:
    """The jobs of this process; every process gets equally many of those that are not done.

    A job counts as done by the settings of its report alone; :func:`restore_image` compares the
    input's pixels too, which would take too long for all images in every process.
    """
    identity = {"config_sha256": config_hash(settings)}
    ordered = sorted(jobs, key=lambda job: is_done(job.folder, identity))
    process.wait()  # all processes have read the reports before one writes any
    return process.share(ordered)


def restore_image(
    job: Job,
    search: BestOfN,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Candidate], None] | None = None,
) -> Selection | None:
    """Search and report one image; None when its whole report is there and ``resume`` is set.

    Each candidate is kept in the folder as soon as it is finished.

    Args:
        job: the image and its folder.
        search: restorer and judge.
        settings: see :func:`resolved_settings`.
        resume: leave a whole report of the same pixels and settings as it is.
        overwrite: replace another run's report.
        progress: called with each finished candidate.

    Raises:
        ImageError: the image cannot be read, or the restorer cannot take its size.
        ReportExistsError: the folder holds something else; raised before the search.
        SearchInterrupted: Ctrl-C; the finished candidates are reported. If that failed, the failure
            is its cause.
    """
    decoded = read_image(job.path, limits=search.restorer.limits)
    identity = run_identity(decoded.pixels, settings)
    if resume and is_done(job.folder, identity):
        return None
    check_folder(job.folder, identity, overwrite)

    def finished(candidate: Candidate) -> None:
        keep_candidate(candidate, job.folder, decoded, settings)
        if progress is not None:
            progress(candidate)

    def write(selection: Selection) -> None:
        write_report(
            selection,
            job.folder,
            settings=settings,
            overwrite=overwrite,
            bits=settings["bits"],
        )

    return _searched(job.path, search, settings, write, finished)


def restore_picture(
    path: Path,
    picture: Path,
    search: BestOfN,
    settings: Mapping[str, Any],
    progress: Callable[[Candidate], None] | None = None,
) -> Selection:
    """Search one image and write the chosen picture alone.

    Args:
        path: the image.
        picture: file; its suffix names the format.
        search: restorer and judge.
        settings: see :func:`resolved_settings`.
        progress: called with each finished candidate.

    Raises:
        ImageError: the image cannot be read, or the restorer cannot take its size.
        SearchInterrupted: as in :func:`restore_image`.
    """

    def write(selection: Selection) -> None:
        selection.save(picture, bits=settings["bits"])

    return _searched(path, search, settings, write, progress)


def _searched(
    path: Path,
    search: BestOfN,
    settings: Mapping[str, Any],
    write: Callable[[Selection], None],
    progress: Callable[[Candidate], None] | None,
) -> Selection:
    """The outcome of a search, written also when Ctrl-C ends it."""
    try:
        selection = search(path, seed=settings["seed"], progress=progress)
    except SearchInterrupted as interrupt:
        try:
            write(interrupt.selection)
        except Exception as error:
            raise interrupt from error
        raise
    write(selection)
    return selection
