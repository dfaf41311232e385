"""What the programs share: exit codes, options, loading a judge, progress, errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

from zoomiqa_core.scorer import Scorer, load_scorer
from zoomiqa_core.zoom_iqa.judge import JudgeConfig

ERROR, NOTHING_VALID = 1, 2
"""Exit codes."""

Item = TypeVar("Item")

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


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Image files, folders or glob patterns.")
]
ScorerName = Annotated[
    str,
    typer.Option(
        "--scorer",
        help='Bundled: "proxy", "alarm", "tiny"; or a folder, a hub id, or http://…/v1.',
    ),
]
Device = Annotated[str, typer.Option(help='Where to judge, e.g. "cuda".')]
PromptsName = Annotated[
    str | None,
    typer.Option("--prompts", help='Of a Zoom-IQA judge: "builtin", "official" or a YAML file.'),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Of a judge on a server: the name it has there.")
]
Samples = Annotated[
    int | None, typer.Option(help="Of a Zoom-IQA judge: chains an image; several give a spread.")
]
Seed = Annotated[int | None, typer.Option(help="Of a Zoom-IQA judge: of its sampling.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


Batch = Annotated[int, typer.Option("--batch", min=1, help="Images per call of the judge.")]


def load_judge(
    name: str,
    device: str,
    prompts: str | None,
    model: str | None,
    samples: int | None = None,
    seed: int | None = None,
) -> Scorer:
    """The judge of these options; what keeps it from being loaded ends the program."""
    settings = _given(prompts=prompts, model=model)
    try:
        if asked := _given(samples=samples, seed=seed):
            settings["config"] = JudgeConfig(**asked)
        return load_scorer(name, device=device, **settings)
    # An absent folder, a hub out of reach, a device that is not there: all end the program.
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        stop(f"cannot load the scorer {name!r}: {error}", error)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def stop(message: str, cause: Exception | None = None) -> NoReturn:
    """End the program with an error."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(ERROR) from cause


def progress(items: Sequence[Item], label: str, *, hidden: bool) -> Iterator[Item]:
    """The items, with a bar on a terminal; where results themselves scroll by, ``hidden``."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        console=Console(stderr=True),
        disable=hidden or not sys.stderr.isatty(),
        transient=True,
        redirect_stdout=False,  # rich would send results to the standard error
    ) as bar:
        yield from bar.track(items, description=label)


def printable(text: str) -> str:
    """The text without control characters: a judge's words must not steer the terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)


def report(code: str, message: str, name: str) -> None:
    """Name a failure; the program goes on."""
    typer.echo(f"error: {code}: {message or name}", err=True)


def report_notes(name: str, notes: Sequence[str]) -> None:
    """Say what was decided while reading an image."""
    if notes:
        typer.echo(f"note: {name}: {'; '.join(notes)}", err=True)


def finish(valid: Sequence[bool]) -> None:
    """End with the exit code for "nothing valid" when no input was."""
    if not any(valid):
        typer.echo("error: no input gave a valid result", err=True)
        raise typer.Exit(NOTHING_VALID)


@contextmanager
def write_errors() -> Iterator[None]:
    """End the program when the block cannot write."""
    try:
        yield
    except OSError as error:
        stop(f"cannot write: {error}", error)
