"""What the alarm learns from: families of versions of one clean crop, and what each is worth.

Only the clean crop says what a version is worth (:func:`~.reference.reference_rating`). Families
start from a restored set, or from a photo damaged on the spot; half of the versions of both are
then tampered with (:mod:`zoomiqa_core.alarm.tampering`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoomiqa_core.alarm.tampering import tamper
from zoomiqa_core.data.damage.kadid import LEVELS, distort
from zoomiqa_core.data.damage.restoration import PRESETS, degrade
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.proxy.batches import SEEN, VERSIONS
from zoomiqa_core.runs.random import below

SIZE = 8
"""Versions in a family, the clean one first."""


def restored_family(sets: PhotoPool, crop: int, generator: torch.Generator) -> Tensor:
    """(``SIZE``, 3, crop, crop) of versions in a restored set.

    The clean crop, two versions as they are, then blends and extrapolations of them, and tampered
    ones. Strengths run from 0 to 2: 1 is the restorer's output, 2 as far again beyond it.
    """
    tiles = sets.tiles(crop, len(VERSIONS), generator=generator)
    version = dict(zip(VERSIONS, tiles, strict=True))
    clean, degraded = version["clean"], version["degraded"]
    of_degraded = [version[name] for name in VERSIONS[2:5]]
    of_clean = [version[name] for name in VERSIONS[5:]]
    family = [clean, degraded, of_degraded[below(3, generator)]]
    while len(family) < SIZE:
        draw = below(10, generator)
        if draw == 0:
            made = torch.lerp(clean, of_clean[below(2, generator)], _strength(generator))
        elif draw < 3:
            made = torch.lerp(degraded, clean, _strength(generator) / 2)
        else:
            made = torch.lerp(degraded, of_degraded[below(3, generator)], _strength(generator))
        made = made.clamp(0, 1)
        family.append(tamper(made, generator=generator) if below(5, generator) < 3 else made)
    return _some_in_8_bits(torch.stack(family), generator)


def damaged_family(photos: PhotoPool, crop: int, generator: torch.Generator) -> Tensor:
    """(``SIZE``, 3, crop, crop): a photo clean, at levels of one type or degraded, tampered."""
    clean, _ = photos.crops(1, crop, generator=generator)
    family = [clean[0]]
    if below(3, generator):
        name = SEEN[below(len(SEEN), generator)]
        levels = (torch.randperm(len(LEVELS), generator=generator) + 1)[: SIZE // 2]
        family += [distort(clean, name, int(n), generator=generator)[0] for n in levels]
    else:
        preset = list(PRESETS)[below(len(PRESETS), generator)]
        damaged = degrade(clean, preset, generator=generator).images[0]
        family += [torch.lerp(clean[0], damaged, share) for share in (1.0, 0.66, 0.33)]
    while len(family) < SIZE:
        base = family[below(len(family), generator)]
        family.append(tamper(base, generator=generator))
    return _some_in_8_bits(torch.stack(family[:SIZE]), generator)


def _some_in_8_bits(family: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the versions on the 8-bit grid: being on it, as clean photos are, tells nothing."""
    on_grid = torch.rand(len(family), 1, 1, 1, generator=generator) < 0.5
    return torch.where(on_grid, (family * 255).round() / 255, family)


def _strength(generator: torch.Generator) -> float:
    return 2 * float(torch.rand((), generator=generator))
