"""``restoration-guide gate``: verdicts on restored images."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from restoration_guide.cli.scaled import gate_on_ray
from zoomiqa_core.cli.options import (
    AsJson,
    ConfigFile,
    MaxMegapixels,
    SeededJudgeOptions,
    given_options,
    image_limits,
    stop,
    with_options,
)
from zoomiqa_core.cli.results import Results, printable, progress, report
from zoomiqa_core.cli.scaled import RayOptions

if TYPE_CHECKING:
    from restoration_guide.cli.pairs import Pair
    from restoration_guide.gate.verdict import Verdict


@dataclass(frozen=True)
class GateOptions(SeededJudgeOptions):
    """Options of ``restoration-guide gate``; the defaults are those of its settings."""

    scorer: Annotated[
        str,
        typer.Option(
            help='Judge: "restoration", "proxy", "alarm" or "tiny" (bundled), a folder, a hub id, '
            "or http://…/v1."
        ),
    ] = "restoration"
    second: Annotated[str | None, typer.Option(help="A second judge, which can veto a result.")] = (
        None
    )
    min_rating: Annotated[float, typer.Option(help="Rating that is good enough, 1–5.")] = 3.5
    confidence: Annotated[
        float, typer.Option(help="k of the lower bound of the gain, gain − k·std.")
    ] = 0.5
    min_gain: Annotated[float, typer.Option(help="Rating points that this bound must exceed.")] = (
        0.1
    )
    max_megapixels: MaxMegapixels = None


@with_options
def gate(
    context: typer.Context,
    before: Annotated[str, typer.Argument(help="Degraded image, or a folder of them.")],
    after: Annotated[
        str,
        typer.Argument(help="Restored image, a folder of them, or a report folder of best-of-n."),
    ],
    options: GateOptions,
    ray: RayOptions,
    config: ConfigFile = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Ray: folder or URI of the verdicts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge restored images against their inputs: accept, retry, keep_input or reject.

    With --engine ray, BEFORE and AFTER may also be the same Parquet files or tars, whose two
    columns --column names, inputs first.

    Exit codes: 0 when a result was accepted or an input kept, 1 on errors, 2 when neither image of
    any pair may be used.
    """
    from restoration_guide.cli.config import GateRunConfig, resolve_or_stop
    from restoration_guide.cli.pairs import image_pairs

    run = resolve_or_stop(GateRunConfig, config, given_options(context, options))
    if ray.on_ray():
        if out is None or as_json:
            stop("--engine ray writes Parquet: give --out DIR, without --json")
        gate_on_ray(before, after, out, run, ray)
        return
    if out is not None:
        stop("--out needs --engine ray; --json prints all verdicts")
    pairs = image_pairs(before, after)
    sizes = image_limits(run.max_megapixels)
    decide = run.build()
    with Results({"config": asdict(run)}, as_json=as_json) as results:
        for pair in progress(pairs, "Judging", hidden=not as_json and sys.stdout.isatty()):
            names = {"before": str(pair.before), "after": str(pair.after)}
            if pair.problem:
                report("ambiguous", f"{pair.before}: its result is not clear: {pair.problem}")
                results.add({**names, "error": "ambiguous", "message": pair.problem}, valid=False)
                continue
            verdict = decide(pair.before, pair.after, sizes=sizes)
            usable = verdict.action in ("accept", "keep_input")
            results.add({**names, **verdict.to_dict()}, _summary(pair, verdict), valid=usable)
    results.finish()


def _summary(pair: Pair, verdict: Verdict) -> str:
    """The action and the image, then the reasons."""
    lines = [f"{verdict.action:10s}  {printable(str(pair.after))}"]
    return "\n".join([*lines, *(f"  {printable(reason)}" for reason in verdict.reasons)])
