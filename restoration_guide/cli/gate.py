"""``restoration-guide gate`` and ``calibrate-gate``: verdicts on restored images, and their bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from restoration_guide.cli.config import ConfigError, merge_settings
from restoration_guide.cli.output_folders import output_folders
from restoration_guide.fidelity.terms import FidelityLimits
from restoration_guide.gate.calibration import calibrate, check
from restoration_guide.gate.gate import QualityGate
from restoration_guide.gate.verdict import GateConfig, Verdict
from zoomiqa_core.cli.options import (
    AsJson,
    Device,
    ModelName,
    PromptsName,
    Samples,
    ScorerName,
    finish,
    load_judge,
    printable,
    progress,
    report,
    stop,
    write_errors,
)
from zoomiqa_core.data.benchmarks.tables import csv_rows
from zoomiqa_core.images.sources import SUFFIXES, find_images
from zoomiqa_core.runs.files import to_json, write_text_atomic

ScorerOption = Annotated[
    str | None,
    typer.Option("--scorer", help='"proxy", or a judge\'s folder or hub id.  [default: proxy]'),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help='E.g. "cuda".  [default: cpu]')]
JudgeSeed = Annotated[int | None, typer.Option("--seed", help="Of a Zoom-IQA judge's sampling.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="YAML", help="Settings; options win.")
]


@dataclass(frozen=True)
class GateRunConfig(GateConfig):
    """Settings of ``restoration-guide gate``."""

    scorer: str = "proxy"
    """``"proxy"`` or the folder, hub id or address of a judge."""
    second: str | None = None
    """A second judge with a veto, named likewise; it judges with its own defaults."""
    device: str = "cpu"
    """Where both judge."""
    prompts: str | None = None
    """Of a Zoom-IQA judge: ``"builtin"``, ``"official"`` or a YAML file."""
    model: str | None = None
    """Of a judge on a server: the name it has there."""
    samples: int | None = None
    """Of a Zoom-IQA judge: chains an image."""
    seed: int | None = None
    """Of a Zoom-IQA judge: of its sampling."""
    fidelity: FidelityLimits = field(default_factory=FidelityLimits)

    def build(self) -> QualityGate:
        """Load the judges."""
        asked = self.prompts, self.model, self.samples, self.seed
        second = None if self.second is None else load_judge(self.second, self.device, None, None)
        return QualityGate(
            load_judge(self.scorer, self.device, *asked),
            self.min_rating,
            second=second,
            confidence=self.confidence,
            min_gain=self.min_gain,
            limits=self.fidelity,
        )


def gate(
    before: Annotated[str, typer.Argument(help="Degraded image, or a folder of them.")],
    after: Annotated[
        str, typer.Argument(help="Restored image, a folder of them, or one of best-of-n's reports.")
    ],
    min_rating: Annotated[
        float | None, typer.Option(help="Rating that is good enough, 1–5.  [default: 3.5]")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="k of the bound rating − k·std.  [default: 0.5]")
    ] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="Rating points over a good input.  [default: 0.1]")
    ] = None,
    scorer: ScorerOption = None,
    second: Annotated[
        str | None, typer.Option(help="A second judge with a veto, with its defaults.")
    ] = None,
    device: DeviceOption = None,
    prompts: PromptsName = None,
    model: ModelName = None,
    samples: Samples = None,
    seed: JudgeSeed = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Judge restored images against their inputs: accept, retry, keep_input or reject.

    Exit codes: 0 when a result was accepted or an input kept, 2 when no image may be used.
    """
    options = {
        "min_rating": min_rating,
        "confidence": confidence,
        "min_gain": min_gain,
        "scorer": scorer,
        "second": second,
        "device": device,
        "prompts": prompts,
        "model": model,
        "samples": samples,
        "seed": seed,
    }
    run = resolve(GateRunConfig, config, options)
    pairs = list(image_pairs(before, after))
    decide = run.build()
    verdicts: list[Verdict] = []
    for pair in progress(pairs, "Judging", hidden=not as_json and sys.stdout.isatty()):
        verdicts.append(decide(*pair))
        if not as_json:
            typer.echo(_summary(pair, verdicts[-1]))
    if as_json:
        results = [
            {"before": str(pair[0]), "after": str(pair[1]), **verdict.to_dict()}
            for pair, verdict in zip(pairs, verdicts, strict=True)
        ]
        typer.echo(to_json({"config": asdict(run), "results": results}, sort_keys=False), nl=False)
    finish([verdict.action in ("accept", "keep_input") for verdict in verdicts])


def calibrate_gate(
    labels: Annotated[Path, typer.Argument(metavar="CSV", help="Columns image, acceptable (1/0).")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where images are; beside the CSV without.")
    ] = None,
    target: Annotated[
        float, typer.Option(help="Share of unacceptable images that may pass.")
    ] = 0.05,
    hold_out: Annotated[
        float, typer.Option(help="Share of the images kept to check the threshold on.")
    ] = 0.3,
    scorer: ScorerName = "proxy",
    device: Device = "cpu",
    prompts: PromptsName = None,
    model: ModelName = None,
    samples: Samples = None,
    seed: Annotated[int, typer.Option(help="Of the images held out.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="YAML", help="Gets the settings for gate --config.")
    ] = Path("runs/gate.yaml"),
) -> None:
    """Find the rating from which a judge's word is good enough, from labelled images."""
    if not 0 <= hold_out < 1:
        raise typer.BadParameter(f"--hold-out is a share in [0, 1), got {hold_out}")
    paths, good = _labelled(labels, images)
    judge = load_judge(scorer, device, prompts, model, samples)
    said = [judge.assess(path) for path in progress(paths, "Rating", hidden=False)]
    for path, each in zip(paths, said, strict=True):
        if not each.valid:
            report(each.error or "invalid", each.message, str(path))
    ratings = np.array([each.rating for each in said])
    order = np.random.default_rng(seed).permutation(len(ratings))
    held, ours = np.split(order, [round(hold_out * len(order))])
    try:
        found = calibrate(ratings[ours], good[ours], target_false_accept=target, seed=seed)
    except ValueError as error:
        stop(str(error), error)
    low, high = found.interval
    mean, least, most = found.expected
    lines = [
        f"min_rating {found.min_rating:.3f} [{low:.3f}, {high:.3f}], from {len(ours)} images, "
        f"{found.unacceptable} of them unacceptable",
        f"expected false accepts {mean:.1%}, in 95 % of calibrations {least:.1%} – {most:.1%}",
    ]
    if len(held):
        rates = check(ratings[held], good[held], found.min_rating)._asdict()
        lines += [f"held out: {name.replace('_', ' ')} {rate}" for name, rate in rates.items()]
    settings = yaml.safe_dump({"scorer": scorer, "min_rating": found.min_rating}, sort_keys=False)
    with write_errors():
        write_text_atomic(out, "".join(f"# {line}\n" for line in lines) + settings)
    typer.echo("\n".join([*lines, f"written: {out}"]))


def _labelled(labels: Path, images: Path | None) -> tuple[list[Path], np.ndarray]:
    """Images of a label file and whether people accept them; a bad file ends the program."""
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    paths, good = [], []
    try:
        for row in csv_rows(labels, ("image", "acceptable")):
            text = row.text("acceptable").lower()
            if text not in known:
                raise ValueError(f"{row.where}: acceptable is 1 or 0, got {text!r}")
            paths.append((images or labels.parent) / row.image("image"))
            good.append(known[text])
    except (OSError, ValueError) as error:
        stop(str(error), error)
    return paths, np.array(good, bool)


def resolve(schema: Any, config: Path | None, options: dict[str, Any]) -> Any:
    """The settings; bad ones end the program."""
    try:
        return merge_settings(schema, config, options)
    except ConfigError as error:
        stop(str(error), error)


def image_pairs(before: str, after: str) -> Iterator[tuple[Path, Path]]:
    """Each input with its result, which need not exist.

    The result of a folder's image is, in the other folder, the file at the same relative path,
    with another image suffix if need be, or ``best.png`` in its report folder.
    """
    root, results = Path(before).expanduser(), Path(after).expanduser()
    sources = find_images([before])
    if not results.is_dir():
        if len(sources) > 1 or root.is_dir():
            stop(f"{after} is no folder of results for the images of {before}")
        yield sources[0], results
        return
    for source, folder in zip(sources, output_folders(sources, results), strict=True):
        name = source.relative_to(root) if root.is_dir() else Path(source.name)
        same = results / name
        options = [same, *(same.with_suffix(suffix) for suffix in sorted(SUFFIXES))]
        options += [folder / "best.png"]
        yield source, next((path for path in options if path.is_file()), same)


def _summary(pair: tuple[Path, Path], verdict: Verdict) -> str:
    """The action and the image, then the reasons."""
    lines = [f"{verdict.action:10s}  {printable(str(pair[1]))}"]
    return "\n".join([*lines, *(f"  {printable(reason)}" for reason in verdict.reasons)])
