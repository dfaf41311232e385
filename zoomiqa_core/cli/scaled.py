"""``--engine ray``: a command's images judged by Ray Data, its results written as Parquet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoomiqa_core.cli.options import finish, stop
from zoomiqa_core.cli.results import report

if TYPE_CHECKING:
    from zoomiqa_core.scale.ray_data import ImageBatch, Record
    from zoomiqa_core.scale.sources import Unit


@dataclass(frozen=True)
class RayOptions:
    """Where a command computes, and what it reads there."""

    engine: Annotated[
        str,
        typer.Option(
            help='"local", or "ray" for many workers or machines: inputs may be Parquet files, '
            "WebDataset tars and URIs too, --out is a folder or URI of Parquet results, and the "
            "same command continues a run.",
        ),
    ] = "local"
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Ray: number of workers.", show_default="one per CPU or GPU"),
    ] = None
    gpus: Annotated[float, typer.Option(min=0, help="Ray: GPUs of each worker, e.g. 0.25.")] = 0.0
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Ray: Parquet column of encoded images or paths, or suffix of a tar's members; "
            "of pairs, twice.",
            show_default="image; every image of a tar",
        ),
    ] = None
    key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Ray: Parquet column with the names of the rows."),
    ] = None

    def on_ray(self) -> bool:
        """Whether Ray is asked for; options of Ray without it end the program."""
        if self.engine not in ("local", "ray"):
            stop(f'--engine is "local" or "ray", got {self.engine!r}')
        given = [self.actors, self.gpus, self.column, self.key]
        if self.engine == "local" and any(given):
            stop("--actors, --gpus, --column and --key need --engine ray")
        return self.engine == "ray"

    def units(self, inputs: Sequence[str], images: int = 1) -> tuple[list[Unit], list[Record]]:
        """What the inputs hold, and records of those that hold nothing.

        Args:
            inputs: see :func:`zoomiqa_core.scale.sources.find_units`.
            images: per row.
        """
        from zoomiqa_core.scale.ray_data import failure
        from zoomiqa_core.scale.sources import check_columns, find_units

        columns = self.column or []
        if columns and len(columns) != images:
            stop(f"expected --column {images} time{'s' * (images > 1)}, got {', '.join(columns)}")
        try:
            units, absent = find_units(inputs, columns, self.key)
            for unit in units[:1]:
                check_columns(unit)
        except (ImportError, OSError, ValueError) as error:
            stop(str(error), error)
        for each in absent:
            report(each.code, each.message)
        if not units:
            finish([])
        return units, [failure(each.name, each.code, each.message) for each in absent]


def run_scaled(
    units: Sequence[Unit],
    lost: Sequence[Record],
    make: Callable[[], ImageBatch],
    fields: Mapping[str, type],
    out: str,
    settings: Mapping[str, Any],
    options: RayOptions,
    batch: int,
) -> None:
    """Run a command on Ray, print the counts, and end with its exit code.

    Args:
        units, lost: see :meth:`RayOptions.units`.
        make: makes the batch class in each worker.
        fields: its columns.
        out: folder or URI.
        settings: what decides the results.
        options: of Ray.
        batch: images per call.
    """
    from zoomiqa_core.scale.results import ResultFolder
    from zoomiqa_core.scale.run import Pool, RunError, run_on_ray

    start = time.monotonic()

    def progress(rows: int, invalid: int) -> None:
        if sys.stderr.isatty():
            rate = rows / (time.monotonic() - start)
            typer.echo(f"\r{rows} done, {invalid} invalid, {rate:.1f}/s", nl=False, err=True)

    try:
        folder = ResultFolder(out, settings)
        pool = Pool(options.actors, options.gpus, batch)
        run_on_ray(units, make, fields, folder, pool, lost=lost, progress=progress)
        counts = folder.counts()
    except (ImportError, OSError, RunError, ValueError) as error:
        stop(str(error), error)
    valid = counts.pop("valid", 0)
    why = ", ".join(f"{count} {error}" for error, count in sorted(counts.items()))
    line = f"{valid + counts.total()} rows: {valid} valid, {counts.total()} invalid"
    typer.echo(f"{line}{f' ({why})' if why else ''}; in {out}")
    finish([valid > 0])
