"""``restoration-guide pick``: choose among images that exist already."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restoration_guide.cli.best_of_n import ChoiceOptions
from zoomiqa_core.cli.inputs import check_output, check_picture, find_inputs, is_picture, safe_name
from zoomiqa_core.cli.options import (
    AsJson,
    ConfigFile,
    given_options,
    image_limits,
    stop,
    with_options,
)
from zoomiqa_core.cli.results import Results, printable, progress, report

if TYPE_CHECKING:
    from restoration_guide.cli.config import PickRunConfig
    from restoration_guide.report.index import Job
    from restoration_guide.search.selection import Row, Selection


@dataclass(frozen=True)
class PickOptions(ChoiceOptions):
    """Options of ``restoration-guide pick``; the defaults are those of its settings."""

    scorer: Annotated[
        str | None,
        typer.Option(
            help='Judge: "restoration", "proxy" or "tiny" (bundled), a folder, or a hub id.',
            show_default='"restoration", or "proxy" with --no-input',
        ),
    ] = None


@dataclass(frozen=True)
class Contest:
    """One input and the images to choose from."""

    name: str
    """Path of the input; "images" where there is none."""
    input: Path | None
    images: Mapping[str, Path]
    """By method, or by their paths."""
    folder: Path
    """Of its report, below the output folder."""
    problems: Sequence[str] = field(default=())
    """Methods whose result is not clear, in words."""


@with_options
def pick(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT CANDIDATES...",
            help="The degraded image, then restored ones: files, folders or patterns. Or a folder "
            "of inputs, then one folder for each method with outputs of the same names, or one "
            "folder that holds those.",
        ),
    ],
    options: PickOptions,
    no_input: Annotated[
        bool,
        typer.Option(
            "--no-input",
            help="All images are candidates, e.g. samples of a text-to-image model: the best rated "
            "one wins. The restoration judge is less certain without an input.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for one report folder per input and an index; or, of one input, the "
            "chosen picture's file.",
        ),
    ] = None,
    config: ConfigFile = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace other reports, or the picture.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Choose the best of images that exist already, or keep the input.

    Of several methods the last lines say how often each won. A candidate that cannot be read, or
    has another size than the input, is named and counted; the others go on.
    """
    from restoration_guide.cli.config import PickRunConfig, resolve_or_stop
    from restoration_guide.report.folder import ReportExistsError
    from restoration_guide.report.index import (
        Failure,
        Job,
        check_index,
        record_outcome,
        write_index,
    )
    from restoration_guide.search.choice import NoCandidateError
    from zoomiqa_core.images.errors import ImageError

    run = resolve_or_stop(PickRunConfig, config, given_options(context, options))
    sizes = image_limits(run.max_megapixels)
    contests, methods = find_contests(images, no_input)
    picture = out is not None and is_picture(out)
    if out is not None:
        out = out.expanduser()
        if picture:
            paths = [each.input or next(iter(each.images.values())) for each in contests]
            check_picture(out, paths, overwrite=overwrite, bits=run.bits)
        else:
            check_output(out)
    choose = _load(run, with_input=not no_input)
    wins: Counter[str] = Counter()
    jobs: list[Job] = []
    with Results({"config": asdict(run)}, as_json=as_json) as results:
        for contest in progress(contests, "Choosing", hidden=not as_json and sys.stdout.isatty()):
            for problem in contest.problems:
                report("ambiguous", f"{contest.name}: its result is not clear: {problem}")
            job = Job(contest.input or Path(contest.name), (out or Path()) / contest.folder)
            failure: Failure | None = None
            try:
                if out is not None and not picture:
                    check_index(out)
                    jobs.append(job)
                selection = choose(contest.input, contest.images, sizes=sizes)
                if picture and out is not None:
                    selection.save(out, bits=run.bits)
                elif out is not None:
                    _write(selection, job.folder, run, overwrite)
                wins[_name(selection.row(selection.choice))] += 1
                judged = any(row.status == "ok" for row in selection.rows if row.index != "input")
                results.add(_record(contest, selection), _summary(contest, selection), valid=judged)
            except (ImageError, NoCandidateError, ReportExistsError, OSError, ValueError) as error:
                code = getattr(error, "code", type(error).__name__)
                failure = Failure(
                    "unreadable" if isinstance(error, ImageError) else "failed", code, str(error)
                )
                report(code, f"{contest.name}: {error}")
                results.add(
                    {"input": contest.name, "error": code, "message": str(error)}, valid=False
                )
            if jobs:
                with suppress(OSError):
                    record_outcome(job, failure)
    if jobs and out is not None:
        write_index(out, jobs)
    if methods and not as_json:
        counts = ", ".join(f"{name} {wins[name]}" for name in ("input", *methods))
        typer.echo(f"{wins.total()} photos, won by: {counts}")
    results.finish()


def find_contests(given: Sequence[str], no_input: bool) -> tuple[list[Contest], list[str]]:
    """The choices to make, and the names of the methods where there are several.

    >>> for name in ("in/a.png", "out/x/a.png", "out/y/a.jpg"):
    ...     Path(name).parent.mkdir(parents=True, exist_ok=True)
    ...     Path(name).touch()
    >>> contests, methods = find_contests(["in", "out"], no_input=False)
    >>> methods, {name: path.as_posix() for name, path in contests[0].images.items()}
    (['x', 'y'], {'x': 'out/x/a.png', 'y': 'out/y/a.jpg'})
    """
    if no_input:
        paths = find_inputs(given).paths
        return [Contest("images", None, {str(path): path for path in paths}, Path("images"))], []
    if len(given) < 2:
        stop(
            "expected INPUT and at least one of CANDIDATES, got "
            f"{' '.join(given)}; where there is no input, add --no-input"
        )
    root = Path(given[0]).expanduser()
    if root.is_dir():
        return _by_method(given[0], given[1:])
    found = find_inputs(given[1:]).paths
    images = {str(path): path for path in found if not _same(path, root)}
    return [Contest(given[0], root, images, Path(safe_name(root.name)))], []


def _by_method(inputs: str, given: Sequence[str]) -> tuple[list[Contest], list[str]]:
    """One choice for each input of a folder, among the results of several methods."""
    from restoration_guide.cli.pairs import pair_images

    folders = [Path(each).expanduser() for each in given]
    for folder in folders:
        if not folder.is_dir():
            stop(
                f"{inputs} is a folder, so that each of CANDIDATES must be the folder of one "
                f"method, with outputs of the same names; {folder} is not a folder"
            )
    tops = [folder.resolve() for folder in folders]
    found = [
        image
        for image in find_inputs([inputs]).images
        if not any(image.path.resolve().is_relative_to(top) for top in tops)
    ]
    if not found:
        stop(f"{inputs} has no inputs outside the folders of CANDIDATES")
    if len(folders) == 1 and not any(p.after.is_file() for p in pair_images(found, folders[0])):
        inner = sorted(folders[0].iterdir())
        folders = [each for each in inner if each.is_dir() and each.name[0] != "."] or folders
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    pairs = [pair_images(found, folder) for folder in folders]
    contests = []
    for image, results in zip(found, zip(*pairs, strict=True), strict=True):
        by_name = dict(zip(names, results, strict=True))
        clear = {name: pair.after for name, pair in by_name.items() if not pair.problem}
        problems = [f"{name}: {pair.problem}" for name, pair in by_name.items() if pair.problem]
        folder = Path(*map(safe_name, image.relative.parts))
        contests.append(Contest(str(image.path), image.path, clear, folder, problems))
    return contests, names


def _load(run: PickRunConfig, *, with_input: bool) -> Callable[..., Selection]:
    import torch

    try:
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        return run.build(with_input=with_input)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        stop(str(error), error)


def _write(selection: Selection, folder: Path, run: PickRunConfig, overwrite: bool) -> None:
    from restoration_guide.report.write import write_report

    settings = {"device": run.device, "bits": run.bits, "max_megapixels": run.max_megapixels}
    write_report(selection, folder, settings=settings, overwrite=overwrite, bits=run.bits)


def _name(row: Row) -> str:
    return "input" if row.index == "input" else str(row.settings["image"])


def _record(contest: Contest, selection: Selection) -> dict[str, Any]:
    return {
        "input": None if contest.input is None else contest.name,
        "choice": _name(selection.row(selection.choice)),
        "reason": selection.reason,
        "ranking": [_name(selection.row(index)) for index in selection.ranking],
        "rows": selection.table,
    }


def _summary(contest: Contest, selection: Selection) -> str:
    return "\n".join(map(printable, _lines(contest, selection)))


def _lines(contest: Contest, selection: Selection) -> Iterator[str]:
    """The choice and the reason, then whatever could not be used."""
    yield f"{contest.name}: {_name(selection.row(selection.choice))}"
    yield f"  why       {selection.reason}"
    for row in selection.rows:
        if row.status != "ok":
            yield f"  {row.status}: {_name(row)}: {row.detail.removeprefix(f'{_name(row)}: ')}"


def _same(path: Path, other: Path) -> bool:
    with suppress(OSError):
        return path.samefile(other)
    return False
