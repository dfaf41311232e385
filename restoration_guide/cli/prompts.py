"""``restoration-guide prompts``: prompts from a judge's reasoning."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.cli.inputs import find_inputs
from zoomiqa_core.cli.options import (
    AsJson,
    ConfigFile,
    Inputs,
    MaxMegapixels,
    SeededJudgeOptions,
    given_options,
    limit_arguments,
    stop,
    with_options,
)
from zoomiqa_core.cli.results import Results, printable, progress, report

if TYPE_CHECKING:
    from restoration_guide.prompts.write import WrittenPrompts


@dataclass(frozen=True)
class PromptsOptions(SeededJudgeOptions):
    """Settings of ``restoration-guide prompts``, for the command line and YAML files."""

    scorer: Annotated[
        str,
        typer.Option(
            help='A Zoom-IQA judge: "tiny" (bundled), a folder, a hub id, or http://…/v1.'
        ),
    ] = "tiny"
    pipeline: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the pipeline to prompt: sets the length limit."),
    ] = None
    positive: Annotated[str, typer.Option(help="Base prompt, put first.")] = ""
    negative: Annotated[str, typer.Option(help="Base negative prompt, put first.")] = ""
    without: Annotated[
        bool,
        typer.Option(
            "--without/--leave-out",
            help='Pipelines without a negative prompt: write "without …" or leave issues out.',
        ),
    ] = False
    max_megapixels: MaxMegapixels = None


@with_options
def prompts(
    context: typer.Context,
    inputs: Inputs,
    options: PromptsOptions,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write prompts from what a Zoom-IQA judge would improve and avoid.

    Exit codes: 0 done, 1 error, 2 no input gave a prompt.
    """
    from restoration_guide.cli.config import resolve_or_stop
    from restoration_guide.prompts.write import PromptTarget, write_prompts
    from zoomiqa_core.zoom_iqa.judge import ZoomIQA

    run = resolve_or_stop(PromptsOptions, config, given_options(context, options))
    found = find_inputs(inputs)
    try:
        target = PromptTarget() if run.pipeline is None else PromptTarget.from_folder(run.pipeline)
    except (OSError, TypeError, ValueError) as error:  # absent, or without a prompt
        stop(str(error), error)
    judge = run.load()
    if not isinstance(judge, ZoomIQA):
        stop(f"the judge {run.scorer!r} writes no text; name a Zoom-IQA judge with --scorer")
    limits = limit_arguments(judge, run.max_megapixels)
    base = {"positive": run.positive, "negative": run.negative, "without": run.without}
    with Results({"config": asdict(run)}, as_json=as_json) as results:
        for absent in found.absent:
            failed = Assessment.failed(absent.code, absent.message)
            nothing = write_prompts(failed, target, **base).to_dict()
            results.add({"name": absent.name, "rating": None, **nothing}, valid=False)
        for path in progress(found.paths, "Judging", hidden=not as_json and sys.stdout.isatty()):
            assessment = judge.assess(path, **limits)
            if not assessment.valid:
                report(assessment.error or "invalid", assessment.message or str(path))
            try:
                written = write_prompts(assessment, target, **base)
            except ValueError as error:  # a base prompt over the limit
                stop(str(error), error)
            record = {"name": str(path), "rating": assessment.rating, **written.to_dict()}
            text = _summary(path, written) if assessment.valid else ""
            results.add(record, text, valid=bool(record["phrases"]))
    results.finish()


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
