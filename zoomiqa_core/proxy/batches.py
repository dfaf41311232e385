"""What one training step shows the proxy: five kinds of evidence in two batches.

1. *People on real photos*: crops of rated photographs with their mean opinion.
2. *People on distortions*: one photo at several levels of one KADID type, labelled with the mean
   opinion of that type and level, and the clean photo.
3. *Local damage*: a photo distorted inside a soft mask, labelled with a rating map.
4. *Order alone*: a photo clean, degraded, and restored in several ways from either; where an image
   stands in the order, MS-SSIM to the clean photo says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT, distort
from zoomiqa_core.data.damage.local import CLEAN_RATING, damage_locally
from zoomiqa_core.data.damage.overlay import add_text
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.runs.random import below

SEEN = tuple(name for name in DISTORTIONS if name not in HELD_OUT)
"""Distortion types shown in training."""

HARD = (
    "hsv_saturation",
    "darken",
    "mean_shift",
    "misplaced_patches",
    "colour_blocks",
    "contrast_change",
)
"""Seen types whose levels a proxy orders worst: the damage is small, rare or a matter of taste."""

VERSIONS = (
    "clean",
    "degraded",
    "restored",
    "restored_sampled",
    "restored_bold",
    "restored_clean",
    "restored_clean_bold",
)
"""Versions of one crop in a restored set, side by side from the left."""


@dataclass(frozen=True)
class BatchPlan:
    """How many images of each kind one step shows."""

    rated: int = 4
    """Crops of photos rated by people, of each subset of the dataset."""
    rated_crop: int = 512
    """Side of these crops in pixels, a multiple of 16: people rated whole photos, so the more of
    them a crop shows, the truer its label."""
    rated_smallest: int = 256
    """Side, a multiple of 16, down to which they are then cut or reduced at random, alike."""
    rated_reduced: float = 0.0
    """Share of the steps whose rated crops are reduced in size instead of cut."""
    distorted: int = 4
    """Photos shown at ``levels`` levels of one KADID type."""
    levels: int = 4
    """Levels a distorted photo is shown at, beside its clean version."""
    hard: int = 3
    """How many times as often as another type each of :data:`HARD` is drawn."""
    left_out: list[str] = field(default_factory=list)
    """Types that are not shown. People rated KADID's colour changes beside the coloured original;
    a photo that was always grey is no worse for it."""
    local: int = 1
    """Photos damaged inside a mask."""
    restored: int = 1
    """Photos shown clean, degraded and restored."""
    written: int = 3
    """Versions of photos shown without and with text over them."""
    crop: int = 256
    """Side of all other crops in pixels, a multiple of 16; MS-SSIM of restored sets needs 176."""
    smallest: int = 96
    """Side, a multiple of 16, down to which these are then cut at random, all of a step alike: a
    judge that has seen one size alone says nothing of another."""
    size_step: int = 16
    """Steps of those sizes, a multiple of 16: a GPU prepares anew for each one it has not seen."""


@dataclass(frozen=True)
class Photos:
    """Where the evidence is drawn from."""

    rated: PhotoPool
    """Photos rated by people."""
    ratings: Tensor
    """(N,) mean opinion of each of them on 1–5."""
    subsets: Sequence[str]
    """The subset each of them belongs to."""
    pristine: PhotoPool
    """Clean photos."""
    restored: PhotoPool
    """Restored sets: :data:`VERSIONS` of a photo side by side."""


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


def rated_evidence(photos: Photos, plan: BatchPlan, *, generator: torch.Generator) -> Evidence:
    """Crops of each subset; a crop inherits the rating of its photo. A group a subset.

    Subsets differ in mean: compared with one another they would teach little but that.
    """
    parts = []
    for group, subset in enumerate(sorted(set(photos.subsets))):
        among = [i for i, name in enumerate(photos.subsets) if name == subset]
        images, indices = photos.rated.crops(
            plan.rated, plan.rated_crop, among=among, generator=generator
        )
        labels = photos.ratings[indices]
        own = torch.full((plan.rated,), group)
        parts.append(Evidence(images, labels, labels, own, _no_map(images)))
    rated = _join(parts)
    reduced = plan.rated_reduced and float(torch.rand((), generator=generator))
    if not plan.rated_reduced or reduced >= plan.rated_reduced:
        return _cut(rated, plan.rated_smallest, plan.size_step, generator)
    sides = (plan.rated_crop - plan.rated_smallest) // plan.size_step + 1
    side = plan.rated_smallest + plan.size_step * below(sides, generator)
    images = functional.interpolate(rated.images, (side, side), mode="bicubic", antialias=True)
    images = images.clamp(0, 1)
    return rated._replace(images=images, rating_map=_no_map(images))


def distorted_evidence(pool: PhotoPool, plan: BatchPlan, generator) -> Evidence:
    """One photo, clean and at ``plan.levels`` different levels of one seen type. One group."""
    clean, _ = pool.crops(1, plan.crop, generator=generator)
    names = [name for name in SEEN + HARD * (plan.hard - 1) if name not in plan.left_out]
    name = names[below(len(names), generator)]
    chosen = (torch.randperm(5, generator=generator)[: plan.levels] + 1).tolist()
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
    name, level = cells[below(len(cells), generator)]
    damage = damage_locally(clean, name, level, area=(0.05, 0.4), generator=generator)
    unknown = torch.full((1,), math.nan)
    return Evidence(damage.images, unknown, unknown, torch.zeros(1), damage.rating_map)


def restored_evidence(sets: PhotoPool, size: int, generator) -> Evidence:
    """One photo clean, degraded, and restored at random strengths; the clean photo too. One group.

    Strengths from .2 to 1.35 blend linearly from the restorer's input to its output and beyond.
    Order alone: decibels of MS-SSIM to the clean photo.
    """
    tiles = sets.tiles(size, len(VERSIONS), generator=generator)
    version = dict(zip(VERSIONS, tiles, strict=True))
    clean, degraded = version["clean"], version["degraded"]
    images = [clean, degraded, version["restored"]]
    blends = [(degraded, clean, 1.0)]
    blends += [(degraded, version[name], 1.35) for name in VERSIONS[2:5]]
    blends += [(clean, version[name], 1.35) for name in VERSIONS[5:]]
    for source, target, most in blends:
        strength = 0.2 + (most - 0.2) * float(torch.rand((), generator=generator))
        images.append(torch.lerp(source, target, strength).clamp(0, 1))
    batch = torch.stack(images)
    unknown = torch.full((len(batch),), math.nan)
    return Evidence(
        batch, unknown, ms_ssim_db(batch, clean), torch.zeros(len(batch)), _no_map(batch)
    )


def written_evidence(sets: PhotoPool, size: int, generator) -> Evidence:
    """Any version of a photo, without and with text over it. One group.

    Half the time it is the degraded one, which sharp letters flatter most.
    """
    tiles = sets.tiles(size, len(VERSIONS), generator=generator)
    drawn = below(2 * len(VERSIONS), generator)
    version = tiles[drawn if drawn < len(VERSIONS) else VERSIONS.index("degraded")][None]
    batch = torch.cat([version, add_text(version, generator=generator)])
    unknown = torch.full((2,), math.nan)
    return Evidence(batch, unknown, torch.tensor([1.0, 0.0]), torch.zeros(2), _no_map(batch))


def ms_ssim_db(images: Tensor, clean: Tensor) -> Tensor:
    """−10·log₁₀(1 − MS-SSIM) of (B, 3, H, W) to (3, H, W), at most 40: (B,), higher is nearer."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    similarity = multiscale_structural_similarity_index_measure(
        images,
        clean.expand_as(images),
        data_range=1.0,
        normalize="relu",
        reduction="none",
    )
    return -10 * torch.log10((1 - torch.as_tensor(similarity)).clamp_min(1e-4))


def made_evidence(photos: Photos, plan: BatchPlan, *, generator: torch.Generator) -> Evidence:
    """What is made of clean photos, each set of images in a group of its own."""
    size, parts = plan.crop, []
    for _ in range(plan.distorted):
        parts.append(distorted_evidence(photos.pristine, plan, generator))
    for _ in range(plan.local):
        parts.append(local_evidence(photos.pristine, size, generator))
    for _ in range(plan.restored):
        parts.append(restored_evidence(photos.restored, size, generator))
    for _ in range(plan.written):
        parts.append(written_evidence(photos.restored, size, generator))
    made = _join([part._replace(group=part.group + i) for i, part in enumerate(parts)])
    return _cut(made, plan.smallest, plan.size_step, generator)


def _cut(evidence: Evidence, smallest: int, step: int, generator: torch.Generator) -> Evidence:
    """The same random square window of all images, ``smallest`` or some steps larger."""
    size = evidence.images.shape[-1]
    side = smallest + step * below((size - smallest) // step + 1, generator)
    top, left = below(size - side + 1, generator), below(size - side + 1, generator)
    window = (..., slice(top, top + side), slice(left, left + side))
    return evidence._replace(images=evidence.images[window], rating_map=evidence.rating_map[window])


def _join(parts: Sequence[Evidence]) -> Evidence:
    return Evidence(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _no_map(images: Tensor) -> Tensor:
    return torch.full_like(images[:, :1], math.nan)
