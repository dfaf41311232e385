"""Judging in anybody's ``map_batches``: a callable class that adds an assessment to each row.

Nothing here imports Ray. The class takes a batch as Ray Data gives it (a dictionary of NumPy
arrays), so it also works on any other table cut into such batches.
"""

from __future__ import annotations

import inspect
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.errors import ImageError, ImageLimits, MissingImageError
from zoomiqa_core.images.sources import EncodedImage, ImageSource, check_layout
from zoomiqa_core.scale.storage import is_uri, read_bytes
from zoomiqa_core.scorer import Scorer, load_scorer

Record = dict[str, Any]
"""The new values of one row, by column."""


class ImageBatch(ABC):
    """A callable class for ``map_batches``: reads the images of each row and adds columns.

    A row that cannot be used gets ``valid=False`` with the reason, and the others go on.

    Args:
        columns: that hold the images of a row: encoded bytes, paths or URIs, a structure with
            ``bytes`` or ``path`` (as in datasets of Hugging Face), or arrays (H, W, 3).
        name: column with the name of a row; where there is none, names are paths, or empty.
    """

    fields: ClassVar[Mapping[str, type]]
    """Columns that are added: float, bool, str or bytes; what is nested is JSON text."""

    def __init__(self, columns: Sequence[str], name: str) -> None:
        self.columns = tuple(columns)
        self.name = name

    @abstractmethod
    def judge(self, images: Sequence[Sequence[ImageSource]], names: Sequence[str]) -> list[Record]:
        """The records of rows that have all their images; a bad image is one with ``valid=False``.

        Args:
            images: of each row, one image per column.
            names: of the rows.
        """

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Add the columns :attr:`fields` to a batch.

        Raises:
            TypeError: the batch is no dictionary of arrays.
            KeyError: it has no such column.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"expected a dictionary of NumPy arrays, got {type(batch).__name__}; leave "
                'batch_format of map_batches at its default or give "numpy"'
            )
        for column in self.columns:
            if column not in batch:
                held = ", ".join(map(repr, batch))
                raise KeyError(f"the batch has no column {column!r}; it has {held}")
        cells = list(zip(*(batch[column] for column in self.columns), strict=True))
        names = batch.get(self.name)
        records = self.records(
            cells, [_path_of(row[0]) for row in cells] if names is None else [*map(str, names)]
        )
        return {
            **batch,
            **{
                column: _as_array([record.get(column) for record in records], kind)
                for column, kind in self.fields.items()
            },
        }

    def records(self, cells: Sequence[Sequence[Any]], names: Sequence[str]) -> list[Record]:
        """The records of rows whose images are cells of a table."""
        failed: dict[int, Record] = {}
        images: dict[int, list[ImageSource]] = {}
        for index, (row, name) in enumerate(zip(cells, names, strict=True)):
            try:
                images[index] = [image_of(cell, name) for cell in row]
            except ImageError as error:
                failed[index] = failure(name, error.code, str(error))
        judged = self.judge([*images.values()], [names[index] for index in images])
        done = failed | dict(zip(images, judged, strict=True))
        return [done[index] for index in range(len(names))]


class JudgeBatch(ImageBatch):
    """Rate the images of a batch: the columns of an :class:`Assessment` are added.

    They have the names of ``zoomiqa score --json``: ``name``, ``rating``, ``rating_std``,
    ``score``, ``gain`` and ``gain_std`` (NaN where the judgement failed or the judge gives none),
    ``valid``, ``error``, ``message``; and, as JSON text, ``regions``, ``directions``, ``issues``,
    ``notes`` and ``chains``. An image that cannot be read has ``valid=False`` and the reason.

    >>> noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    >>> judged = JudgeBatch()({"image": noise, "id": np.array([7, 8])})
    >>> judged["id"].tolist(), judged["valid"].tolist(), judged["rating"].shape
    ([7, 8], [True, True], (2,))
    >>> JudgeBatch()({"image": np.array(["missing.png"])})["error"].tolist()
    ['missing']

    With Ray Data::

        photos = ray.data.read_parquet("s3://bucket/photos/")  # a column "image"
        rated = photos.map_batches(
            JudgeBatch, fn_constructor_args=["proxy"], batch_size=32,
            compute=ray.data.ActorPoolStrategy(size=8),
        )

    Args:
        scorer: a judge, its name for :func:`~zoomiqa_core.load_scorer`, which loads it where the
            batches are judged, or a function that makes it there.
        image: the column of images, see :class:`ImageBatch`.
        name: the column of names.
        device: where a judge that is given by name computes.
        limits: sizes accepted; None for the judge's default.
        mode: of a Zoom-IQA judge, e.g. ``"expected"``.
        settings: of a judge that is given by name, e.g. ``model`` of one on a server.
    """

    fields: ClassVar[Mapping[str, type]] = {
        "name": str,
        "rating": float,
        "rating_std": float,
        "score": float,
        "valid": bool,
        "error": str,
        "message": str,
        "gain": float,
        "gain_std": float,
        **dict.fromkeys(("regions", "directions", "issues", "notes", "chains"), str),
    }

    def __init__(
        self,
        scorer: str | Scorer | Callable[[], Scorer] = "proxy",
        *,
        image: str = "image",
        name: str = "name",
        device: str = "cpu",
        limits: ImageLimits | None = None,
        mode: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__([image], name)
        if isinstance(scorer, str):
            scorer = load_scorer(scorer, device=device, **settings)
        elif settings:
            raise TypeError(
                f"settings ({', '.join(sorted(settings))}) go to a judge that is given by name; "
                "this one is loaded already"
            )
        self.scorer: Any = scorer if hasattr(scorer, "assess") else scorer()  # pyright: ignore
        given = {"limits": limits, "mode": mode}
        self._how = {key: value for key, value in given.items() if value is not None}
        for key in self._how.keys() - inspect.signature(self.scorer.assess).parameters.keys():
            judge = getattr(self.scorer, "name", type(self.scorer).__name__)
            raise TypeError(f"the judge {judge!r} takes no {key}; leave it out")

    def judge(self, images: Sequence[Sequence[ImageSource]], names: Sequence[str]) -> list[Record]:
        """Records of one image a row."""
        sources = [row[0] for row in images]
        try:
            said = self.scorer.assess(sources, **self._how) if sources else []
        except Exception as error:
            _raise_if_device_is_lost(error)
            said = [self._alone(source) for source in sources]
        return [
            record_of(_with_name(each, source, name))
            for each, source, name in zip(said, sources, names, strict=True)
        ]

    def _alone(self, image: ImageSource) -> Assessment:
        """The judgement of one image of a batch on which the judge raised."""
        try:
            return self.scorer.assess(image, **self._how)
        except ImageError as error:
            return Assessment.failed(error.code, str(error))
        except Exception as error:
            _raise_if_device_is_lost(error)
            return Assessment.failed("judge_error", f"{type(error).__name__}: {error}")


def image_of(cell: Any, name: str) -> ImageSource:
    """The image that a cell of a table holds.

    Args:
        cell: encoded bytes, a path or URI, a mapping with ``bytes`` or ``path``, or an image.
        name: what results and messages call it.

    Raises:
        ImageError: the cell is empty, its URI cannot be read, or it holds no image.

    >>> image_of(b"...", "table.parquet#7")
    EncodedImage(name='table.parquet#7')
    """
    if isinstance(cell, Mapping):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        raise MissingImageError(f"{name}: the row holds no image")
    if isinstance(cell, bytes | bytearray | memoryview):
        return EncodedImage(bytes(cell), name)
    if isinstance(cell, str) and is_uri(cell):
        return EncodedImage(read_bytes(cell), name or cell)
    check_layout(cell)  # pyright: ignore[reportArgumentType]
    return cell  # pyright: ignore[reportReturnType]


def failure(name: str, error: str, message: str) -> Record:
    """The record of a row that could not be used.

    >>> failure("a.png", "truncated", "a.png: incomplete or damaged")["valid"]
    False
    """
    return {"name": name, "valid": False, "error": error, "message": message}


def record_of(assessment: Assessment) -> Record:
    """An assessment as one row: what is nested becomes JSON text, what is absent None.

    >>> record_of(Assessment(3.5, 0.2, notes=("grey",)))["notes"]
    '["grey"]'
    """
    return {
        key: as_json(value) if isinstance(value, dict | list | tuple) else value
        for key, value in assessment.to_dict().items()
    }


def as_json(value: Any) -> str:
    """Nested values as JSON text on one line."""
    return json.dumps(value, ensure_ascii=False)


def _with_name(said: Assessment, source: ImageSource, name: str) -> Assessment:
    """The judgement under the row's name, which may differ from the path that was read."""
    message = said.message
    if isinstance(source, str | os.PathLike) and name:
        path = os.fsdecode(source)
        message = name + message[len(path) :] if message.startswith(f"{path}:") else message
    return replace(said, name=name or said.name, message=message)


def _path_of(cell: Any) -> str:
    if isinstance(cell, Mapping):
        cell = cell.get("path")
    return os.fsdecode(cell) if isinstance(cell, str | os.PathLike) else ""


def _as_array(values: list[Any], kind: type) -> np.ndarray:
    if kind is float:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    if kind is bool:
        return np.array(values, bool)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _raise_if_device_is_lost(error: Exception) -> None:
    """After an error of the accelerator every later image would fail as well."""
    if isinstance(error, torch.AcceleratorError):
        raise error
