"""``restoration-guide prompts``: a judge's words as prompts, and restoring with them."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restoration_guide.cli.gate import ConfigFile, DeviceOption, JudgeSeed, ScorerOption, resolve
from zoomiqa_core.cli.options import (
    AsJson,
    ModelName,
    PromptsName,
    Samples,
    finish,
    load_judge,
    printable,
    progress,
    report,
    stop,
)
from zoomiqa_core.images.sources import find_images
from zoomiqa_core.runs.files import to_json
from zoomiqa_core.zoom_iqa.judge import ZoomIQA

if TYPE_CHECKING:
    from restoration_guide.prompts.write import WrittenPrompts


@dataclass(frozen=True)
class PromptsConfig:
    """Settings of ``restoration-guide prompts``."""

    scorer: str = "proxy"
    """The folder, hub id or address of a Zoom-IQA judge; the proxy has no words."""
    device: str = "cpu"
    """Where it judges."""
    prompts: str | None = None
    """``"builtin"``, ``"official"`` or a YAML file: the judge's own prompts."""
    model: str | None = None
    """Of a judge on a server: the name it has there."""
    samples: int | None = None
    """Chains an image; the words are those of the chain nearest to the rating."""
    seed: int | None = None
    """Of the judge's sampling."""
    pipeline: str | None = None
    """Folder or hub id of the pipeline the prompts are for; None does not limit their length."""
    positive: str = ""
    """Base prompt."""
    negative: str = ""
    """Base negative prompt."""
    without: bool = False
    """Without a negative prompt: say "without …" in the positive one."""


def prompts(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Image files, folders or globs.")
    ],
    scorer: ScorerOption = None,
    pipeline: Annotated[
        str | None,
        typer.Option(help="Pipeline the prompts are for, a folder or hub id: sets their length."),
    ] = None,
    positive: Annotated[str | None, typer.Option(help="Base prompt, put first.")] = None,
    negative: Annotated[str | None, typer.Option(help="Base negative prompt.")] = None,
    without: Annotated[
        bool | None,
        typer.Option(
            "--without/--leave-out",
            help='Pipelines without a negative prompt: say "without …" or leave issues out.',
        ),
    ] = None,
    device: DeviceOption = None,
    judge_prompts: PromptsName = None,
    model: ModelName = None,
    samples: Samples = None,
    seed: JudgeSeed = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write prompts from what a Zoom-IQA judge would improve and avoid.

    Exit codes: 0 done, 1 error, 2 no input gave a prompt.
    """
    from restoration_guide.prompts.write import PromptTarget, write_prompts

    options = {
        "scorer": scorer,
        "pipeline": pipeline,
        "positive": positive,
        "negative": negative,
        "without": without,
        "device": device,
        "prompts": judge_prompts,
        "model": model,
        "samples": samples,
        "seed": seed,
    }
    run = resolve(PromptsConfig, config, options)
    judge = load_judge(run.scorer, run.device, run.prompts, run.model, run.samples, run.seed)
    if not isinstance(judge, ZoomIQA):
        stop(f"the judge {run.scorer!r} gives no words; name a Zoom-IQA judge with --scorer")
    base = {"positive": run.positive, "negative": run.negative, "without": run.without}
    results: list[dict[str, Any]] = []
    try:
        target = PromptTarget() if run.pipeline is None else PromptTarget.from_folder(run.pipeline)
        paths = find_images(inputs)
        for path in progress(paths, "Judging", hidden=not as_json and sys.stdout.isatty()):
            said = judge.assess(path)
            if not said.valid:
                report(said.error or "invalid", said.message, str(path))
            written = write_prompts(said, target, **base)
            results.append({"name": str(path), "rating": said.rating, **written.to_dict()})
            if not as_json and said.valid:
                typer.echo(_summary(path, written))
    # no such pipeline, none that takes words, or a base prompt over the limit
    except (OSError, TypeError, ValueError) as error:
        stop(str(error), error)
    if as_json:
        typer.echo(to_json({"config": asdict(run), "results": results}, sort_keys=False), nl=False)
    finish([bool(result["phrases"]) for result in results])


def _summary(path: Path, written: WrittenPrompts) -> str:
    """Both prompts, and what is in neither."""
    lines = [f"{path}", f"  positive  {printable(written.positive)}"]
    if written.negative is not None:
        lines.append(f"  negative  {printable(written.negative)}")
    lines += [
        f"  tokens    {name}: {positive} and {negative} of {limit}"
        for name, positive, negative, limit in written.tokens
    ]
    lines += [f"  left out  {each.reason}: {printable(each.text)}" for each in written.dropped]
    return "\n".join([*lines, *(f"  note      {note}" for note in written.notes)])
