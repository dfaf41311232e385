"""What one training step shows the proxy: four kinds of evidence in one batch.

1. *People on real photos*: crops of rated photographs with their mean opinion.
2. *People on distortions*: one photo at several levels of one KADID type, labelled with the mean
   opinion of that type and level, and the clean photo.
3. *Local damage*: a photo distorted inside a soft mask, labelled with a rating map.
4. *Order alone*: a photo between its degraded and its clean version, where only the order is sure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoomiqa_core.data.degradations import degrade
from zoomiqa_core.data.kadid import DISTORTIONS, HELD_OUT, distort
from zoomiqa_core.data.local_damage import CLEAN_RATING, damage_locally
from zoomiqa_core.data.photos import PhotoPool

SEEN = tuple(name for name in DISTORTIONS if name not in HELD_OUT)
"""Distortion types shown in training."""


@dataclass(frozen=True)
class BatchPlan:
    """How many images of each kind one step shows."""

    rated: int = 6
    """Crops of photos rated by people."""
    distorted: int = 2
    """Photos shown at ``levels`` levels of one KADID type."""
    levels: int = 3
    """Levels a distorted photo is shown at, beside its clean version."""
    local: int = 2
    """Photos damaged inside a mask."""
    blended: int = 1
    """Photos shown degraded, half way and clean."""


class Evidence(NamedTuple):
    """One training batch of N images; NaN marks what is not known."""

    images: Tensor
    """(N, 3, S, S) in [0, 1]."""
    rating: Tensor
    """(N,) mean opinion on 1–5."""
    order: Tensor
    """(N,) better is higher, comparable inside a group."""
    group: Tensor
    """(N,) group index."""
    rating_map: Tensor
    """(N, 1, S, S) rating of every pixel."""


def rated_evidence(pool: PhotoPool, ratings: Tensor, count: int, size: int, generator) -> Evidence:
    """Crops of rated photos; a crop inherits the rating of its photo. One group."""
    images, indices = pool.crops(count, size, generator=generator)
    labels = ratings[indices]
    return Evidence(images, labels, labels, torch.zeros(count), _no_map(images))


def distorted_evidence(pool: PhotoPool, levels: int, size: int, generator) -> Evidence:
    """One photo, clean and at ``levels`` different levels of one seen type. One group."""
    clean, _ = pool.crops(1, size, generator=generator)
    name = SEEN[_below(len(SEEN), generator)]
    chosen = (torch.randperm(5, generator=generator)[:levels] + 1).tolist()
    images = [clean, *(distort(clean, name, level, generator=generator) for level in chosen)]
    labels = [CLEAN_RATING, *(DISTORTIONS[name].mean_mos[level - 1] for level in chosen)]
    batch, rating = torch.cat(images), torch.tensor(labels)
    return Evidence(batch, rating, rating, torch.zeros(len(batch)), _no_map(batch))


def local_evidence(pool: PhotoPool, size: int, generator, *, worst: float = 3.3) -> Evidence:
    """One photo with local damage of a cell people rate below ``worst``; the map is known."""
    clean, _ = pool.crops(1, size, generator=generator)
    cells = [
        (n, i + 1) for n in SEEN for i, mos in enumerate(DISTORTIONS[n].mean_mos) if mos < worst
    ]
    name, level = cells[_below(len(cells), generator)]
    damage = damage_locally(clean, name, level, area=(0.05, 0.4), generator=generator)
    unknown = torch.full((1,), math.nan)
    return Evidence(damage.images, unknown, unknown, torch.zeros(1), damage.rating_map)


def blended_evidence(pool: PhotoPool, size: int, generator) -> Evidence:
    """A photo degraded as restoration inputs are, then half restored, then clean: order alone.

    The blend ``(degraded + clean) / 2`` is what a restorer at half strength approaches.
    """
    clean, _ = pool.crops(1, size, generator=generator)
    degraded = degrade(clean, "mixed", generator=generator).images
    images = torch.cat([degraded, (degraded + clean) / 2, clean])
    rating = torch.full((3,), math.nan)
    return Evidence(images, rating, torch.arange(3.0), torch.zeros(3), _no_map(images))


def training_batch(
    rated: PhotoPool,
    ratings: Tensor,
    pristine: PhotoPool,
    plan: BatchPlan,
    size: int,
    *,
    generator: torch.Generator,
) -> Evidence:
    """All four kinds of evidence for one step, each in groups of its own."""
    parts = [rated_evidence(rated, ratings, plan.rated, size, generator)]
    for _ in range(plan.distorted):
        parts.append(distorted_evidence(pristine, plan.levels, size, generator))
    for _ in range(plan.local):
        parts.append(local_evidence(pristine, size, generator))
    for _ in range(plan.blended):
        parts.append(blended_evidence(pristine, size, generator))
    numbered = [part._replace(group=part.group + i) for i, part in enumerate(parts)]
    return Evidence(*(torch.cat(column) for column in zip(*numbered, strict=True)))


def _no_map(images: Tensor) -> Tensor:
    return torch.full_like(images[:, :1], math.nan)


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
