"""How well the proxy judges: people's ratings, graded distortions, local damage, gradients.

    python -m benchmarks.evaluate_proxy --biq2021 BIQ2021 --photos PHOTOS [--weights DIR]

``BIQ2021`` is the dataset's folder (its test split is used), ``PHOTOS`` a folder of clean photos
the proxy was not trained on. Prints a table with 95 % bootstrap intervals and writes it as JSON.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch.nn import functional

from benchmarks.damaged_photos import centre_crop
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT, distort
from zoomiqa_core.data.damage.local import damage_locally
from zoomiqa_core.evaluation.correlation import (
    Estimate,
    bootstrap,
    damage_iou,
    mean_subset_srcc,
    ordered_pairs,
    plcc,
    pointing,
    srcc,
)
from zoomiqa_core.images.sources import find_images, to_batch
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.proxy.preprocess import STRIDE
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import versions

MONOTONE = ("white_noise", "impulse_noise", "gaussian_blur", "jpeg", "jpeg2000")
LOCAL = ("gaussian_blur", "white_noise", "jpeg", "impulse_noise", "pixelate", "lens_blur")
"""Types of the local-damage test, at levels 3–5."""
UNGRADED = ("mean_shift", "contrast_change")
"""Types whose levels run from one extreme to the other: they have no order of severity, so that the
ordered pairs are counted with them and without."""
MIN_GAP = 0.25
"""Two levels of a type count as ordered when people rate them this far apart on average."""

Table = dict[str, Estimate | float]


class Judged(NamedTuple):
    """What the judge and people say of the same N images."""

    rating: np.ndarray
    """(N,) the judge's."""
    std: np.ndarray
    """(N,) its standard deviation."""
    people: np.ndarray
    """(N,) mean opinion on 1–5."""
    subset: np.ndarray
    """(N,) names."""


def judge_rated(proxy: QualityProxy, folder: str, split: str) -> Judged:
    """Judge a split of BIQ2021, whole photos."""
    images = read_biq2021(folder, split)
    outs = [proxy(to_batch(i.path)) for i in track(images, f"BIQ2021 {split}")]
    return Judged(
        np.array([float(o.rating) for o in outs]),
        np.array([float(o.rating_std) for o in outs]),
        np.array([i.rating for i in images]),
        np.array([i.subset for i in images]),
    )


def against_people(judged: Judged, seed: int) -> Table:
    """Correlations of the rating with people's, and of the spread with the error."""
    rating, std, people, subset = judged
    table: Table = {
        f"BIQ2021 {name} SRCC": bootstrap(srcc, rating[subset == name], people[subset == name])
        for name in sorted(set(subset))
    }
    table["BIQ2021 mean of subsets SRCC"] = bootstrap(
        mean_subset_srcc, rating, people, subset, seed=seed
    )
    table["BIQ2021 SRCC"] = bootstrap(srcc, rating, people, seed=seed)
    table["BIQ2021 PLCC"] = bootstrap(plcc, rating, people, seed=seed)
    table["BIQ2021 SRCC of std with |error|"] = bootstrap(
        srcc, std, abs(rating - people), seed=seed
    )
    inside = (abs(rating - people) <= 1.645 * std).astype(float)
    table["BIQ2021 coverage of the 90 % interval"] = bootstrap(np.mean, inside, seed=seed)
    return table


def distortion_ratings(
    proxy: QualityProxy, photos: list[Path], size: int, seed: int
) -> dict[str, np.ndarray]:
    """Rating of every photo at every level of every KADID type: type → (photos, 5)."""
    ratings: dict[str, list[list[float]]] = defaultdict(list)  # type -> photo -> level
    for index, photo in enumerate(track(photos, "KADID distortions")):
        clean = read_crop(photo, size)
        for name in DISTORTIONS:
            generator = torch.Generator().manual_seed(seed + index)
            levels = [distort(clean, name, n, generator=generator) for n in range(1, 6)]
            ratings[name].append(proxy(torch.cat(levels)).rating.tolist())
    return {name: np.array(rows) for name, rows in ratings.items()}


def against_distortions(ratings: dict[str, np.ndarray], seed: int) -> Table:
    """Agreement with KADID's mean opinion per type and level, types seen in training and not."""
    table: Table = {}
    for label, names in (
        ("seen", [n for n in DISTORTIONS if n not in HELD_OUT]),
        ("unseen", list(HELD_OUT)),
    ):
        table[f"KADID types {label}: SRCC"] = bootstrap(
            lambda r, p: srcc(r.ravel(), p.ravel()),
            *_by_photo(ratings, names),
            resamples=200,
            seed=seed,
        )
        graded = [n for n in names if n not in UNGRADED]
        for note, chosen in (("", names), (", graded types", graded)):
            table[f"KADID types {label}: ordered level pairs{note}"] = bootstrap(
                _ordered_share, *_by_photo(ratings, chosen), resamples=200, seed=seed
            )
    for name in MONOTONE:
        levels = ratings[name]
        table[f"{name}: SRCC of rating with level"] = srcc(
            -levels.ravel(), np.tile(np.arange(5), len(levels))
        )
        table[f"{name}: smallest mean step down"] = float((-np.diff(levels.mean(0))).min())
    return table


def _by_photo(
    ratings: dict[str, np.ndarray], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ratings and human means, both (photos, types, 5)."""
    rating = np.stack([ratings[name] for name in names], axis=1)
    return rating, np.broadcast_to([DISTORTIONS[name].mean_mos for name in names], rating.shape)


def _ordered_share(rating: np.ndarray, people: np.ndarray) -> float:
    """Share of level pairs, apart by ≥ MIN_GAP for people, that the ratings order alike.

    Args:
        rating: (photos, types, 5).
        people: the same shape.
    """
    pairs = [
        ordered_pairs(r, p, min_gap=MIN_GAP)
        for photo_r, photo_p in zip(rating, people, strict=True)
        for r, p in zip(photo_r, photo_p, strict=True)
    ]
    return float(np.mean([pair for group in pairs for pair in group]))


def against_local_damage(proxy: QualityProxy, photos: list[Path], size: int, seed: int) -> Table:
    """Does the map find damage of a fifth of the area (chance: pointing .2, IoU .11)?"""
    hits, overlaps = [], []
    for index, photo in enumerate(track(photos, "local damage")):
        clean = read_crop(photo, size)
        generator = torch.Generator().manual_seed(seed + index)
        for position, name in enumerate(LOCAL):
            level = 3 + (index + position) % 3
            damage = damage_locally(clean, name, level, area=(0.2, 0.2), generator=generator)
            cells = functional.avg_pool2d(damage.mask, STRIDE)[0, 0]
            found = proxy(damage.images).map[0, 0]
            hits.append(float(pointing(found, cells)))
            overlaps.append(damage_iou(found, cells))
    return {
        "local damage: pointing": bootstrap(np.mean, hits, seed=seed),
        "local damage: IoU": bootstrap(np.mean, overlaps, seed=seed),
    }


def input_gradient(proxy: QualityProxy, photos: list[Path], size: int) -> Table:
    """Share of photos whose input gradient is finite everywhere; smallest share of pixels ≠ 0."""
    finite, nonzero = [], []
    for photo in photos:
        clean = read_crop(photo, size).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(proxy(clean).rating.sum(), clean)
        finite.append(bool(gradient.isfinite().all()))
        nonzero.append(float((gradient.abs().amax(1) > 0).float().mean()))
    return {
        "input gradient: photos all finite": float(np.mean(finite)),
        "input gradient: least share of pixels non-zero": min(nonzero),
    }


def read_crop(photo: Path, size: int) -> torch.Tensor:
    """Central (1, 3, ≤ size, ≤ size) crop with sides cut to multiples of the map's cell."""
    image = to_batch(photo)
    height, width = (min(size, side) // STRIDE * STRIDE for side in image.shape[-2:])
    return centre_crop(image, height, width)


def main() -> None:
    """Run all parts and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--biq2021", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--weights", default=None, help="default: the bundled proxy")
    parser.add_argument("--count", type=int, default=41, help="photos used at most")
    parser.add_argument("--size", type=int, default=384, help="side of the central crops, px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/evaluate_proxy.json")
    args = parser.parse_args()

    proxy = QualityProxy.from_pretrained(args.weights)
    photos = find_images([args.photos])[: args.count]
    with torch.no_grad():
        table = against_people(judge_rated(proxy, args.biq2021, "test"), args.seed)
        ratings = distortion_ratings(proxy, photos, args.size, args.seed)
        table |= against_distortions(ratings, args.seed)
        table |= against_local_damage(proxy, photos, args.size, args.seed)
    table |= input_gradient(proxy, photos[:10], args.size)

    for name, value in table.items():
        print(f"{name:52s} {value if isinstance(value, Estimate) else format(value, '.3f')}")
    record = {
        "seed": args.seed,
        "photos": len(photos),
        "versions": versions(),
        "table": table,
        "mean rating by type and level": {n: r.mean(0).tolist() for n, r in ratings.items()},
    }
    print(f"written: {write_text_atomic(args.out, to_json(record, sort_keys=False))}")


if __name__ == "__main__":
    main()
