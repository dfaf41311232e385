"""``zoomiqa eval`` and ``zoomiqa env``: a judge against people, and what is installed here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from zoomiqa_core import __version__
from zoomiqa_core.cli.environment import environment, environment_text
from zoomiqa_core.cli.options import (
    Batch,
    Device,
    ModelName,
    PromptsName,
    Samples,
    ScorerName,
    finish,
    load_judge,
    progress,
    stop,
)
from zoomiqa_core.data.benchmarks.sets import find_benchmark, read_benchmark
from zoomiqa_core.evaluation.run import default_folder, evaluate, sample
from zoomiqa_core.evaluation.summary import summarise, summary_table, write_summary
from zoomiqa_core.runs.files import to_json
from zoomiqa_core.runs.folder import versions
from zoomiqa_core.runs.launch import launched_process


def evaluate_judge(
    dataset: Annotated[
        str, typer.Argument(metavar="SET", help="Dataset, or a .json file of annotations.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The dataset's folder.")],
    split: Annotated[
        str | None, typer.Option(help="training, validation or test; all without.")
    ] = None,
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
    prompts: PromptsName = None,
    model: ModelName = None,
    samples: Samples = None,
    batch: Batch = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Judge this many images, drawn at random.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder; resumed. Default: runs/eval/SET-SPLIT-JUDGE"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and of the intervals.")] = 0,
) -> None:
    """Compare a judge with people: correlations on a dataset, a summary, a scatter plot.

    Several processes share the images: `accelerate launch --multi_gpu -m zoomiqa_core.cli.main eval
    …`, or torchrun on CPUs. Killed, the same command goes on, on any number of processes.
    """
    with launched_process(device) as process, _run_errors():
        benchmark = find_benchmark(dataset)
        images = sample(read_benchmark(dataset, data, split), limit, seed)
        judge = load_judge(scorer, device, prompts, model, samples)
        identity = {"dataset": benchmark.title, "split": split or "", "scorer": scorer}
        identity |= {"labels": str(benchmark.scale), "seed": seed}
        folder = out or default_folder(identity)
        judgements = evaluate(
            images,
            judge,
            folder,
            root=data,
            config={**identity, "settings": dict(getattr(judge, "settings", {}))},
            batch=batch,
            process=process,
            progress=lambda chunks: progress(chunks, "Judging", hidden=not process.is_main),
        )
        if process.is_main:
            summary = summarise(judgements, identity)
            _print_table(summary_table(summary))
            for path in write_summary(judgements, summary, folder):
                typer.echo(str(path))
            finish([judgement["valid"] for judgement in judgements])


def show_environment(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is installed here: versions, devices, optional parts."""
    document = {"zoomiqa": __version__, "versions": versions(), **environment()}
    typer.echo(
        to_json(document, sort_keys=False) if as_json else environment_text(document), nl=False
    )


@contextmanager
def _run_errors() -> Iterator[None]:
    """What ends a run with a message: files, labels, another run's folder, a missing package."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if isinstance(error, typer.Exit):  # a RuntimeError, for click's sake
            raise
        stop(str(error), error)


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Away from a terminal rich would fold everything into 80 columns.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
