"""Shared by all benchmarks: command-line arguments, Markdown tables, the record of a run."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoomiqa_core.evaluation.correlation import Estimate
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import versions

PHOTOS = "folder of clean photos no model was trained on, 256 px or more on each side"
BIQ2021 = "folder of the BIQ2021 dataset"

Table = Mapping[str, Estimate | float]
"""Measure → value, with a 95 % interval where there is one."""


def arguments(doc: str | None, *, out: str, **defaults: Any) -> argparse.ArgumentParser:
    """Create a parser with ``--seed``, ``--out`` and one option per default.

    >>> parser = arguments("Measure.", out="result.json", photos=None, steps=4)
    >>> parser.parse_args(["--photos", "photos", "--steps", "8"])
    Namespace(photos=PosixPath('photos'), steps=8, seed=0, out=PosixPath('result.json'))

    Args:
        doc: the script's docstring, shown by ``--help``.
        out: default of ``--out``, a file or a folder.
        defaults: option → default; None is an optional text. ``photos`` and ``biq2021`` are
            required folders, whatever the value.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folders = {"photos": PHOTOS, "biq2021": BIQ2021}
    for name, value in {**defaults, "seed": 0}.items():
        option = "--" + name.replace("_", "-")
        if name in folders:
            parser.add_argument(option, required=True, type=Path, help=folders[name])
        else:
            kind = str if value is None else type(value)
            parser.add_argument(option, default=value, type=kind, help=f"default: {value}")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"default: {out}")
    return parser


def cell(value: Any, digits: int = 3, *, sign: bool = False) -> str:
    """Format a value for a table; in texts, ``|`` is escaped.

    >>> cell(Estimate(0.653, 0.581, 0.713)), cell(0.5, 1, sign=True), cell(None)
    ('0.653 [0.581, 0.713]', '+0.5', '')
    """
    form = f"{'+' if sign else ''}.{digits}f"
    if isinstance(value, Estimate):
        low, high = format(value.low, form), format(value.high, form)
        return f"{format(value.value, form)} [{low}, {high}]"
    if isinstance(value, float):
        return format(value, form)
    return "" if value is None else str(value).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 3) -> str:
    """Markdown table of rows whose first cell is a name.

    >>> print(table(["judge", "SRCC"], [["proxy", 0.7]]))
    | judge | SRCC |
    | --- | ---: |
    | proxy | 0.700 |
    """
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[cell(value, digits) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def side_by_side(columns: Mapping[str, Table], digits: int = 3) -> str:
    """Markdown table with a row per measure and a column per table.

    >>> print(side_by_side({"proxy": {"SRCC": 0.7}, "alarm": {"SRCC": 0.6, "PLCC": 0.5}}))
    | measure | proxy | alarm |
    | --- | ---: | ---: |
    | SRCC | 0.700 | 0.600 |
    | PLCC |  | 0.500 |
    """
    measures = dict.fromkeys(name for column in columns.values() for name in column)
    rows = ([name, *(column.get(name) for column in columns.values())] for name in measures)
    return table(["measure", *columns], rows, digits)


def hardware() -> dict[str, str | int]:
    """Processor, number of cores and package versions of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        **versions(),
    }


def finish(options: argparse.Namespace, text: str, out: Path | None = None, **record: Any) -> None:
    """Print the tables and write them as JSON with the arguments, the hardware and ``record``."""
    print(text)
    known = {name: _plain(value) for name, value in vars(options).items()}
    record = {"arguments": known, "hardware": hardware(), "table": text.splitlines(), **record}
    written = write_text_atomic(out or options.out, to_json(record, sort_keys=False))
    print(f"written: {written}")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
