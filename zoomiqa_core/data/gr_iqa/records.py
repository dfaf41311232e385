"""GR-IQA records on disk: ``records.jsonl`` beside ``images/``, and as a Hugging Face dataset."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from zoomiqa_core.data.benchmarks.sets import RatedImage
from zoomiqa_core.data.gr_iqa.conversation import Conversation, conversation, region_conversation
from zoomiqa_core.data.gr_iqa.rationale import (
    GRIQARecord,
    GRIQARegion,
    GRIQARound,
    RecordError,
    inside,
    reply_text,
    round_from_reply,
)
from zoomiqa_core.images.sources import read_image, to_pil
from zoomiqa_core.runs.files import atomic_path, write_bytes_atomic, write_text_atomic
from zoomiqa_core.zoom_iqa.prompts import BUILTIN, Prompts

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Conversation",
    "GRIQARecord",
    "GRIQARegion",
    "GRIQARound",
    "RecordError",
    "conversation",
    "from_benchmark",
    "from_dataset",
    "read_picture",
    "read_records",
    "record_from_row",
    "region_conversation",
    "reply_text",
    "round_from_reply",
    "row_of_record",
    "to_dataset",
    "write_records",
]

RECORDS, IMAGES = "records.jsonl", "images"

Folder = str | os.PathLike[str]


def write_records(
    folder: Folder, records: Sequence[GRIQARecord], *, source: Folder | None = None
) -> Path:
    """Write records to ``folder/records.jsonl``, which is replaced atomically.

    >>> from zoomiqa_core.images.sources import save_png
    >>> import torch
    >>> picture = save_png(torch.rand(3, 32, 48), "set/images/a.png")
    >>> record = GRIQARecord("a.png", "How good is it?", (), mos=4.2, image_id="a")
    >>> print(write_records("set", [record]).as_posix())
    set/records.jsonl
    >>> read_records("set") == [record], read_picture("set", record).size
    (True, (48, 32))

    Args:
        folder: of the set; images are in its folder ``images``.
        records: in the order in which they are written.
        source: folder from which images missing in ``images`` are copied.

    Raises:
        RecordError: an image is missing; the message has the index of the record.
    """
    for place, record in enumerate(records):
        target = Path(folder) / IMAGES / record.image
        if not target.is_file() and source is not None and (Path(source) / record.image).is_file():
            with atomic_path(target) as partial:
                shutil.copyfile(Path(source) / record.image, partial)
        with inside(f"records[{place}]", ", "):
            _check_picture(Path(folder), record)
    lines = [json.dumps(row_of_record(record), ensure_ascii=False) for record in records]
    return write_text_atomic(Path(folder) / RECORDS, "".join(f"{line}\n" for line in lines))


def read_records(folder: Folder) -> list[GRIQARecord]:
    """Read and validate all records of a folder, see :func:`write_records`.

    Raises:
        FileNotFoundError: no ``records.jsonl`` there.
        RecordError: not valid; the message has file, row and field.
    """
    path = Path(folder) / RECORDS
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; give a folder written by write_records")
    records = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            with inside(f"{path}, row {number}", ", "):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise RecordError("line", f"is not JSON: {error}") from None
                record = record_from_row(row)
                _check_picture(Path(folder), record)
            records.append(record)
    return records


def read_picture(folder: Folder, record: GRIQARecord) -> Image.Image:
    """The record's image, RGB, upright.

    Raises:
        ImageError: it cannot be read.
    """
    return to_pil(read_image(Path(folder) / IMAGES / record.image).pixels)


def row_of_record(record: GRIQARecord) -> dict[str, Any]:
    """The record as plain values for JSON."""
    return dataclasses.asdict(record)


def record_from_row(row: object) -> GRIQARecord:
    """The inverse of :func:`row_of_record`.

    Raises:
        RecordError: a field, which the message names, is missing, unknown or wrong.
    """
    values = _fields(row, GRIQARecord)
    values["rounds"] = tuple(
        _round(look, f"rounds[{i}]") for i, look in _items(values, "rounds", [])
    )
    values["region_truth"] = tuple(_box(b) for _, b in _items(values, "region_truth", []))
    regions = []
    for i, region in _items(values, "regions", []):
        with inside(f"regions[{i}]"):
            parts = _fields(region, GRIQARegion)
            reply = _round(parts["reply"], "reply")
            regions.append(GRIQARegion(_box(parts["bbox"]), reply))
    values["regions"] = tuple(regions)
    if not isinstance(values.setdefault("provenance", {}), Mapping):
        raise RecordError("provenance", f"expected an object, got {values['provenance']!r:.60}")
    return GRIQARecord(**values)


def to_dataset(folder: Folder) -> Dataset:
    """The folder as a Hugging Face dataset: images in ``image``, their paths in ``file_name``.

    ``provenance`` becomes JSON text, because its keys differ between records.
    """
    from datasets import Dataset
    from datasets import Image as ImageColumn

    columns: dict[str, list[Any]] = {"file_name": []}
    for record in read_records(folder):
        row = row_of_record(record)
        columns["file_name"].append(record.image)
        row["image"] = str(Path(folder) / IMAGES / record.image)
        row["provenance"] = json.dumps(record.provenance, sort_keys=True)
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return Dataset.from_dict(columns).cast_column("image", ImageColumn())


def from_dataset(dataset: Dataset, folder: Folder) -> list[GRIQARecord]:
    """Write a dataset of :func:`to_dataset` as a folder, files unchanged; returns its records."""
    from datasets import Image as ImageColumn

    records = []
    for place, given in enumerate(dataset.cast_column("image", ImageColumn(decode=False))):
        row: dict[str, Any] = dict(given)  # pyright: ignore[reportCallIssue, reportArgumentType]
        picture = row.pop("image")
        row |= {"image": row.pop("file_name"), "provenance": json.loads(row["provenance"])}
        with inside(f"row {place}", ", "):
            record = record_from_row(row)
        data = picture["bytes"] or Path(picture["path"]).read_bytes()
        write_bytes_atomic(Path(folder) / IMAGES / record.image, data)
        records.append(record)
    write_records(folder, records)
    return records


def from_benchmark(
    images: Sequence[RatedImage], *, root: Folder | None = None, prompts: Prompts = BUILTIN
) -> list[GRIQARecord]:
    """Records without rounds (image and label), for GRPO on a dataset of rated images.

    Args:
        images: of one dataset.
        root: folder that ``image`` is relative to; None for the nearest common folder. Pass it
            as ``source`` to :func:`write_records`.
        prompts: their questions are used in turn.

    Raises:
        RecordError: a label is not on 1–5 (a dataset without a declared range).
        ValueError: an image is outside ``root``.
    """
    if not images:
        return []
    base = Path(root) if root is not None else common_folder(image.path for image in images)
    records = []
    for place, image in enumerate(images):
        name = image.path.relative_to(base).as_posix()
        provenance = {"label": "human", "split": image.split, "subset": image.subset}
        with inside(f"images[{place}]", ", "):
            question = prompts.question(place)
            records.append(
                GRIQARecord(name, question, (), image.rating, name, provenance=provenance)
            )
    return records


def common_folder(paths: Iterable[Path]) -> Path:
    """The nearest folder that contains all files."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def _check_picture(folder: Path, record: GRIQARecord) -> None:
    path = folder / IMAGES / record.image
    if not path.is_file():
        raise RecordError("image", f"{path} does not exist")


def _fields(row: object, kind: type) -> dict[str, Any]:
    """The row's values by name, after checking that the names are the dataclass's."""
    if not isinstance(row, Mapping):
        raise RecordError("record", f"expected an object, got {row!r:.60}")
    for field in dataclasses.fields(kind):
        optional = field.default_factory is not dataclasses.MISSING
        optional |= field.default is not dataclasses.MISSING
        if field.name not in row and not optional:
            raise RecordError(field.name, "is missing")
    known = {field.name for field in dataclasses.fields(kind)}
    for name in row:
        if name not in known:
            raise RecordError(str(name), f"is unknown; expected {', '.join(sorted(known))}")
    return dict(row)


def _items(values: Mapping[str, Any], name: str, default: list[Any]) -> Iterable[tuple[int, Any]]:
    given = values.get(name, default)
    if not isinstance(given, (list, tuple)):
        raise RecordError(name, f"expected a list, got {given!r:.60}")
    return enumerate(given)


def _round(look: object, place: str) -> GRIQARound:
    with inside(place):
        values = _fields(look, GRIQARound)
        box = values.get("bbox")
        return GRIQARound(**{**values, "bbox": None if box is None else _box(box)})


def _box(box: Any) -> Any:
    """Lists become tuples; the dataclass checks everything else."""
    return tuple(box) if isinstance(box, list) else box
