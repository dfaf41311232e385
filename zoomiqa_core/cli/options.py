"""What the programs share: the program itself, its options, and how it ends.

Nothing here imports torch, so that ``--help`` is answered at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer
from typer.core import TyperGroup

from zoomiqa_core import __version__

if TYPE_CHECKING:
    from zoomiqa_core.images.errors import ImageLimits
    from zoomiqa_core.scorer import Scorer

ERROR, NOTHING_VALID = 1, 2
"""Exit codes."""

# Typer exports this class's children only, and where it lives differs between its versions.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class CommandGroup(TyperGroup):
    """A command group in which wrong usage exits with 1: 2 means "nothing valid"."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the options of the program."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a name or "→" that it cannot encode is escaped
                stream.reconfigure(errors="backslashreplace")  # pyright: ignore
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


def new_program(description: str) -> typer.Typer:
    """A program of verbs, with ``--version``.

    Args:
        description: what ``--help`` shows first.
    """
    app = typer.Typer(
        cls=CommandGroup,
        help=description,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )
    app.callback()(_program)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _program(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = False,
) -> None:
    pass


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Image files, folders or glob patterns.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images per call of the judge.")]
MaxMegapixels = Annotated[
    float | None,
    typer.Option(
        "--max-megapixels",
        help="Largest image that is read, in millions of pixels.",
        show_default="64",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="YAML", help="Settings; options given beside it win."),
]


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge, where, and how it is asked."""

    scorer: Annotated[
        str,
        typer.Option(
            help='Judge: "proxy", "restoration", "alarm" or "tiny" (bundled), a folder, a hub id, '
            'http://…/v1, or "pyiqa:NAME".'
        ),
    ] = "proxy"
    device: Annotated[str, typer.Option(help='Where to compute, e.g. "cuda".')] = "cpu"
    prompts: Annotated[
        str | None,
        typer.Option(help='Zoom-IQA judges: "builtin", "official" or a YAML file of prompts.'),
    ] = None
    model: Annotated[
        str | None, typer.Option(help="Judges on a server: the model's name there.")
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(help="Zoom-IQA judges: chains per image; four or more give a spread."),
    ] = None

    def settings(self) -> dict[str, Any]:
        """What ``load_scorer`` takes besides the name and the device."""
        from zoomiqa_core.zoom_iqa.judge import JudgeConfig

        sampling = _given(samples=self.samples, seed=getattr(self, "seed", None))
        config = {"config": JudgeConfig(**sampling)} if sampling else {}
        return _given(prompts=self.prompts, model=self.model) | config

    def load(self) -> Scorer:
        """The judge; what prevents loading it ends the program with an error."""
        from zoomiqa_core import scorer

        try:
            return scorer.load_scorer(self.scorer, device=self.device, **self.settings())
        # An absent folder or library, a hub out of reach, a missing device: all end the program.
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            stop(f"cannot load the scorer {self.scorer!r}: {error}", error)


@dataclass(frozen=True)
class SeededJudgeOptions(JudgeOptions):
    """The same, of a command whose ``--seed`` is that of the judge's sampling."""

    seed: Annotated[int | None, typer.Option(help="Zoom-IQA judges: seed of the sampling.")] = None


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def limit_arguments(scorer: Scorer, max_megapixels: float | None) -> dict[str, Any]:
    """``limits=…`` for a judge's methods; empty for the default limits."""
    if max_megapixels is None:
        return {}
    if "limits" not in inspect.signature(scorer.assess).parameters:
        stop(f"--max-megapixels: the judge {scorer.name!r} reads images of up to 64 megapixels")
    return {"limits": image_limits(max_megapixels)}


def image_limits(max_megapixels: float | None) -> ImageLimits:
    """Limits with another number of pixels, None for the default; a bad one ends the program."""
    from zoomiqa_core.images.errors import ImageLimits

    if max_megapixels is None:
        return ImageLimits()
    try:
        return ImageLimits(max_pixels=round(max_megapixels * 1e6))
    except ValueError as error:
        stop(f"--max-megapixels {max_megapixels:g}: {error}", error)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Turn each dataclass among a command's parameters into one option per field.

    The command is called with the dataclass built from the options. A field's annotation is
    ``Annotated[type, typer.Option(…)]``; its default is the option's.
    """
    expanded: list[inspect.Parameter] = []
    schemas: dict[str, Any] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        schema = parameter.annotation
        if not (isinstance(schema, type) and is_dataclass(schema)):
            expanded.append(parameter)
            continue
        schemas[parameter.name] = schema
        hints = get_type_hints(schema, include_extras=True)
        expanded += [
            parameter.replace(name=each.name, default=each.default, annotation=hints[each.name])
            for each in fields(schema)
        ]

    @wraps(command)
    def run(**values: Any) -> None:
        for name, schema in schemas.items():
            values[name] = schema(**{each.name: values.pop(each.name) for each in fields(schema)})
        command(**values)

    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in expanded]
    run.__signature__ = inspect.Signature(keywords)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {each.name: each.annotation for each in keywords}
    return run


def given_options(context: typer.Context, options: Any) -> dict[str, Any]:
    """Fields of an options dataclass that the user wrote on the command line."""
    sources = {each.name: context.get_parameter_source(each.name) for each in fields(options)}
    return {
        name: getattr(options, name)
        for name, source in sources.items()
        if source is not None and source.name != "DEFAULT"
    }


def stop(message: str, cause: Exception | None = None) -> NoReturn:
    """End the program with an error."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(ERROR) from cause


def finish(valid: list[bool]) -> None:
    """End with the exit code for "nothing valid" when no input was."""
    if not any(valid):
        typer.echo("error: no input gave a valid result", err=True)
        raise typer.Exit(NOTHING_VALID)
