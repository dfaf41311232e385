"""Rows to judge: images in folders, columns of Parquet files, members of WebDataset tars.

A run lists its inputs as *units* (some image files, one Parquet file or one tar), and any machine
can read any unit. What cannot be read becomes a row with an error, never the end of the run.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zoomiqa_core.images.folders import SUFFIXES, Absent, search_images
from zoomiqa_core.images.inputs import in_parts
from zoomiqa_core.scale.names import is_done
from zoomiqa_core.scale.storage import filesystem_of, is_uri, require

Row = dict[str, Any]
"""``name``, ``cells`` (one image per column), and ``error`` and ``message`` of a bad row."""

IMAGE_COLUMN = "image"
"""Column of a Parquet file that is read unless another is named."""
FILES_PER_UNIT = 256
ROWS_PER_BATCH = 64


@dataclass(frozen=True)
class Unit:
    """What one task reads.

    >>> Unit.from_json(Unit("parquet", "a.parquet", ("image",)).to_json()).kind
    'parquet'
    """

    kind: str
    """``"files"``, ``"parquet"`` or ``"tar"``."""
    path: str = ""
    """Of the Parquet file or the tar, as given."""
    columns: tuple[str, ...] = ()
    """Columns with the images of a row; of a tar, suffixes of its members such as ``"jpg"``."""
    key: str | None = None
    """Parquet column with the name of a row; None for ``FILE#NUMBER``."""
    files: tuple[tuple[str, ...], ...] = ()
    """Image files: the name of a row, then one path per image."""

    def to_json(self) -> str:
        """The unit as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Unit:
        """The unit that :meth:`to_json` gave."""
        read = json.loads(text)
        return cls(
            **read | {"columns": tuple(read["columns"]), "files": tuple(map(tuple, read["files"]))}
        )


def find_units(
    inputs: Sequence[str], columns: Sequence[str] = (), key: str | None = None
) -> tuple[list[Unit], list[Absent]]:
    """List what is to be read.

    Args:
        inputs: images, Parquet files, tars, folders of them, glob patterns, or URIs of files and
            folders in an object store.
        columns: that hold the images; by default ``image`` of a Parquet file and every image of a
            tar.
        key: Parquet column with names.

    Returns:
        The units, and the inputs that hold nothing.

    >>> for name in ("in/a.png", "in/b.png", "in/c.parquet"):
    ...     Path(name).parent.mkdir(exist_ok=True)
    ...     Path(name).touch()
    >>> units, absent = find_units(["in", "none"])
    >>> [(unit.kind, unit.path, len(unit.files)) for unit in units], absent[0].code
    ([('parquet', 'in/c.parquet', 0), ('files', '', 2)], 'missing')
    """
    units: list[Unit] = []
    files: list[tuple[str, ...]] = []
    absent: list[Absent] = []
    for given in inputs:
        shards, images = _list_uri(given) if is_uri(given) else _list_local(given)
        for path in shards:
            kind = "tar" if path.lower().endswith(".tar") else "parquet"
            units.append(Unit(kind, path, tuple(columns), key))
        files += [(name, path) for name, path in images]
        if not shards and not images:
            found = search_images([given]).absent if not is_uri(given) else []
            absent += found or [Absent(given, "no_images", f"no images found in {given}")]
    return [*units, *file_units(dict.fromkeys(files))], absent


def file_units(files: Any, length: int = FILES_PER_UNIT) -> list[Unit]:
    """Units of image files.

    Args:
        files: of each row the name, then its paths.
        length: rows per unit, at most.
    """
    listed = [tuple(row) for row in files]
    return [
        Unit("files", files=tuple(listed[first : first + length]))
        for first in range(0, len(listed), length)
    ]


def read_unit(unit: Unit, done: np.ndarray | None = None) -> Iterator[Row]:
    """The rows of a unit whose names are not among those that are done.

    Args:
        unit: what to read.
        done: see :func:`~.names.key_digests`.
    """
    rows = {"files": _read_files, "parquet": _read_parquet, "tar": _read_tar}[unit.kind](unit)
    for part in in_parts(rows, ROWS_PER_BATCH):
        todo = ~is_done([row["name"] for row in part], done)
        yield from (row for row, wanted in zip(part, todo, strict=True) if wanted)


def check_columns(unit: Unit) -> None:
    """Refuse columns that a Parquet file does not have.

    Raises:
        ValueError: the message lists what it has. A file that cannot be read passes: it becomes a
            bad row.
    """
    if unit.kind != "parquet":
        return
    try:
        names = _open_parquet(unit).schema_arrow.names
    except Exception:
        return
    if missing := [name for name in _columns(unit) if name not in names]:
        raise ValueError(
            f"{unit.path} has no column {missing[0]!r}; it has {', '.join(map(repr, names))}; "
            "name those that hold the images with --column, and the names with --key"
        )


def bad_row(name: str, error: str, message: str) -> Row:
    """A row that could not be read."""
    return {"name": name, "cells": (), "error": error, "message": message}


def _row(name: str, cells: Sequence[Any]) -> Row:
    return {"name": name, "cells": tuple(cells), "error": None, "message": None}


def _list_local(given: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Parquet files and tars; names and absolute paths of images."""
    given = os.path.expanduser(given)
    found = [str(path) for path in search_images([given]).paths]
    if os.path.isdir(given):
        inside = sorted(path for path in Path(given).rglob("*") if path.name[0] != ".")
        found += [str(path) for path in inside if _is_shard(path.name)]
    images = [path for path in found if not _is_shard(path)]
    shards = dict.fromkeys(path for path in found if _is_shard(path))
    return list(shards), [(path, os.path.abspath(path)) for path in images]


def _list_uri(given: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The same of an object store, where every name is a URI."""
    fs = require("pyarrow.fs")
    filesystem, path = filesystem_of(given)
    root = given.removesuffix("/")
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.File:
        names = [root]
    elif info.type == fs.FileType.NotFound:
        return [], []
    else:
        inside = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        names = sorted(
            f"{root}/{PurePosixPath(each.path).relative_to(path.removesuffix('/'))}"
            for each in inside
            if each.type == fs.FileType.File
        )
    shards = [name for name in names if _is_shard(name)]
    return shards, [(name, name) for name in names if Path(name).suffix.lower() in SUFFIXES]


def _is_shard(path: str) -> bool:
    return path.lower().endswith((".parquet", ".tar"))


def _read_files(unit: Unit) -> Iterator[Row]:
    yield from (_row(name, paths) for name, *paths in unit.files)


def _columns(unit: Unit) -> list[str]:
    return [*(unit.columns or (IMAGE_COLUMN,)), *filter(None, [unit.key])]


def _open_parquet(unit: Unit) -> Any:
    parquet = require("pyarrow.parquet")
    filesystem, path = filesystem_of(unit.path)
    return parquet.ParquetFile(filesystem.open_input_file(path))


def _read_parquet(unit: Unit) -> Iterator[Row]:
    """Rows of a Parquet file; those of a damaged row group are bad, the other groups are read."""
    try:
        file = _open_parquet(unit)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except Exception as error:  # pyarrow raises OSError, ArrowInvalid and more
        yield bad_row(unit.path, "corrupt_file", f"{unit.path}: no Parquet file: {error}")
        return
    start = 0
    for index, length in enumerate(groups):
        row = start
        try:
            for batch in file.iter_batches(
                ROWS_PER_BATCH, row_groups=[index], columns=_columns(unit)
            ):
                for values in batch.to_pylist():
                    given = None if unit.key is None else values[unit.key]
                    name = f"{unit.path}#{row}" if given is None else str(given)
                    cells = [values[column] for column in unit.columns or (IMAGE_COLUMN,)]
                    if unit.key is None and len(cells) == 1 and isinstance(cells[0], str):
                        name = cells[0]
                    yield _row(name, [_beside(cell, unit.path) for cell in cells])
                    row += 1
        except Exception as error:
            for lost in range(row, start + length):
                name = f"{unit.path}#{lost}"
                yield bad_row(
                    name, "corrupt_row", f"{name}: row group {index} cannot be read: {error}"
                )
        start += length


def _beside(cell: Any, table: str) -> Any:
    """A relative path in a table is one from the table's folder."""
    if isinstance(cell, dict) and cell.get("bytes") is None:
        cell = cell.get("path")
    if not isinstance(cell, str) or is_uri(cell) or os.path.isabs(os.path.expanduser(cell)):
        return cell
    if is_uri(table):
        return f"{table.rpartition('/')[0]}/{cell}"
    return os.path.join(os.path.dirname(os.path.abspath(os.path.expanduser(table))), cell)


def _read_tar(unit: Unit) -> Iterator[Row]:
    """Images of a WebDataset tar; members of one name up to its first dot are one sample."""
    last = "the start"
    sample: dict[str, Any] = {}
    sample_name = ""
    try:
        filesystem, path = filesystem_of(unit.path)
        with (
            filesystem.open_input_stream(path) as stream,
            tarfile.open(fileobj=stream, mode="r|*") as archive,
        ):
            for member in archive:
                if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                name = f"{unit.path}/{folder}/{stem}" if folder else f"{unit.path}/{stem}"
                wanted = (
                    suffix in unit.columns
                    if unit.columns
                    else f".{suffix.rpartition('.')[2].lower()}" in SUFFIXES
                )
                if wanted:
                    data = archive.extractfile(member).read()  # pyright: ignore
                    last = member.name
                    if len(unit.columns) < 2:
                        yield _row(f"{unit.path}/{member.name}", [data])
                    else:
                        if name != sample_name:
                            yield from _sample(sample_name, sample, unit)
                            sample, sample_name = {}, name
                        sample[suffix] = data
            yield from _sample(sample_name, sample, unit)
    except Exception as error:  # a damaged tar raises ReadError, EOFError, OSError, …
        message = f"{unit.path}: damaged after {last}: {error}; fetch or export it again"
        yield bad_row(unit.path, "corrupt_file", message)


def _sample(name: str, members: dict[str, Any], unit: Unit) -> Iterator[Row]:
    if members:
        yield _row(name, [members.get(suffix) for suffix in unit.columns])
