"""Training batches of the proxy: five kinds of labelled images in two batches a step.

:func:`rated_evidence` makes the first batch, :func:`made_evidence` the second of the other four:

1. *Rated photos*: crops of photos with their mean opinion.
2. *Distortions*: one photo, clean and at several levels of one KADID type, labelled with the mean
   opinion of that type and level.
3. *Local damage*: a photo distorted inside a soft mask, labelled with a rating map.
4. *Restorations*: a photo clean, degraded and restored in several ways, ordered by MS-SSIM to the
   clean photo.
5. *Text*: an image without and with text over it, in this order.
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
"""Distortion types that are used in training."""

HARD = (
    "hsv_saturation",
    "darken",
    "mean_shift",
    "misplaced_patches",
    "colour_blocks",
    "contrast_change",
)
"""Types of :data:`SEEN` whose levels a proxy confuses most: the damage is subtle or small."""

VERSIONS = (
    "clean",
    "degraded",
    "restored",
    "restored_sampled",
    "restored_bold",
    "restored_clean",
    "restored_clean_bold",
)
"""Tiles of an image of a restored set, from the left: versions of one crop."""


@dataclass(frozen=True)
class BatchPlan:
    """How many images of each kind a step has, and their sizes."""

    rated: int = 4
    """Crops of rated photos from each subset of the dataset."""
    rated_crop: int = 512
    """Side of these crops in pixels, a multiple of 16. Labels are of whole photos, so larger crops
    fit them better."""
    rated_smallest: int = 256
    """Smallest side, a multiple of 16, to which the crops of a step are cut or reduced."""
    rated_reduced: float = 0.0
    """Share of steps that reduce the rated crops in size instead of cutting them."""
    distorted: int = 4
    """Photos that are distorted at ``levels`` levels of one KADID type."""
    levels: int = 4
    """Levels of a distorted photo, besides its clean version."""
    hard: int = 3
    """How many times as often as other types each of :data:`HARD` is drawn."""
    left_out: list[str] = field(default_factory=list)
    """Types that are not used. KADID's colour changes were rated beside the coloured original,
    while a grey photo by itself is not a bad one."""
    local: int = 1
    """Photos damaged inside a mask."""
    restored: int = 1
    """Photos in clean, degraded and restored versions."""
    written: int = 3
    """Pairs of an image without and with text over it."""
    crop: int = 256
    """Side of all other crops in pixels, a multiple of 16; MS-SSIM of restored sets needs 176."""
    smallest: int = 96
    """Smallest side, a multiple of 16, to which all crops of a step are cut: a judge trained on one
    size fails on others."""
    size_step: int = 16
    """Step between those sizes, a multiple of 16; each new size costs a GPU set-up time."""


@dataclass(frozen=True)
class Photos:
    """The photos that batches are drawn from."""

    rated: PhotoPool
    """Photos rated by people."""
    ratings: Tensor
    """(N,) mean opinion of each, 1–5."""
    subsets: Sequence[str]
    """Name of the dataset's subset that each belongs to."""
    pristine: PhotoPool
    """Clean photos."""
    restored: PhotoPool
    """Restored sets: :data:`VERSIONS` of a photo side by side."""


class Evidence(NamedTuple):
    """One training batch of N images and their labels; NaN where a label is unknown."""

    images: Tensor
    """(N, 3, S, S) in [0, 1]."""
    rating: Tensor
    """(N,) mean opinion on 1–5."""
    order: Tensor
    """(N,) higher is better; comparable only within a group."""
    group: Tensor
    """(N,) group index."""
    rating_map: Tensor
    """(N, 1, S, S) rating of every pixel."""


def rated_evidence(photos: Photos, plan: BatchPlan, *, generator: torch.Generator) -> Evidence:
    """Crops of rated photos, labelled with the ratings of the photos; one group per subset.

    Subsets differ in mean rating, so ranking across them would mostly teach that difference.

    >>> from zoomiqa_core.images.sources import save_png
    >>> pool = PhotoPool([save_png(torch.rand(3, 64, 64), f"{i}.png") for i in (0, 1)], min_side=64)
    >>> photos = Photos(pool, torch.tensor([2.0, 4.5]), ["indoor", "outdoor"], pool, pool)
    >>> plan = BatchPlan(rated=2, rated_crop=64, rated_smallest=48)
    >>> batch = rated_evidence(photos, plan, generator=torch.Generator().manual_seed(0))
    >>> batch.images.shape[:2], batch.rating, batch.group
    (torch.Size([4, 3]), tensor([2.0000, 2.0000, 4.5000, 4.5000]), tensor([0, 0, 1, 1]))
    """
    parts = []
    for group, subset in enumerate(sorted(set(photos.subsets))):
        among = [i for i, name in enumerate(photos.subsets) if name == subset]
        images, indices = photos.rated.crops(
            plan.rated, plan.rated_crop, among=among, generator=generator
        )
        labels = photos.ratings[indices]
        groups = torch.full((plan.rated,), group)
        parts.append(Evidence(images, labels, labels, groups, _no_map(images)))
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
    """One photo, clean and at ``plan.levels`` levels of one type of :data:`SEEN`; one group.

    >>> from zoomiqa_core.images.sources import save_png
    >>> pool = PhotoPool([save_png(torch.rand(3, 64, 64), "photo.png")], min_side=48)
    >>> plan = BatchPlan(levels=2, crop=48)
    >>> batch = distorted_evidence(pool, plan, torch.Generator().manual_seed(0))
    >>> batch.images.shape, float(batch.rating[0]) == CLEAN_RATING
    (torch.Size([3, 3, 48, 48]), False)
    """
    clean, _ = pool.crops(1, plan.crop, generator=generator)
    names = [name for name in SEEN + HARD * (plan.hard - 1) if name not in plan.left_out]
    name = names[below(len(names), generator)]
    levels = (torch.randperm(5, generator=generator)[: plan.levels] + 1).tolist()
    images = [clean, *(distort(clean, name, level, generator=generator) for level in levels)]
    labels = [CLEAN_RATING, *(DISTORTIONS[name].mean_mos[level - 1] for level in levels)]
    batch, rating = torch.cat(images), torch.tensor(labels)
    return Evidence(batch, rating, rating, torch.zeros(len(batch)), _no_map(batch))


def local_evidence(pool: PhotoPool, size: int, generator, *, worst: float = 3.3) -> Evidence:
    """One photo with local damage of a mean opinion below ``worst``, labelled by its rating map.

    >>> from zoomiqa_core.images.sources import save_png
    >>> pool = PhotoPool([save_png(torch.rand(3, 64, 64), "photo.png")], min_side=48)
    >>> batch = local_evidence(pool, 48, torch.Generator().manual_seed(0))
    >>> batch.rating, batch.rating_map.shape
    (tensor([nan]), torch.Size([1, 1, 48, 48]))
    """
    clean, _ = pool.crops(1, size, generator=generator)
    cells = [
        (n, i + 1) for n in SEEN for i, mos in enumerate(DISTORTIONS[n].mean_mos) if mos < worst
    ]
    name, level = cells[below(len(cells), generator)]
    damage = damage_locally(clean, name, level, area=(0.05, 0.4), generator=generator)
    unknown = torch.full((1,), math.nan)
    return Evidence(damage.images, unknown, unknown, torch.zeros(1), damage.rating_map)


def restored_evidence(sets: PhotoPool, size: int, generator) -> Evidence:
    """One photo clean, degraded and restored at random strengths; one group.

    Strengths from .2 to 1.35 blend a restorer's input (the degraded or the clean photo) with its
    output; above 1 they extrapolate. The order is MS-SSIM to the clean photo; ratings are unknown.
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
    """One version of a photo without and with text over it, in this order; one group.

    Half the time it is the degraded version, which sharp letters improve most for a naive judge.

    >>> from zoomiqa_core.images.sources import save_png
    >>> row = torch.rand(3, 64, 64 * len(VERSIONS))
    >>> sets = PhotoPool([save_png(row, "set.png")], min_side=64)
    >>> written_evidence(sets, 64, torch.Generator().manual_seed(0)).order
    tensor([1., 0.])
    """
    tiles = sets.tiles(size, len(VERSIONS), generator=generator)
    drawn = below(2 * len(VERSIONS), generator)
    version = tiles[drawn if drawn < len(VERSIONS) else VERSIONS.index("degraded")][None]
    batch = torch.cat([version, add_text(version, generator=generator)])
    unknown = torch.full((2,), math.nan)
    return Evidence(batch, unknown, torch.tensor([1.0, 0.0]), torch.zeros(2), _no_map(batch))


def ms_ssim_db(images: Tensor, clean: Tensor) -> Tensor:
    """MS-SSIM of (B, 3, H, W) to a clean (3, H, W) in decibels: (B,), higher is nearer.

    −10·log₁₀(1 − MS-SSIM), at most 40; sides of at least 176 px.
    """
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
    """All images made from clean photos and restored sets, one group per photo.

    Args:
        photos: the pools to draw from.
        plan: how many of each kind, and their sizes.
        generator: of all draws, on the CPU.
    """
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
    """Crop all images to the same random square of side ``smallest`` + n · ``step``."""
    size = evidence.images.shape[-1]
    side = smallest + step * below((size - smallest) // step + 1, generator)
    top, left = below(size - side + 1, generator), below(size - side + 1, generator)
    window = (..., slice(top, top + side), slice(left, left + side))
    return evidence._replace(images=evidence.images[window], rating_map=evidence.rating_map[window])


def _join(parts: Sequence[Evidence]) -> Evidence:
    return Evidence(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _no_map(images: Tensor) -> Tensor:
    return torch.full_like(images[:, :1], math.nan)
