"""What a command prints: results as they are made, messages, progress."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

import typer

from zoomiqa_core.cli.options import finish, stop
from zoomiqa_core.runs.files import to_json

Item = TypeVar("Item")


class Results:
    """Results of a command on the standard output, each as soon as it is made.

    They are lines of text, or (``as_json``) one JSON document ``{…, "results": [{…}, …]}``; and
    rows of a CSV file beside. Both are whole files also when the block ends early, by Ctrl-C for
    example.

    Args:
        head: the first keys of the JSON document.
        as_json: print JSON instead of text.
        table: CSV file, replaced when the first row is written.
        columns: of the CSV file.
    """

    def __init__(
        self,
        head: Mapping[str, Any],
        *,
        as_json: bool = False,
        table: Path | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        self.head = head
        self.as_json = as_json
        self.table = table
        self.columns = columns
        self.valid: list[bool] = []
        self._file: TextIO | None = None

    def __enter__(self) -> Results:
        if self.as_json:
            opening = to_json(self.head, sort_keys=False).removesuffix("\n}\n")
            self._echo(f'{opening},\n  "results": [')
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.as_json:
            typer.echo("\n  ]\n}")
        if self._file is not None:
            self._file.close()

    def add(self, record: Mapping[str, Any], text: str = "", *, valid: bool) -> None:
        """Give out one result.

        Args:
            record: its values, for JSON and CSV.
            text: its lines; printed unless it is empty or JSON is wanted.
            valid: whether it counts for the exit code.
        """
        if self.as_json:
            row = to_json(record, sort_keys=False, indent=None).rstrip()
            self._echo(f"{',' if self.valid else ''}\n    {row}")
        elif text:
            typer.echo(text)
        if self.table is not None:
            self._write_row(self.table, record)
        self.valid.append(valid)

    def finish(self) -> None:
        """End the program with the exit code for "nothing valid" when no result was."""
        finish(self.valid)

    def _write_row(self, table: Path, record: Mapping[str, Any]) -> None:
        try:
            # not atomic: rows are there to be read while the rest is made
            first = self._file is None
            self._file = self._file or table.expanduser().open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
            rows = csv.DictWriter(
                self._file, self.columns, extrasaction="ignore", lineterminator="\n"
            )
            if first:
                rows.writeheader()
            rows.writerow(record)
            self._file.flush()
        except OSError as error:
            stop(f"cannot write: {error}", error)

    def _echo(self, text: str) -> None:
        """Print a part of the JSON document, in ASCII where the output knows no more."""
        try:
            text.encode(sys.stdout.encoding or "ascii")
        except UnicodeEncodeError:
            text = re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
        typer.echo(text, nl=False)


def progress(items: Sequence[Item], label: str, *, hidden: bool = False) -> Iterator[Item]:
    """Iterate over the items with a progress bar on the standard error.

    Args:
        items: what to iterate over.
        label: beside the bar.
        hidden: no bar, e.g. because results scroll by on the same terminal.
    """
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
    r"""The text without control characters, so that a judge's words cannot steer the terminal.

    >>> printable("noise\x1b[2J")
    'noise�[2J'
    """
    return "".join(char if char.isprintable() else "�" for char in text)


def report(code: str, message: str) -> None:
    """Print a failure on the standard error; the program goes on."""
    typer.echo(f"error: {code}: {message}", err=True)


def report_notes(name: str, notes: Sequence[str]) -> None:
    """Print what was decided while reading an image on the standard error."""
    if notes:
        typer.echo(f"note: {name}: {'; '.join(notes)}", err=True)
