"""Fit the full-reference rating, which labels the alarm's training data, to KADID-10k.

    python -m recipes.calibrate_alarm --photos PHOTOS [--count 24] [--seed 0]

Distorts crops of clean photos as KADID-10k does, at all 125 types and levels, and fits the weights
and the offset of ``zoomiqa_core.alarm.reference`` to the mean opinion of each type and level (least
squares, positive weights). Prints the constants of that module, and the correlation of the fitted
rating with the mean opinions.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rich.progress import track
from scipy.optimize import least_squares

from zoomiqa_core.alarm.reference import DISTANCES, distances, from_distances
from zoomiqa_core.data.damage.kadid import DISTORTIONS, LEVELS, distort
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import plcc, srcc
from zoomiqa_core.images.sources import find_images

CROP = 160
"""Side of the crops, pixels."""
MIN_WEIGHT = 0.3
"""Smallest weight, so that a distance that matters little in KADID-10k still counts."""


def main() -> None:
    """Measure distances, fit, print."""
    parser = argparse.ArgumentParser(description="Calibrate the alarm's full-reference rating.")
    parser.add_argument("--photos", required=True, help="folder of clean photos")
    parser.add_argument("--count", type=int, default=24, help="photos, spread over the folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    paths = find_images([args.photos])
    pool = PhotoPool(paths[:: max(1, len(paths) // args.count)][: args.count], min_side=CROP)
    generator = torch.Generator().manual_seed(args.seed)
    clean = torch.stack([pool.crop(i, CROP, generator=generator) for i in range(len(pool))])
    rows, people = [], []
    for name, distortion in track(DISTORTIONS.items(), "types"):
        for level in LEVELS:
            rows.append(distances(distort(clean, name, level, generator=generator), clean))
            people.append(distortion.mean_mos[level - 1])
    found, opinion = torch.stack(rows), torch.tensor(people)  # (cells, photos, distances), (cells,)

    def error(numbers: np.ndarray) -> np.ndarray:
        weights = torch.tensor(numbers[1:], dtype=torch.float32)
        rating = from_distances(found.flatten(0, 1), weights, float(numbers[0]))
        return (rating.view(len(opinion), -1).mean(1) - opinion).double().numpy()

    size = len(DISTANCES)
    fit = least_squares(
        error,
        np.full(1 + size, 2.0),
        bounds=([MIN_WEIGHT] * (1 + size), [20.0] * (1 + size)),
        diff_step=1e-3,
    )
    means = error(fit.x) + opinion.numpy()
    print(f"OFFSET = {fit.x[0]:.2f}")
    for name, weight in zip(DISTANCES, fit.x[1:], strict=True):
        print(f"    {weight:.2f},  # {name}")
    print(f"cells: SRCC {srcc(means, people):.3f}, PLCC {plcc(means, people):.3f}, ", end="")
    print(f"RMSE {np.sqrt(np.mean(error(fit.x) ** 2)):.3f}")


if __name__ == "__main__":
    main()
