"""``zoomiqa eval``: compare a judge with people's ratings of a dataset."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from zoomiqa_core.cli.inputs import check_output
from zoomiqa_core.cli.options import (
    Batch,
    JudgeOptions,
    MaxMegapixels,
    finish,
    limit_arguments,
    stop,
    with_options,
)
from zoomiqa_core.cli.results import progress


@with_options
def evaluate_judge(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help='Name of a dataset, a .json file of annotations, or "votes" between two images.',
        ),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The dataset's folder; of votes, also a CSV file.")
    ],
    judge: JudgeOptions,
    split: Annotated[
        str | None, typer.Option(help="training, validation or test; without it, all images.")
    ] = None,
    batch: Batch = 1,
    max_megapixels: MaxMegapixels = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only this many images, or photos of votes, drawn at random."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Run folder, resumed if it exists.",
            show_default="runs/eval/SET-SPLIT-JUDGE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --limit and of the intervals.")] = 0,
) -> None:
    """Compare a judge with people: correlations on a dataset, a summary, a scatter plot.

    Several processes share the images: `accelerate launch --multi_gpu -m zoomiqa_core.cli.main eval
    …`, or torchrun on CPUs. After an interruption the same command resumes the run, on any number
    of processes.

    `eval votes` reads choices between two images: a CSV file left,right,selected[,input][,photo],
    folders as in BAPPS, PIPAL (or another set with references), or families of restorations. It
    prints the shares of votes, majorities and best images that the judge agrees with.
    """
    if dataset == "votes":
        _judge_votes(data, judge, split, batch, max_megapixels, limit, out, seed)
        return
    from zoomiqa_core.data.benchmarks.sets import find_benchmark, read_benchmark
    from zoomiqa_core.evaluation.run import default_folder, evaluate, sample
    from zoomiqa_core.evaluation.summary import summarise, summary_table, write_summary
    from zoomiqa_core.runs.launch import launched_process

    with launched_process(judge.device) as process, _run_errors():
        benchmark = find_benchmark(dataset)
        images = sample(read_benchmark(dataset, data, split), limit, seed)
        identity = {"dataset": benchmark.title, "split": split or "", "scorer": judge.scorer}
        identity |= {"labels": str(benchmark.scale), "seed": seed}
        folder = out or default_folder(identity)
        check_output(folder)
        scorer = judge.load()
        judgements = evaluate(
            images,
            scorer,
            folder,
            root=data,
            config={**identity, "settings": dict(getattr(scorer, "settings", {}))},
            batch=batch,
            **limit_arguments(scorer, max_megapixels),
            process=process,
            progress=lambda chunks: progress(chunks, "Judging", hidden=not process.is_main),
        )
        if process.is_main:
            summary = summarise(judgements, identity)
            _print_table(summary_table(summary))
            for path in write_summary(judgements, summary, folder):
                typer.echo(str(path))
            finish([judgement["valid"] for judgement in judgements])


def _judge_votes(
    data: Path,
    judge: JudgeOptions,
    split: str | None,
    batch: int,
    max_megapixels: float | None,
    limit: int | None,
    out: Path | None,
    seed: int,
) -> None:
    from zoomiqa_core.evaluation import vote_summary, votes
    from zoomiqa_core.evaluation.run import default_folder
    from zoomiqa_core.runs.launch import launched_process

    if split is not None:
        raise typer.BadParameter("votes have no --split; give the folder of the part as --data")
    with launched_process(judge.device) as process, _run_errors():
        hidden = not process.is_main
        pairs = votes.read_pairs(
            data,
            limit=limit,
            seed=seed,
            progress=lambda families: progress(families, "Labelling", hidden=hidden),
        )
        data = data.expanduser()
        name = data.resolve().stem if data.is_file() else data.resolve().name
        identity = {"dataset": f"votes-{name}", "scorer": judge.scorer, "seed": seed}
        folder = out or default_folder({**identity, "split": ""})
        check_output(folder)
        scorer = judge.load()
        judged = votes.judge_pairs(
            pairs,
            scorer,
            folder,
            root=data.parent if data.is_file() else data,
            config={**identity, "settings": dict(getattr(scorer, "settings", {}))},
            batch=batch,
            **limit_arguments(scorer, max_megapixels),
            process=process,
            progress=lambda chunks: progress(chunks, "Judging", hidden=hidden),
        )
        if process.is_main:
            summary = vote_summary.summarise_votes(pairs, judged, identity)
            _print_table(vote_summary.votes_table(summary))
            for path in vote_summary.write_votes_summary(summary, folder):
                typer.echo(str(path))
            rows = [row for name, row in judged.items() if name != votes.SHARPNESS]
            finish([vote_summary.failure(judgement) is None for row in rows for judgement in row])


@contextmanager
def _run_errors() -> Iterator[None]:
    """End the program with a message: files, labels, another run's folder, a missing package."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if isinstance(error, typer.Exit):  # click's exits are RuntimeErrors
            raise
        stop(str(error), error)


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Away from a terminal rich would fold everything into 80 columns.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
