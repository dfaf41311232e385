"""What one training step shows the alarm: families of versions of one crop each, and their rating.

A family holds versions of one clean crop, and only clean crops say what a version is worth
(:func:`zoomiqa_core.alarm.reference.reference_rating`). Families of the first kind start from a
restored set, those of the second from a photo damaged on the spot. Half of the versions of both are
then tampered with (:mod:`zoomiqa_core.alarm.tampering`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoomiqa_core.alarm.reference import reference_rating
from zoomiqa_core.alarm.tampering import tamper
from zoomiqa_core.data.degradations import PRESETS, degrade
from zoomiqa_core.data.kadid import DISTORTIONS, HELD_OUT, LEVELS, distort
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.proxy.batches import VERSIONS

SEEN = tuple(name for name in DISTORTIONS if name not in HELD_OUT)
"""Distortion types shown in training."""


@dataclass(frozen=True)
class FamilyPlan:
    """What one step shows."""

    restored: int = 3
    """Families from restored sets."""
    damaged: int = 2
    """Families from photos damaged on the spot."""
    size: int = 8
    """Versions in a family, the clean one among them."""
    crop: int = 128
    """Side in pixels."""


class Families(NamedTuple):
    """One training batch of N images."""

    images: Tensor
    """(N, 3, S, S) in [0, 1]."""
    rating: Tensor
    """(N,) full-reference rating, 1–5."""
    size: int
    """Versions in a family; families follow one another."""


def draw_families(
    restored: PhotoPool, photos: PhotoPool, plan: FamilyPlan, *, generator: torch.Generator
) -> Families:
    """``plan.restored + plan.damaged`` families."""
    families = [restored_family(restored, plan, generator) for _ in range(plan.restored)]
    families += [damaged_family(photos, plan, generator) for _ in range(plan.damaged)]
    rating = torch.cat([reference_rating(family, family[:1]) for family in families])
    return Families(torch.cat(families), rating, plan.size)


def restored_family(sets: PhotoPool, plan: FamilyPlan, generator: torch.Generator) -> Tensor:
    """(size, 3, S, S), the clean crop first: two versions that differ in their restoration as they
    are, then blends and extrapolations of them, and tampered ones.

    Strengths run from 0 to 2: 1 is the restorer's output, 2 as far again beyond it.
    """
    tiles = sets.tiles(plan.crop, len(VERSIONS), generator=generator)
    version = dict(zip(VERSIONS, tiles, strict=True))
    clean, degraded = version["clean"], version["degraded"]
    of_degraded = [version[name] for name in VERSIONS[2:5]]
    of_clean = [version[name] for name in VERSIONS[5:]]
    family = [clean, degraded, of_degraded[_below(3, generator)]]
    while len(family) < plan.size:
        draw = _below(10, generator)
        if draw == 0:
            made = torch.lerp(clean, of_clean[_below(2, generator)], _strength(generator))
        elif draw < 3:
            made = torch.lerp(degraded, clean, _strength(generator) / 2)
        else:
            made = torch.lerp(degraded, of_degraded[_below(3, generator)], _strength(generator))
        made = made.clamp(0, 1)
        family.append(tamper(made, generator=generator) if _below(5, generator) < 3 else made)
    return torch.stack(family)


def damaged_family(photos: PhotoPool, plan: FamilyPlan, generator: torch.Generator) -> Tensor:
    """(size, 3, S, S): a photo clean, at levels of one KADID type, degraded, and tampered with."""
    clean, _ = photos.crops(1, plan.crop, generator=generator)
    family = [clean[0]]
    if _below(3, generator):
        name = SEEN[_below(len(SEEN), generator)]
        levels = (torch.randperm(len(LEVELS), generator=generator) + 1)[: plan.size // 2]
        family += [distort(clean, name, int(n), generator=generator)[0] for n in levels]
    else:
        preset = list(PRESETS)[_below(len(PRESETS), generator)]
        damaged = degrade(clean, preset, generator=generator).images[0]
        family += [torch.lerp(clean[0], damaged, share) for share in (1.0, 0.66, 0.33)]
    while len(family) < plan.size:
        base = family[_below(len(family), generator)]
        family.append(tamper(base, generator=generator))
    return torch.stack(family[: plan.size])


def _strength(generator: torch.Generator) -> float:
    return 2 * float(torch.rand((), generator=generator))


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
