"""Read rows of label files; errors name the file, the row and the field."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from zoomiqa_core.data.benchmarks.rated_images import Scale


@dataclass(frozen=True)
class Row:
    """One row of a label file.

    >>> Row({"MOS": "abc"}, "labels.csv, line 7").label("MOS", Scale("MOS", 0, 100))
    Traceback (most recent call last):
    ValueError: labels.csv, line 7: MOS 'abc' is not a number
    """

    values: Mapping[str, Any]
    where: str
    """File and line, for messages."""

    def text(self, field: str) -> str:
        """The field as stripped text.

        Raises:
            ValueError: the field is absent or empty.
        """
        value = self.values.get(field)
        if value is None or isinstance(value, bool) or not str(value).strip():
            raise ValueError(f"{self.where}: no value for {field!r}")
        # A spreadsheet keeps a name made of digits as a number: 1600 or 1600.0.
        return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()

    def label(self, field: str, scale: Scale) -> float:
        """The field as a number on ``scale``.

        Raises:
            ValueError: not a finite number, or outside the declared range.
        """
        text = self.text(field)
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"{self.where}: {field} {text!r} is not a number") from None
        if not math.isfinite(number):
            raise ValueError(f"{self.where}: {field} {text!r} is not finite")
        if not scale.low <= number <= scale.high:
            raise ValueError(
                f"{self.where}: {field} {number:g} lies outside [{scale.low:g}, {scale.high:g}]"
            )
        return number

    def image(self, field: str) -> str:
        """The field as the relative path of an image below the dataset's folder.

        Raises:
            ValueError: an absolute path or one that leaves the folder.
        """
        name = self.text(field)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(
                f"{self.where}: {field} {name!r} must be a relative path inside the image folder"
            )
        return name


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    r"""Rows of a CSV file whose header has at least ``columns``.

    >>> _ = Path("mos.csv").write_text("image,mos\na.png,3.5\n")
    >>> [(row.text("mos"), row.where) for row in csv_rows(Path("mos.csv"), ("image", "mos"))]
    [('3.5', 'mos.csv, line 2')]
    """
    with _open(path) as lines:
        reader = csv.DictReader(lines)
        _check_columns(reader.fieldnames or (), columns, f"{path}, line 1")
        for values in reader:
            yield Row(values, f"{path}, line {reader.line_num}")


def plain_rows(path: Path, columns: Sequence[str], separator: str | None) -> Iterator[Row]:
    """Rows of a text file without a header; ``separator`` None is any whitespace.

    >>> _ = Path("mos.txt").write_text("3.5 a.png")
    >>> next(plain_rows(Path("mos.txt"), ("mos", "name"), None)).values
    {'mos': '3.5', 'name': 'a.png'}
    """
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            parts = line.strip().split(separator)
            if not line.strip():
                continue
            if len(parts) != len(columns):
                raise ValueError(
                    f"{path}, line {number}: expected {len(columns)} fields "
                    f"({', '.join(columns)}), got {line.strip()!r}"
                )
            yield Row(dict(zip(columns, parts, strict=True)), f"{path}, line {number}")


def sheet_rows(
    path: Path, columns: Sequence[str], *, sheet: str | None = None, header: int = 1
) -> Iterator[Row]:
    """Rows of an Excel sheet (by default the first one) below the row number ``header``.

    Raises:
        ImportError: openpyxl is not installed.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            f"reading {path.name} needs openpyxl: pip install 'zoomiqa-restoration-guide[eval]'"
        ) from error
    _check_file(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # the parser raises whatever its zip and XML layers do
        raise ValueError(f"{path} is not a readable Excel workbook: {error}") from error
    try:
        if sheet is not None and sheet not in book.sheetnames:
            raise ValueError(f"{path} has no sheet {sheet!r}; it has {book.sheetnames}")
        rows = book[sheet or book.sheetnames[0]].iter_rows(min_row=header, values_only=True)
        names = [str(name).strip() if name is not None else "" for name in next(rows, ())]
        _check_columns(names, columns, f"{path}, row {header}")
        for number, cells in enumerate(rows, start=header + 1):
            values = dict(zip(names, cells, strict=False))
            if any(
                values.get(name) is not None for name in columns
            ):  # sheets may end in blank rows
                yield Row(values, f"{path}, row {number}")
    finally:
        book.close()


def mat_column(path: Path, variable: str) -> list[Any]:
    """A vector or cell array of a MATLAB file as a list of plain values.

    >>> from scipy.io import savemat
    >>> savemat("mos.mat", {"mos": [3.5, 4.0]})
    >>> mat_column(Path("mos.mat"), "mos")
    [3.5, 4.0]
    """
    from scipy.io import loadmat

    _check_file(path)
    try:
        content = loadmat(path, squeeze_me=True)
    except Exception as error:  # the parser raises whatever the bytes lead it to
        raise ValueError(f"{path} is not a readable MATLAB file: {error}") from error
    if variable not in content:
        names = sorted(name for name in content if not name.startswith("__"))
        raise ValueError(f"{path} has no variable {variable!r}; it has {names}")
    return content[variable].reshape(-1).tolist()


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON list of objects, numbered from 0 as in Zoom-IQA's evaluator.

    >>> _ = Path("test.json").write_text('[{"image": "1.jpg", "gt_score": 3.2}]')
    >>> [(row.text("image"), row.where) for row in json_rows(Path("test.json"))]
    [('1.jpg', 'test.json, row 0')]
    """
    with _open(path) as lines:
        try:
            rows = json.load(lines)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a JSON list of objects, got {type(rows).__name__}")
    for number, values in enumerate(rows):
        if not isinstance(values, dict):
            raise ValueError(
                f"{path}, row {number}: expected an object, got {type(values).__name__}"
            )
        yield Row(values, f"{path}, row {number}")


def _open(path: Path) -> TextIO:
    _check_file(path)
    return path.open(newline="", encoding="utf-8-sig")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; give the folder of the dataset as distributed")


def _check_columns(found: Sequence[str], expected: Sequence[str], where: str) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(f"{where}: no column {missing}; the header is {list(found)}")
