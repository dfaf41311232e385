"""How well the restorer repairs, and whether its candidates leave something to choose.

    python -m benchmarks.evaluate_restorer --photos PHOTOS [--weights DIR] --count 40 --seed 0

``PHOTOS`` is a folder of clean photos the restorer was not trained on; their 256 x 256 centre crops
are degraded by each preset and restored 8 times. Prints a table of means over photos with 95 %
bootstrap intervals and writes it as JSON. Terms:

- one step: the first prediction at strength 1, the minimum-mean-square-error estimate;
- sample: a candidate, averaged over the candidates of a photo (what a random pick gives);
- average: the picture that averages the candidates;
- headroom: the best candidate of a photo, known from the clean photo, minus its mean candidate;
- spread: standard deviation over the candidates of a photo.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks import tables
from benchmarks.damaged_photos import Photo, damage, read_photos
from benchmarks.timing import threads
from restoration_guide.fidelity.full_reference import ReferenceFigures, reference_figures
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap

PRESETS = ("mixed", "x2", "x4", "noise_jpeg", "blur")
METRICS = ("psnr", "ms_ssim")

Row = dict[str, float]


def measure_photo(
    restorer: BuiltinRestorer, clean: Tensor, degraded: Tensor, *, n: int, seed: int
) -> tuple[Row, list[Row]]:
    """Figures of one photo (3, H, W), and PSNR, MS-SSIM and seconds of each candidate."""
    batch = degraded[None]
    (one_step,) = restorer.pipe(batch, 1, output_type="pt", return_dict=False)
    made = list(restorer.restore(batch, n=n, seed=seed))
    average = torch.stack([c.image for c in made]).mean(0)
    whole = {
        kind: reference_figures(image, clean)
        for kind, image in (("input", degraded), ("one step", one_step[0]), ("average", average))
    }
    single = [reference_figures(c.image, clean) for c in made]
    row: Row = {"seconds": float(np.mean([c.seconds for c in made]))}
    candidates: list[Row] = [{"seconds": c.seconds} for c in made]
    for name in METRICS:
        values = [_figure(figures, name) for figures in single]
        for candidate, value in zip(candidates, values, strict=True):
            candidate[name] = value
        before = _figure(whole["input"], name)
        row |= {
            f"{name} input": before,
            f"{name} one step": _figure(whole["one step"], name),
            f"{name} sample": float(np.mean(values)),
            f"{name} average": _figure(whole["average"], name),
            f"{name} best": max(values),
            f"{name} spread": float(np.std(values)),
        }
        for kind in ("one step", "sample", "average"):
            row[f"{name} gain of {kind}"] = row[f"{name} {kind}"] - before
        row[f"{name} headroom"] = max(values) - row[f"{name} sample"]
    return row, candidates


def evaluate_preset(
    restorer: BuiltinRestorer, photos: list[Photo], preset: str, *, n: int, seed: int
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Means over photos with intervals, and one line per candidate of the plan."""
    rows, per_photo = [], []
    for photo in track(photos, preset):
        degraded = damage(photo, preset, seed=seed)
        row, candidates = measure_photo(restorer, photo.clean, degraded, n=n, seed=seed)
        rows.append(row)
        per_photo.append(candidates)
    table = {
        name: bootstrap(lambda values: float(np.mean(values)), [row[name] for row in rows])
        for name in rows[0]
    }
    return table, plan_table(restorer, per_photo)


def plan_table(restorer: BuiltinRestorer, per_photo: list[list[Row]]) -> list[dict[str, Any]]:
    """Each candidate's settings, mean figures, and how often it is the best of its photo."""
    wins = {
        metric: np.bincount(
            [int(np.argmax([c[metric] for c in photo])) for photo in per_photo],
            minlength=len(per_photo[0]),
        )
        for metric in METRICS
    }
    return [
        {"index": index, **asdict(restorer.settings(index))}
        | {k: float(np.mean([p[index][k] for p in per_photo])) for k in per_photo[0][index]}
        | {f"best {metric}": int(counts[index]) for metric, counts in wins.items()}
        for index in range(len(per_photo[0]))
    ]


def main(arguments: list[str] | None = None) -> None:
    """Evaluate every preset and print the tables."""
    parser = tables.arguments(
        __doc__,
        out="runs/evaluate_restorer.json",
        photos=...,
        weights="builtin",
        count=40,
        n=8,
        threads=1,
    )
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    given = parser.parse_args(arguments)
    restorer = load_restorer(given.weights)
    if not isinstance(restorer, BuiltinRestorer):
        raise TypeError(f"expected a BuiltinRestorer, got {type(restorer).__name__}")
    photos, found, plans = read_photos(given.photos, given.count), {}, {}
    with threads(given.threads):
        for preset in given.presets:
            found[preset], plans[preset] = evaluate_preset(
                restorer, photos, preset, n=given.n, seed=given.seed
            )
    text = tables.side_by_side(found)
    for preset, plan in plans.items():
        text += f"\n\n{preset}\n\n" + tables.table(list(plan[0]), (p.values() for p in plan))
    tables.finish(given, text, tables=found, plans=plans)


def _figure(figures: ReferenceFigures, metric: str) -> float:
    return float(getattr(figures, metric))


if __name__ == "__main__":
    main()
