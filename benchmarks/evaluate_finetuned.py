"""What fine-tuning brought: fine-tuned restorers against the untuned one, on photos nobody saw.

    python -m benchmarks.evaluate_finetuned --photos PHOTOS --runs runs/draft1 runs/naive --seed 0

``PHOTOS`` is a folder of clean photos that neither training nor monitor was given; their 256 x 256
centre crops are damaged as in ``evaluate_restorer`` and restored by the sampler of each run's
configuration, with the same noise by all. Prints the means of the untuned restorer and the changes
with 95 % bootstrap intervals over photos, and writes them as JSON. ``rating`` is the judge of the
reward: a rise of it alone proves nothing. The probes are distances from the clean photo's
statistics (``restoration_guide.finetune.probes``): lower is better.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.progress import track

from benchmarks.damaged_photos import Photo, damage, read_photos
from benchmarks.timing import hardware, threads
from restoration_guide.fidelity import degrade_and_compare, low_pass_distance
from restoration_guide.finetune.probes import departures
from restoration_guide.reference import reference_figures
from restoration_guide.restorers.base import candidate_generator
from restoration_guide.restorers.builtin import load_builtin_pipeline
from restoration_guide.restorers.pipeline import TinyRestorationPipeline
from zoomiqa_core import load_scorer
from zoomiqa_core.data.degradations import PRESETS
from zoomiqa_core.files import to_json, write_text_atomic
from zoomiqa_core.metrics import Estimate, bootstrap
from zoomiqa_core.scorer import Scorer

Figures = dict[str, list[float]]
"""Name → one figure a photo."""


def measure(
    pipe: TinyRestorationPipeline,
    photos: list[Photo],
    judges: dict[str, Scorer],
    *,
    preset: str,
    steps: int,
    temperature: float,
    seed: int,
) -> Figures:
    """Every figure of every photo, restored once."""
    found: Figures = {}
    for photo in track(photos, preset):
        degraded = damage(photo, preset, seed=seed)[None]
        (images,) = pipe(
            degraded,
            steps,
            temperature=temperature,
            generator=candidate_generator(seed, photo.number),
            output_type="pt",
            return_dict=False,
        )
        truth = reference_figures(images[0], photo.clean)
        row = {name: judge.assess(images[0]).rating for name, judge in judges.items()}
        row |= {"psnr": truth.psnr, "ms_ssim": float(truth.ms_ssim or np.nan)}
        row["degraded_psnr"] = float(degrade_and_compare(images, degraded))
        row["low_pass_distance"] = float(low_pass_distance(images, degraded))
        row |= {k: float(v) for k, v in departures(images, photo.clean[None]).items()}
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


def changes(before: Figures, after: Figures) -> dict[str, Estimate]:
    """Mean change of every figure, with its interval over photos."""
    return {name: bootstrap(np.mean, np.subtract(after[name], before[name])) for name in before}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Fine-tuned restorers against the untuned one.")
    parser.add_argument("--photos", required=True, help="folder of clean, unseen photos")
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="run folders")
    parser.add_argument("--independent-judge", help="a scorer that no run was trained on")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="mixed")
    parser.add_argument("--count", type=int, default=20, help="photos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate_finetuned.json"))
    given = parser.parse_args(arguments)

    judges: dict[str, Scorer] = {"rating": load_scorer("proxy")}
    if given.independent_judge:
        judges["independent rating"] = load_scorer(given.independent_judge)
    photos = read_photos(given.photos, given.count)
    report: dict[str, object] = {
        "photos": len(photos),
        "preset": given.preset,
        "seed": given.seed,
        **hardware(),
    }
    baselines: dict[tuple[str, int, float], Figures] = {}
    with threads(given.threads), torch.no_grad():
        for run in given.runs:
            config = OmegaConf.load(run / "config.yaml")
            sampler = {"steps": config.rollout.steps, "temperature": config.rollout.temperature}
            rules = {"preset": given.preset, "seed": given.seed, **sampler}
            key = (config.restorer, *sampler.values())
            if key not in baselines:
                untuned = load_builtin_pipeline(
                    None if config.restorer == "builtin" else config.restorer
                )
                baselines[key] = measure(untuned, photos, judges, **rules)
                print(f"\nuntuned, {sampler}: means over {len(photos)} photos")
                for name, values in baselines[key].items():
                    print(f"  {name:<20}{_interval(bootstrap(np.mean, values))}")
            tuned = measure(load_builtin_pipeline(run / "pipeline"), photos, judges, **rules)
            table = changes(baselines[key], tuned)
            print(f"\n{run}: changes")
            for name, estimate in table.items():
                print(f"  {name:<20}{_interval(estimate)}")
            report[str(run)] = {
                "untuned": {k: float(np.mean(v)) for k, v in baselines[key].items()},
                "changes": {name: estimate._asdict() for name, estimate in table.items()},
            }
            write_text_atomic(given.out, to_json(report, sort_keys=False))


def _interval(estimate: Estimate) -> str:
    value, low, high = (f"{number:.4f}" for number in estimate)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
