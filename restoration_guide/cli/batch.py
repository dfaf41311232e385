"""Many images, one after the other: a report folder each, shared out over processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from restoration_guide.report.folder import check_folder, config_hash, is_done, run_identity
from restoration_guide.report.index import Job
from restoration_guide.report.write import write_report
from restoration_guide.search.best_of_n import BestOfN, SearchInterrupted
from zoomiqa_core.images.sources import read_image
from zoomiqa_core.runs.launch import Process

if TYPE_CHECKING:
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.selection import Selection


def share_of(process: Process, jobs: Sequence[Job], settings: Mapping[str, Any]) -> Sequence[Job]:
    """What this process does; equally much of what is left to do, whoever did the rest.

    Whether an image is done is taken from its report's settings alone; who resumes compares its
    pixels too, which cannot be done for all images in every process.
    """
    identity = {"config_sha256": config_hash(settings)}
    ordered = sorted(jobs, key=lambda job: is_done(job.folder, identity))
    process.wait()  # everybody has seen the same reports before anybody writes one
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

    What can be refused is refused before the search.

    Args:
        job: the image and its folder.
        search: restorer and judge.
        settings: the resolved settings, with the seed.
        resume: leave a whole report of the same pixels and settings as it is.
        overwrite: replace another run's report.
        progress: called with each candidate as it is finished.

    Raises:
        ImageError: the image cannot be read, or the restorer cannot take its size.
        ReportExistsError: the folder holds something else.
        SearchInterrupted: Ctrl-C; what was finished is reported, unless that failed: then the
            failure is its cause.
    """
    pixels = read_image(job.path, limits=search.restorer.limits).pixels
    identity = run_identity(pixels, settings)
    if resume and is_done(job.folder, identity):
        return None
    check_folder(job.folder, identity, overwrite)
    try:
        selection = search(job.path, seed=settings["seed"], progress=progress)
    except SearchInterrupted as interrupt:
        try:
            write_report(interrupt.selection, job.folder, settings=settings, overwrite=overwrite)
        except Exception as error:
            raise interrupt from error
        raise
    write_report(selection, job.folder, settings=settings, overwrite=overwrite)
    return selection
