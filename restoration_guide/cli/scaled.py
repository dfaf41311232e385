"""``best-of-n`` and ``gate`` with ``--engine ray``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import typer

from zoomiqa_core.cli.options import image_limits
from zoomiqa_core.cli.results import report
from zoomiqa_core.cli.scaled import RayOptions, run_scaled

if TYPE_CHECKING:
    from restoration_guide.cli.config import GateRunConfig, RunConfig
    from restoration_guide.gate.gate import QualityGate
    from restoration_guide.integrations.ray_data import GateBatch


def restore_on_ray(inputs: Sequence[str], out: str, run: RunConfig, ray: RayOptions) -> None:
    """Restore images with best of N; the pictures are a column of the results."""
    from restoration_guide.integrations.ray_data import RestoreBatch

    units, lost = ray.units(inputs)
    make = partial(RestoreBatch, run.build, seed=run.seed, bits=run.bits)
    settings = _settings("best-of-n", run, ray)
    run_scaled(units, lost, make, RestoreBatch.fields, out, settings, ray, batch=1)


def gate_on_ray(before: str, after: str, out: str, run: GateRunConfig, ray: RayOptions) -> None:
    """Verdicts on pairs: of two folders, or of two columns of the same Parquet files or tars."""
    from restoration_guide.cli.pairs import image_pairs
    from restoration_guide.integrations.ray_data import GateBatch
    from zoomiqa_core.scale.ray_data import failure
    from zoomiqa_core.scale.sources import file_units

    if before == after:
        units, lost = ray.units([before], images=2)
    else:
        pairs = image_pairs(before, after)
        lost = [
            failure(str(pair.before), "ambiguous", f"its result is not clear: {pair.problem}")
            for pair in pairs
            if pair.problem
        ]
        for each in lost:
            report("ambiguous", f"{each['name']}: {each['message']}")
        units = file_units(
            (str(pair.before), str(pair.before.absolute()), str(pair.after.absolute()))
            for pair in pairs
            if not pair.problem
        )
    make = partial(_gate_batch, run)
    settings = _settings("gate", run, ray)
    run_scaled(units, lost, make, GateBatch.fields, out, settings, ray, batch=16)


def _gate_batch(run: GateRunConfig) -> GateBatch:
    from restoration_guide.integrations.ray_data import GateBatch

    return GateBatch(partial(_built, run), sizes=image_limits(run.max_megapixels))


def _built(run: GateRunConfig) -> QualityGate:
    """The gate; a judge that cannot be loaded raises, where the command line would end."""
    try:
        return run.build()
    except typer.Exit as ended:
        raise ended.__cause__ or ended from None


def _settings(command: str, run: RunConfig | GateRunConfig, ray: RayOptions) -> dict[str, object]:
    """What decides the results."""
    from restoration_guide.report.folder import SPEED_SETTINGS, plain  # imports torch

    kept = {key: value for key, value in asdict(run).items() if key not in SPEED_SETTINGS}
    return {"command": command, **plain(kept), "column": ray.column, "key": ray.key}
