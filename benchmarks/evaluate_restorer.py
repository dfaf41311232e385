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

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
)

from benchmarks.timing import hardware, threads
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.builtin import BuiltinRestorer
from zoomiqa_core.data.degradations import degrade
from zoomiqa_core.files import write_text_atomic
from zoomiqa_core.images import find_images, to_batch
from zoomiqa_core.metrics import Estimate, bootstrap

PRESETS = ("mixed", "x2", "x4", "noise_jpeg", "blur")
SIDE = 256

Row = dict[str, float]


def centre_crop(photo: Tensor, side: int) -> Tensor:
    """The central square of (1, 3, H, W)."""
    height, width = photo.shape[-2:]
    if min(height, width) < side:
        raise ValueError(f"photos need sides of at least {side} px, got {(height, width)}")
    top, left = (height - side) // 2, (width - side) // 2
    return photo[..., top : top + side, left : left + side]


def psnr(image: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of (1, 3, H, W) in [0, 1]."""
    return float(peak_signal_noise_ratio(image, clean, data_range=1.0))


def ms_ssim(image: Tensor, clean: Tensor) -> float:
    """Multi-scale structural similarity of (1, 3, H, W) in [0, 1]."""
    return float(multiscale_structural_similarity_index_measure(image, clean, data_range=1.0))


def measure_photo(
    restorer: BuiltinRestorer, clean: Tensor, degraded: Tensor, *, n: int, seed: int
) -> tuple[Row, list[Row]]:
    """Figures of one photo, and PSNR, MS-SSIM and seconds of each candidate."""
    (one_step,) = restorer.pipe(degraded, 1, output_type="pt", return_dict=False)
    made = list(restorer.restore(degraded, n=n, seed=seed))
    average = torch.stack([c.image for c in made]).mean(0, keepdim=True)
    row: Row = {"seconds": float(np.mean([c.seconds for c in made]))}
    candidates: list[Row] = [{"seconds": c.seconds} for c in made]
    for name, metric in (("psnr", psnr), ("ms_ssim", ms_ssim)):
        values = [metric(c.image[None], clean) for c in made]
        for candidate, value in zip(candidates, values, strict=True):
            candidate[name] = value
        before = metric(degraded, clean)
        row |= {
            f"{name} input": before,
            f"{name} one step": metric(one_step, clean),
            f"{name} sample": float(np.mean(values)),
            f"{name} average": metric(average, clean),
            f"{name} best": max(values),
            f"{name} spread": float(np.std(values)),
        }
        for kind in ("one step", "sample", "average"):
            row[f"{name} gain of {kind}"] = row[f"{name} {kind}"] - before
        row[f"{name} headroom"] = max(values) - row[f"{name} sample"]
    return row, candidates


def evaluate_preset(
    restorer: BuiltinRestorer, crops: list[Tensor], preset: str, *, n: int, seed: int
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Means over photos with intervals, and one line per candidate of the plan."""
    rows, per_photo = [], []
    for number, clean in enumerate(track(crops, preset)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        degraded = degrade(clean, preset, generator=generator).images
        row, candidates = measure_photo(restorer, clean, degraded, n=n, seed=seed)
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
        for metric in ("psnr", "ms_ssim")
    }
    return [
        {"index": index, **asdict(restorer.settings(index))}
        | {k: float(np.mean([p[index][k] for p in per_photo])) for k in per_photo[0][index]}
        | {f"best {metric}": int(counts[index]) for metric, counts in wins.items()}
        for index in range(len(per_photo[0]))
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Gain and headroom of a restorer.")
    parser.add_argument("--photos", required=True, help="folder of clean, unseen photos")
    parser.add_argument("--weights", default="builtin", help="pipeline folder; the bundled one")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--count", type=int, default=40, help="photos")
    parser.add_argument("--n", type=int, default=8, help="candidates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate_restorer.json"))
    given = parser.parse_args(arguments)

    restorer = load_restorer(given.weights)
    if not isinstance(restorer, BuiltinRestorer):
        raise TypeError(f"expected a BuiltinRestorer, got {type(restorer).__name__}")
    paths = find_images([given.photos])[: given.count]
    crops = [centre_crop(to_batch(path), SIDE) for path in paths]
    report: dict[str, object] = {
        "photos": len(crops),
        "side_px": SIDE,
        "candidates": given.n,
        "seed": given.seed,
        "threads": given.threads,
        **hardware(),
    }
    with threads(given.threads):
        for preset in given.presets:
            table, plan = evaluate_preset(restorer, crops, preset, n=given.n, seed=given.seed)
            print(f"\n{preset}: {len(crops)} photos")
            for name, estimate in table.items():
                print(f"  {name:<26}{estimate}")
            for line in plan:
                print("  " + "  ".join(f"{k} {_short(v)}" for k, v in line.items()))
            report[preset] = {
                "table": {name: estimate._asdict() for name, estimate in table.items()},
                "plan": plan,
            }
            write_text_atomic(given.out, json.dumps(report, indent=2) + "\n")


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
