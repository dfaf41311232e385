"""What fine-tuning brought: fine-tuned restorers against the untuned one, on photos nobody saw.

    python -m benchmarks.evaluate_finetuned --photos PHOTOS --runs runs/methods/*/seed-* --count 60

``PHOTOS`` is a folder of clean photos that neither training nor monitor was given; their 256 x 256
crops (middles, then corners) are damaged as in ``evaluate_restorer`` and restored by the sampler of
each run's configuration, with the same noise by all. Runs are grouped
by method: a folder ``METHOD/seed-N`` belongs to METHOD, any other stands alone. Of
a group the table has, for every figure, the change from the untuned restorer: the mean over seeds
and photos, with a 95 % bootstrap interval over photos (each photo's mean over the seeds). The
verdict is the monitor's; seconds are the training's, with all looks but the first and last.

Every judge of ``--judges`` has a column. A rise of the one a run was trained on, its ``reward by``,
proves nothing; the others are independent of it. ``reference`` is what is known of the clean photo
in the same unit
(``zoomiqa_core.alarm.reference``, fitted to people's opinions of damage). The probes are distances
from the clean photo's statistics (``restoration_guide.finetune.probes``): lower is better.

Figures of a restorer are kept in ``--kept`` under the hash of its weights, so that a command that
is repeated, with one run more, restores only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.progress import track

from benchmarks import tables
from benchmarks.damaged_photos import Photo, damage, read_crops
from benchmarks.timing import threads
from restoration_guide.fidelity.full_reference import reference_figures
from restoration_guide.fidelity.terms import degrade_and_compare, low_pass_distance
from restoration_guide.finetune.probes import departures
from restoration_guide.finetune.rewards import RATED
from restoration_guide.restorers.base import candidate_generator
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
from zoomiqa_core import load_scorer
from zoomiqa_core.alarm.reference import reference_rating
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.scorer import Scorer

Figures = dict[str, list[float]]
"""Name → one figure a photo."""

COLUMNS = ("reference", "psnr", "ms_ssim")
"""Figures of the short table, after the judges'."""


class Run(NamedTuple):
    """A fine-tuning and what its folder says of it."""

    folder: Path
    method: str
    restorer: str
    """The untuned one: "builtin" or a folder."""
    sampler: dict[str, Any]
    """Arguments of the pipeline's call."""
    judge: str
    """Of the reward; ``none`` where no term of it comes from one."""
    verdict: str
    """The monitor's: last check, and what was kept."""
    seconds: float
    """Of training, and of all looks but the first and the last, wall clock."""


def read_run(folder: Path) -> Run:
    """What a run's folder says."""
    config = OmegaConf.load(folder / "config.yaml")
    sampler = {
        "num_inference_steps": config.rollout.steps,
        "temperature": config.rollout.temperature,
    }
    name = folder.parent.name if folder.name.startswith("seed-") else folder.name
    verdict, seconds = "", float("nan")
    if (folder / "checks.json").is_file():
        verdict = _verdict(json.loads((folder / "checks.json").read_text(encoding="utf-8")))
    if (folder / "log.jsonl").is_file():
        last = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        seconds = json.loads(last)["seconds"]
    weights = config.reward.weights
    judges = ["restoration"] * bool(weights.get("restoration"))
    judges += [config.judge] * any(weights[term] for term in RATED)
    judge = " and ".join(judges) or "none"
    return Run(folder, name, config.restorer, sampler, judge, verdict, seconds)


def _verdict(checks: Sequence[Mapping[str, Any]]) -> str:
    hacked = next((check["step"] for check in checks if check["hacked"]), None)
    doubtful = [check["step"] for check in checks if not check["honest"]]
    if hacked is not None:
        honest = max(c["step"] for c in checks if c["honest"] and c["step"] < hacked)
        return f"hacked at {hacked}, honest until {honest}"
    return f"doubtful at {doubtful[-1]}" if doubtful else f"honest to {checks[-1]['step']}"


def measure(
    pipe: TinyRestorationPipeline,
    photos: Sequence[Photo],
    judges: Mapping[str, Scorer],
    *,
    preset: str,
    sampler: Mapping[str, Any],
    seed: int,
) -> Figures:
    """Every figure of every photo, restored once."""
    found: Figures = {}
    for photo in track(photos, preset):
        degraded = damage(photo, preset, seed=seed)[None]
        (images,) = pipe(
            degraded,
            **sampler,
            generator=candidate_generator(seed, photo.number),
            output_type="pt",
            return_dict=False,
        )
        truth = reference_figures(images[0], photo.clean)
        row = {name: judge.assess(images[0]).rating for name, judge in judges.items()}
        row |= {"psnr": truth.psnr, "ms_ssim": float(truth.ms_ssim or np.nan)}
        row["reference"] = float(reference_rating(images, photo.clean[None]))
        row["degraded_psnr"] = float(degrade_and_compare(images, degraded))
        row["low_pass_distance"] = float(low_pass_distance(images, degraded))
        row |= {k: float(v) for k, v in departures(images, photo.clean[None]).items()}
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


def changes(before: Figures, after: Sequence[Figures]) -> dict[str, Estimate]:
    """Change of every figure from the untuned restorer to runs of several seeds.

    Args:
        before: of the untuned restorer.
        after: of each seed's, on the same photos.

    Returns:
        Mean over seeds and photos, with its interval over photos: seeds are not resampled.
    """
    table = {}
    for name, values in before.items():
        tuned = np.mean([seed[name] for seed in after], axis=0)
        table[name] = bootstrap(np.mean, tuned - np.asarray(values))
    return table


def spread(before: Figures, after: Sequence[Figures]) -> dict[str, float]:
    """Largest minus smallest mean change among the seeds, of every figure."""
    return {
        name: float(np.ptp([np.mean(np.subtract(seed[name], values)) for seed in after]))
        for name, values in before.items()
    }


class KeptFigures:
    """Figures of restorers, kept on disk under all that decides them.

    Args:
        folder: one JSON file a restorer.
        photos: what is restored.
        judges: by name.
        rules: further settings that decide the figures: preset and seed.
    """

    def __init__(
        self,
        folder: Path,
        photos: Sequence[Photo],
        judges: Mapping[str, Scorer],
        rules: Mapping[str, Any],
    ) -> None:
        self.folder, self.photos, self.judges, self.rules = folder, photos, judges, rules

    def of(self, pipe: TinyRestorationPipeline, sampler: Mapping[str, Any]) -> Figures:
        """The figures of a pipeline, measured where they are not kept."""
        digest = hashlib.sha256()
        for weight in [*pipe.unet.state_dict().values(), *(p.clean for p in self.photos)]:
            digest.update(weight.contiguous().numpy().tobytes())
        settings = {**self.rules, **sampler, "columns": COLUMNS, "flow": asdict(pipe.flow)}
        settings["numbers"] = [photo.number for photo in self.photos]  # they seed damage and noise
        settings["judges"] = {name: _identity(judge) for name, judge in self.judges.items()}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        path = self.folder / f"{digest.hexdigest()[:24]}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        found = measure(pipe, self.photos, self.judges, sampler=sampler, **self.rules)
        write_text_atomic(path, to_json(found))
        return found


def _identity(judge: Scorer) -> str:
    """A judge by what it says of a fixed image: other weights, other words."""
    ramp = torch.linspace(0, 1, 96).expand(3, 96, 96) * torch.rand(
        3, 96, 96, generator=torch.Generator().manual_seed(0)
    )
    return f"{type(judge).__name__} {judge.assess(ramp).rating:.6f}"


def as_markdown(
    report: Mapping[str, Any], columns: Sequence[str], untuned: Mapping[str, float]
) -> str:
    """The table: a row a method."""
    rows = [["untuned", "", "", *(f"{untuned[name]:.4g}" for name in columns), "", ""]]
    for method, found in report.items():
        figures = []
        for name in columns:
            change = found["changes"][name]
            digits = 4 if abs(change.value) < 0.02 else 3
            figures.append(tables.cell(change, digits, sign=True))
        verdicts = "; ".join(dict.fromkeys(found["verdicts"]))
        times, seeds = f"{np.mean(found['seconds']):.0f}", str(len(found["verdicts"]))
        rows.append([method, found["judge"], seeds, *figures, verdicts, times])
    return tables.table(["method", "reward by", "seeds", *columns, "monitor", "seconds"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = tables.arguments(
        __doc__, out="runs/evaluate_finetuned.json", photos=..., count=60, preset="mixed", threads=1
    )
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="run folders")
    parser.add_argument("--judges", nargs="+", default=["proxy", "alarm"], help="scorers")
    parser.add_argument("--all", action="store_true", help="every figure, not the main ones alone")
    parser.add_argument("--kept", type=Path, default=Path("runs/evaluate_finetuned"))
    given = parser.parse_args(arguments)

    judges = {name: load_scorer(name) for name in given.judges}
    photos = read_crops(given.photos, given.count)
    kept = KeptFigures(given.kept, photos, judges, {"preset": given.preset, "seed": given.seed})
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in map(read_run, given.runs):
        key = (run.restorer, json.dumps(run.sampler), run.method, run.judge)
        groups.setdefault(key, []).append(run)

    samplers: list[dict[str, Any]] = []
    texts: list[str] = []
    with threads(given.threads), torch.no_grad():
        for restorer, sampler in dict.fromkeys(key[:2] for key in groups):
            call = json.loads(sampler)
            source = None if restorer == "builtin" else restorer
            before = kept.of(load_builtin_pipeline(source), call)
            columns = list(before) if given.all else [*judges, *COLUMNS]
            untuned = {name: float(np.mean(values)) for name, values in before.items()}
            report = {}
            for (_, _, method, judge), runs in groups.items():
                if runs[0].restorer != restorer or runs[0].sampler != call:
                    continue
                after = [kept.of(load_builtin_pipeline(r.folder / "pipeline"), call) for r in runs]
                name = method if method not in report else f"{method}, reward by {judge}"
                report[name] = {
                    "judge": judge,
                    "changes": changes(before, after),
                    "spread_of_seeds": spread(before, after),
                    "verdicts": [run.verdict for run in runs],
                    "seconds": [run.seconds for run in runs],
                }
            texts.append(f"{len(photos)} crops, {given.preset}, {sampler}; changes from untuned\n")
            texts.append(as_markdown(report, columns, untuned))
            samplers.append({**call, "untuned": untuned, "methods": report})
    tables.finish(given, "\n".join(texts), samplers=samplers)


if __name__ == "__main__":
    main()
