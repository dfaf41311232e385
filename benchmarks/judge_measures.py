"""Measures of :mod:`benchmarks.evaluate_judge`: agreement with people, damage, intervals.

Each table function returns rows of the result with 95 % bootstrap intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from benchmarks.damaged_photos import centre_crop
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT, distort
from zoomiqa_core.data.damage.local import damage_locally
from zoomiqa_core.evaluation.correlation import (
    Estimate,
    auc,
    bootstrap,
    damage_iou,
    interval_calibration_error,
    interval_coverage,
    mean_subset_srcc,
    ordered_pairs,
    plcc,
    pointing,
    srcc,
)
from zoomiqa_core.images.sources import to_batch
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.proxy.preprocess import STRIDE
from zoomiqa_core.runs.random import below

MONOTONE = ("white_noise", "impulse_noise", "gaussian_blur", "jpeg", "jpeg2000")
LOCAL = ("gaussian_blur", "white_noise", "jpeg", "impulse_noise", "pixelate", "lens_blur")
"""Types of the local-damage test, at levels 3–5."""
UNGRADED = ("mean_shift", "contrast_change")
"""Types whose levels run from one extreme to the other, without an order of severity; ordered pairs
are counted with and without them."""
MIN_GAP = 0.25
"""Two levels of a type count as ordered if their mean opinions are at least this far apart."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the intervals whose coverage is measured."""
SIDE = 384
"""Side of out-of-distribution images, pixels."""
WORDS = ("the", "image", "page", "quality", "of", "reading", "light", "a", "sharp", "photograph")

Table = dict[str, Estimate | float]


class Judged(NamedTuple):
    """Ratings of the same N images by the judge and by people."""

    rating: np.ndarray
    """(N,) the judge's ratings."""
    std: np.ndarray
    """(N,) the judge's standard deviations."""
    people: np.ndarray
    """(N,) mean opinion on 1–5."""
    subset: np.ndarray
    """(N,) names of the dataset's subsets."""


def judge_rated(proxy: QualityProxy, folder: str, split: str) -> Judged:
    """Judge the whole photos of a split of BIQ2021."""
    images = read_biq2021(folder, split)
    outs = [proxy(to_batch(i.path)) for i in track(images, f"BIQ2021 {split}")]
    return Judged(
        np.array([float(o.rating) for o in outs]),
        np.array([float(o.rating_std) for o in outs]),
        np.array([i.rating for i in images]),
        np.array([i.subset for i in images]),
    )


def against_people(judged: Judged, seed: int) -> Table:
    """Correlation of ratings with people's, and calibration of the standard deviations."""
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
    intervals = interval_table(rating - people, std, seed)
    table.update({f"BIQ2021 {name}": value for name, value in intervals.items()})
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


REFERENCE_BOUND = ("colour_diffusion", "colour_shift", "hsv_saturation")
"""Types that people rated beside the coloured original: without it, such an image is no worse."""


def against_distortions(ratings: dict[str, np.ndarray], seed: int) -> Table:
    """Agreement with KADID's mean opinions, for types used in training and for others."""
    table: Table = {}
    seen = [n for n in DISTORTIONS if n not in HELD_OUT]
    for label, names in (
        ("seen", seen),
        ("seen, not bound to a reference", [n for n in seen if n not in REFERENCE_BOUND]),
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
    """Share of level pairs ≥ MIN_GAP apart in mean opinion that the ratings order correctly.

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
    """How well the map locates damage of a fifth of the area (chance: pointing .2, IoU .11)."""
    hits, overlaps = [], []
    for index, photo in enumerate(track(photos, "local damage")):
        clean = read_crop(photo, size)
        generator = torch.Generator().manual_seed(seed + index)
        for position, name in enumerate(LOCAL):
            level = 3 + (index + position) % 3
            damage = damage_locally(clean, name, level, area=(0.2, 0.2), generator=generator)
            cells = functional.avg_pool2d(damage.mask, STRIDE)[0, 0]
            quality_map = proxy(damage.images).map[0, 0]
            hits.append(float(pointing(quality_map, cells)))
            overlaps.append(damage_iou(quality_map, cells))
    return {
        "local damage: pointing": bootstrap(np.mean, hits, seed=seed),
        "local damage: IoU": bootstrap(np.mean, overlaps, seed=seed),
    }


def read_crop(photo: Path, size: int) -> torch.Tensor:
    """Central crop of at most ``size``² px, sides multiples of a map cell: (1, 3, h, w)."""
    image = to_batch(photo)
    height, width = (min(size, side) // STRIDE * STRIDE for side in image.shape[-2:])
    return centre_crop(image, height, width)


def interval_table(error: np.ndarray, std: np.ndarray, seed: int) -> Table:
    """Coverage and calibration error of the intervals of (N,) standard deviations."""
    table: Table = {
        f"coverage of the {level:.0%} interval".replace("%", " %"): bootstrap(
            lambda e, s, level=level: interval_coverage(e, s, level), error, std, seed=seed
        )
        for level in LEVELS
    }
    table["calibration error of intervals"] = bootstrap(
        interval_calibration_error, error, std, resamples=200, seed=seed
    )
    table["SRCC of std with |error|"] = bootstrap(srcc, std, abs(error), seed=seed)
    return table


def text_page(generator: torch.Generator) -> Tensor:
    """A page of random words in one font size, black on white: (1, 3, SIDE, SIDE)."""
    page = Image.new("RGB", (SIDE, SIDE), "white")
    draw, height = ImageDraw.Draw(page), below(16, generator) + 12
    font = ImageFont.load_default(size=height)
    for top in range(8, SIDE - height, round(1.4 * height)):
        line = " ".join(WORDS[below(len(WORDS), generator)] for _ in range(30))
        draw.text((8, top), line, fill="black", font=font)
    return to_batch(page)


def twice_distorted(photo: Path, generator: torch.Generator) -> Tensor:
    """A photo with two held-out distortions, both at the highest level."""
    first, second = torch.randperm(len(HELD_OUT), generator=generator)[:2].tolist()
    image = read_crop(photo, SIDE)
    for index in (first, second):
        image = distort(image, HELD_OUT[index], 5, generator=generator)
    return image


def unfamiliar(photos: Sequence[Path], seed: int) -> dict[str, list[Tensor]]:
    """Out-of-distribution images: kind → one image per photo."""
    kinds: dict[str, list[Tensor]] = {}
    for index, photo in enumerate(photos):
        generator = torch.Generator().manual_seed(seed + index)
        colour = torch.rand(1, 3, 1, 1, generator=generator)
        images = {
            "noise": torch.rand(1, 3, SIDE, SIDE, generator=generator),
            "text pages": text_page(generator),
            "flat fields": colour.expand(1, 3, SIDE, SIDE).contiguous(),
            "two heavy distortions": twice_distorted(photo, generator),
        }
        for kind, image in images.items():
            kinds.setdefault(kind, []).append(image)
    return kinds


def out_of_distribution_table(proxy: QualityProxy, photos: Sequence[Path], seed: int) -> Table:
    """Mean standard deviation of each kind, and its AUC against that of photos (chance .5)."""

    def stds(images: Sequence[Tensor]) -> list[float]:
        return [float(proxy(image).rating_std) for image in images]

    familiar = stds([read_crop(photo, SIDE) for photo in photos])
    table: Table = {"std on photos": float(np.mean(familiar))}
    least = 1.0
    for kind, images in unfamiliar(photos, seed).items():
        unfamiliar_stds = stds(images)
        table[f"std on {kind}"] = float(np.mean(unfamiliar_stds))
        table[f"std on {kind}, AUC against photos"] = auc(familiar, unfamiliar_stds)
        least = min(least, auc(familiar, unfamiliar_stds))
    return {**table, "std apart from photos, least AUC": least}
