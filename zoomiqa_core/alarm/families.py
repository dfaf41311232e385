"""Training data of the alarm: families, each several versions of one clean crop.

A version's label is its full-reference rating (:func:`~.reference.reference_rating`). A family is
drawn from a restored set or from a photo damaged here; about half of the versions are also tampered
with (:mod:`zoomiqa_core.alarm.tampering`).
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
"""Versions in a family; the first is clean."""


def restored_family(sets: PhotoPool, crop: int, generator: torch.Generator) -> Tensor:
    """Versions of one crop of a restored set: (``SIZE``, 3, crop, crop), the clean one first.

    Next the degraded and a restored version, then blends of a restorer's input and output, most of
    them tampered with. Blend weights run from 0 to 2: 1 is the output, above 1 extrapolates.

    >>> from zoomiqa_core.images.sources import save_png
    >>> row = torch.rand(3, 64, 64 * len(VERSIONS))  # the versions side by side
    >>> sets = PhotoPool([save_png(row, "set.png")], min_side=48)
    >>> restored_family(sets, 48, torch.Generator().manual_seed(0)).shape
    torch.Size([8, 3, 48, 48])
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
            blend = torch.lerp(clean, of_clean[below(2, generator)], _strength(generator))
        elif draw < 3:
            blend = torch.lerp(degraded, clean, _strength(generator) / 2)
        else:
            blend = torch.lerp(degraded, of_degraded[below(3, generator)], _strength(generator))
        blend = blend.clamp(0, 1)
        family.append(tamper(blend, generator=generator) if below(5, generator) < 3 else blend)
    return _some_in_8_bits(torch.stack(family), generator)


def damaged_family(photos: PhotoPool, crop: int, generator: torch.Generator) -> Tensor:
    """Versions of one photo's crop, damaged here: (``SIZE``, 3, crop, crop), the clean one first.

    Damage is one KADID type at several levels, or a restoration degradation at three strengths; the
    rest of the family is tampered with.

    >>> from zoomiqa_core.images.sources import save_png
    >>> photos = PhotoPool([save_png(torch.rand(3, 64, 96), "photo.png")], min_side=48)
    >>> damaged_family(photos, 48, torch.Generator().manual_seed(0)).shape
    torch.Size([8, 3, 48, 48])
    """
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
    """Round half of the versions to 8 bits, so that rounding does not give the clean one away."""
    on_grid = torch.rand(len(family), 1, 1, 1, generator=generator) < 0.5
    return torch.where(on_grid, (family * 255).round() / 255, family)


def _strength(generator: torch.Generator) -> float:
    return 2 * float(torch.rand((), generator=generator))
