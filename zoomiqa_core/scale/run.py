"""A run on Ray Data: units are read, images judged by a pool of actors, rows written.

An actor that is lost is started anew and what it was judging is judged again; results that are
written are kept. Ray is imported when a run starts.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zoomiqa_core.scale.names import is_done
from zoomiqa_core.scale.ray_data import ImageBatch, Record, failure
from zoomiqa_core.scale.results import ResultFolder
from zoomiqa_core.scale.sources import Unit, file_units, read_unit
from zoomiqa_core.scale.storage import require

ACTOR_CPUS, READER_CPUS = 0.9, 0.1
"""CPUs of an actor and of a task that reads: with an actor per core, readers still find room."""
_REPORTS = "RAY_USAGE_STATS_ENABLED"
_SHOWN = ("enable_progress_bars", "print_on_execution_start", "enable_auto_log_stats")


class RunError(RuntimeError):
    """A run that ended early; what is written stays, and the same run goes on from there.

    >>> raise RunError("the judge cannot be loaded")
    Traceback (most recent call last):
    zoomiqa_core.scale.run.RunError: the judge cannot be loaded
    """


@dataclass(frozen=True)
class Pool:
    """The actors that judge.

    >>> Pool(actors=4, gpus=0.5).batch
    16
    """

    actors: int | None = None
    """How many; None for one per CPU or, with ``gpus``, as many as the GPUs hold."""
    gpus: float = 0.0
    """GPUs of each, e.g. 0.25."""
    batch: int = 16
    """Rows per call of the judge."""

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise ValueError(f"actors must be at least 1, got {self.actors}")
        if self.gpus < 0 or self.batch < 1:
            raise ValueError(f"expected gpus ≥ 0 and batch ≥ 1, got {self.gpus} and {self.batch}")


def run_on_ray(
    units: Sequence[Unit],
    make: Callable[[], ImageBatch],
    fields: Mapping[str, type],
    out: ResultFolder,
    pool: Pool | None = None,
    *,
    lost: Sequence[Record] = (),
    progress: Callable[[int, int], None] = lambda rows, invalid: None,
) -> None:
    """Judge all rows of the units that ``out`` does not have, on the Ray that is running.

    Without a running Ray one is started on this machine, and stopped at the end.

    Args:
        units: see :func:`~.sources.find_units`.
        make: makes the batch class in each actor.
        fields: its columns.
        out: where the rows go.
        pool: the actors.
        lost: records of inputs that give no row, see :func:`~.ray_data.failure`.
        progress: called with the numbers of new rows, and of those that are invalid, so far.

    Raises:
        ImportError: Ray is not installed.
        RunError: the judge cannot be made, or processes die again and again.
    """
    require("ray")
    pool = pool or Pool()
    done = out.done()
    known = is_done([record["name"] for record in lost], done)
    new = [record for record, there in zip(lost, known, strict=True) if not there]
    columns = max(_width(unit) for unit in units) if units else 1
    with ray_started() as ray:
        pa = require("pyarrow")
        actors = pool.actors or _actors_that_fit(ray, pool.gpus)
        units = _spread(units, actors)

        def read(table: Any) -> Iterator[Any]:
            for text in table["unit"].to_pylist():
                yield from _tables(read_unit(Unit.from_json(text), done), columns)

        blocks = [pa.table({"unit": [unit.to_json()]}) for unit in units]
        rows = ray.data.from_arrow(blocks).map_batches(
            read, batch_format="pyarrow", batch_size=None, num_cpus=READER_CPUS
        )
        judged = rows.map_batches(
            _Actor,
            fn_constructor_args=[make, columns],
            batch_format="pyarrow",
            batch_size=pool.batch,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=ACTOR_CPUS,
            num_gpus=pool.gpus or None,
        )
        count = invalid = 0
        try:
            if new:
                out.add(_records_table(new, fields))
            for table in judged.iter_batches(batch_format="pyarrow", batch_size=None):
                if table.num_rows:
                    out.add(table)
                    count += table.num_rows
                    invalid += table.num_rows - sum(table["valid"].to_pylist())
                    progress(count, invalid)
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "ray":
                raise
            raise RunError(f"the run ended early: {_last_words(error)}") from error
        finally:
            out.write()


class _Actor:
    """Holds the judge of one process."""

    def __init__(self, make: Callable[[], ImageBatch], columns: int) -> None:
        self.batch = make()
        self.columns = columns

    def __call__(self, table: Any) -> Any:
        rows = table.to_pylist()
        good = [row for row in rows if row["error"] is None]
        cells = [[_first(row, column) for column in range(self.columns)] for row in good]
        judged = iter(self.batch.records(cells, [row["name"] for row in good]))
        records = [
            next(judged)
            if row["error"] is None
            else failure(row["name"], row["error"], row["message"])
            for row in rows
        ]
        return _records_table(records, self.batch.fields)


def schema_of(fields: Mapping[str, type]) -> Any:
    """The ``pyarrow.Schema`` of a batch class's columns.

    >>> schema_of({"name": str, "rating": float}).names
    ['name', 'rating']
    """
    pa = require("pyarrow")
    kinds = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}
    return pa.schema([(name, kinds[kind]) for name, kind in fields.items()])


def _tables(rows: Iterator[Mapping[str, Any]], columns: int) -> Iterator[Any]:
    """Rows as tables of moderate size: bytes and path of each image in columns of their own."""
    pa = require("pyarrow")
    schema = pa.schema(
        [("name", pa.string()), ("error", pa.string()), ("message", pa.string())]
        + [(f"bytes{column}", pa.binary()) for column in range(columns)]
        + [(f"path{column}", pa.string()) for column in range(columns)]
    )
    records: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        record = {key: row[key] for key in ("name", "error", "message")}
        for column, cell in enumerate(row["cells"]):
            if isinstance(cell, Mapping):
                cell = cell["bytes"]
            if isinstance(cell, bytes):
                record[f"bytes{column}"] = cell
                size += len(cell)
            elif isinstance(cell, str):
                record[f"path{column}"] = cell
            elif cell is not None:
                kind = type(cell).__name__
                message = f"{row['name']}: expected bytes or a path, got {kind}"
                record |= {"error": "bad_type", "message": message}
        records.append(record)
        if len(records) == 64 or size > 32_000_000:
            yield pa.Table.from_pylist(records, schema)
            records, size = [], 0
    if records:
        yield pa.Table.from_pylist(records, schema)


def _records_table(records: Sequence[Record], fields: Mapping[str, type]) -> Any:
    return require("pyarrow").Table.from_pylist(list(records), schema_of(fields))


def _width(unit: Unit) -> int:
    """Images per row."""
    return len(unit.files[0]) - 1 if unit.files else len(unit.columns) or 1


def _first(row: Mapping[str, Any], column: int) -> bytes | str | None:
    data = row[f"bytes{column}"]
    return row[f"path{column}"] if data is None else data


def _spread(units: Sequence[Unit], actors: int) -> list[Unit]:
    """Image files in units so small that every actor gets several."""
    files = [row for unit in units if unit.kind == "files" for row in unit.files]
    length = max(1, min(256, len(files) // (8 * actors)))
    return [*(unit for unit in units if unit.kind != "files"), *file_units(files, length)]


def _actors_that_fit(ray: Any, gpus: float) -> int:
    held = ray.cluster_resources()
    return max(1, int(held.get("GPU", 0) / gpus if gpus else held.get("CPU", 1)))


def _last_words(error: BaseException) -> str:
    """The last line of the innermost error that Ray reports."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def ray_started(num_cpus: int | None = None) -> Iterator[Any]:
    """Ray: the one that runs already, or one on this machine for the time of the block.

    The environment variable ``RAY_ADDRESS`` names a cluster, as ``ray job submit`` sets it. Of a
    Ray that is started here, the dashboard, usage reports and messages are off, and its log files
    are removed at the end.

    Args:
        num_cpus: of a Ray that is started here; None for all of this machine.
    """
    ray = require("ray")
    context = require("ray.data").DataContext.get_current()
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        yield ray
        return
    reports = os.environ.get(_REPORTS)
    folder = tempfile.mkdtemp(prefix="ray-")
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    shown = {name: getattr(context, name) for name in _SHOWN}
    detectors = context.issue_detectors_config.detectors
    os.environ[_REPORTS] = "0"  # there is no argument for it
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        for name in _SHOWN:
            setattr(context, name, False)
        context.issue_detectors_config.detectors = []
        try:
            ray.init(
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",  # nobody else can reach it
                _temp_dir=folder,
                _system_config={"worker_niceness": 0},  # 15 by default, behind all other programs
            )
        except Exception as error:  # Ray raises plain ones
            raise RunError(
                f"Ray did not start: {error} It needs 2 GB of free memory and, within 30 s, some "
                "time of a CPU; stop other programs or give RAY_ADDRESS of a running one"
            ) from error
        yield ray
    finally:
        ray.shutdown()
        context.issue_detectors_config.detectors = detectors
        for name, value in shown.items():
            setattr(context, name, value)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        os.environ.pop(_REPORTS)
        if reports is not None:
            os.environ[_REPORTS] = reports
        shutil.rmtree(folder, ignore_errors=True)
