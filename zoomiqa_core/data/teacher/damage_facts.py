"""Clean photos damaged in a known way, with the facts that the synthetic teacher writes from.

The rating of damage everywhere is the mean opinion of its KADID cell; that of local damage is the
mean of the true rating map (:mod:`zoomiqa_core.data.damage.local`), which is a model: people may
weigh a small ugly region by more than its area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox
from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT, cell_rating, distort
from zoomiqa_core.data.damage.local import CLEAN_RATING, blend, soft_mask
from zoomiqa_core.data.teacher.facts import Facts, Flaw
from zoomiqa_core.data.teacher.photo_facts import detailed_region, merits, strongest_region
from zoomiqa_core.data.teacher.wording import flaw_kind

DamageKind = Literal["clean", "global", "local", "both"]

Cell = tuple[str, int]
"""A KADID distortion and its level."""

LOCAL_AREA = (0.06, 0.4)
"""Share of the frame that local damage covers."""
MAX_BOX, MIN_FILL = 0.5, 0.4
"""Local damage lies in one place: its box covers at most this share of the frame, and the damage at
least that share of its box."""
MASKS = 50
"""Draws of a mask that lies in one place; about one in three does."""
SEEN, SEEN_LOCALLY = 0.012, 0.02
"""Root mean square change, on [0, 1], of the frame or of the damaged place, under which the damage
would hardly be seen; a place has nothing but its surroundings to be told from."""
TRIES = 8
"""Attempts at visible damage before the photo is skipped."""
CELL_RANGE = (1.0, 4.45)
"""Cells people rate better look undamaged."""
LOCAL_RANGE = (1.0, 3.4)
MILD_RANGE = (3.2, 4.45)
"""Of the damage everywhere that comes under a local one."""


CELL_MEANS, AREA_MEANS = "KADID-10k means", "area-weighted KADID-10k means"
"""Names of the two sources of labels."""


class InvisibleDamageError(ValueError):
    """No attempt changed the photo visibly; it is too flat."""


@dataclass(frozen=True)
class DamagedPhoto:
    """A photo, damaged or not, with ground truth."""

    image: Tensor
    """(3, H, W) in [0, 1]."""
    facts: Facts
    region_truth: tuple[BBox, ...] = ()
    """Bounding box of the mask over one half, exact to the pixel; empty unless damage is local."""
    regions: tuple[tuple[BBox, float, tuple[Flaw, ...]], ...] = ()
    """Regions, their ratings (mean of the rating map) and their flaws."""
    provenance: dict[str, Any] = field(default_factory=dict)


def damage_photo(photo: Tensor, kind: DamageKind, *, generator: torch.Generator) -> DamagedPhoto:
    """Damage a clean photo and record its rating, flaws and regions.

    Types that no model of this project is trained on (``HELD_OUT``) are never drawn. Ratings are
    drawn evenly over the scale first, then a cell near that rating, so that they do not crowd.

    >>> photo = torch.rand(3, 64, 64)
    >>> damaged = damage_photo(photo, "global", generator=torch.Generator().manual_seed(0))
    >>> damaged.facts.rating, damaged.provenance["global"]
    (2.75, ['hsv_saturation', 1])

    Args:
        photo: (3, H, W) in [0, 1], sides of at least 28 px.
        kind: ``"both"`` puts local damage on mild damage everywhere; their rating deficits add.
        generator: of the damage, on the CPU.

    Raises:
        InvisibleDamageError: nothing visible in several draws.
    """
    if kind == "clean":
        facts = Facts(CLEAN_RATING, (), detailed_region(photo), merits(photo))
        return DamagedPhoto(photo, facts, provenance={"damage": "clean", "label": CELL_MEANS})
    for _ in range(TRIES):
        if kind == "global":
            damaged = _everywhere(photo, generator)
        else:
            damaged = _locally(photo, generator, under=kind == "both")
        if damaged is not None:
            return damaged
    raise InvisibleDamageError(
        f"no damage that can be seen in {TRIES} draws; the photo is too flat"
    )


def cells(low: float, high: float) -> list[Cell]:
    """Cells to train on whose human mean lies in [low, high].

    Without the held-out types, and without the one cell (a contrast change of 0) whose damage has
    no name.
    """
    return [
        (name, level)
        for name, distortion in DISTORTIONS.items()
        for level, (strength, mos) in enumerate(
            zip(distortion.levels, distortion.mean_mos, strict=True), start=1
        )
        if name not in HELD_OUT
        and low <= mos <= high
        and not (name == "contrast_change" and strength == 0)
    ]


def draw_cell(low: float, high: float, generator: torch.Generator) -> Cell:
    """A cell near a rating drawn evenly from the range its cells span."""
    options = cells(low, high)
    ratings = torch.tensor([cell_rating(*cell) for cell in options])
    bounds = float(ratings.min()), float(ratings.max())
    wanted = bounds[0] + (bounds[1] - bounds[0]) * float(torch.rand((), generator=generator))
    near = (ratings - wanted).abs().argsort()[:6]
    return options[int(near[int(torch.randint(len(near), (), generator=generator))])]


def written_box(bbox: BBox) -> BBox:
    """The box with two decimals, rounded outwards."""
    low = [math.floor(share * 100 + 1e-6) / 100 for share in bbox[:2]]
    high = [math.ceil(share * 100 - 1e-6) / 100 for share in bbox[2:]]
    return low[0], low[1], high[0], high[1]


def mask_box(mask: Tensor) -> BBox:
    """Normalised bounding box of a (1, H, W) mask over one half."""
    _, height, width = mask.shape
    rows, columns = torch.where(mask[0] > 0.5)
    return (
        int(columns.min()) / width,
        int(rows.min()) / height,
        (int(columns.max()) + 1) / width,
        (int(rows.max()) + 1) / height,
    )


def _everywhere(photo: Tensor, generator: torch.Generator) -> DamagedPhoto | None:
    name, level = draw_cell(*CELL_RANGE, generator)
    image = distort(photo[None], name, level, generator=generator)[0]
    if _change(photo, image) < SEEN:
        return None
    rating = cell_rating(name, level)
    flaw = Flaw(flaw_kind(name, level), rating)
    place = strongest_region((image - photo).square().mean(0))  # where it shows most
    facts = Facts(rating, (flaw,), place)
    return DamagedPhoto(
        image, facts, provenance={"damage": "global", "label": CELL_MEANS, "global": [name, level]}
    )


def _locally(photo: Tensor, generator: torch.Generator, *, under: bool) -> DamagedPhoto | None:
    provenance: dict[str, Any] = {"damage": "both" if under else "local", "label": AREA_MEANS}
    ground, flaws, deficit = photo, (), 0.0
    if under:
        name, level = draw_cell(*MILD_RANGE, generator)
        ground = distort(photo[None], name, level, generator=generator)[0]
        if _change(photo, ground) < SEEN:
            return None
        flaws = (Flaw(flaw_kind(name, level), cell_rating(name, level)),)
        deficit = CLEAN_RATING - cell_rating(name, level)
        provenance["global"] = [name, level]
    name, level = draw_cell(*LOCAL_RANGE, generator)
    kind = flaw_kind(name, level)
    mask = _compact_mask(photo.shape[-2], photo.shape[-1], generator)
    if mask is None or any(flaw.kind == kind for flaw in flaws):
        return None
    damaged = distort(ground[None], name, level, generator=generator)
    local = blend(ground[None], damaged, mask, cell_rating(name, level))
    inside = mask[0] > 0.5
    if _change(ground, local.images[0], inside) < SEEN_LOCALLY:
        return None
    ratings = (local.rating_map[0] - deficit).clamp(MIN_RATING, MAX_RATING)  # (1, H, W)
    truth = mask_box(local.mask[0])
    box = written_box(truth)
    flaws = (Flaw(kind, cell_rating(name, level), box), *flaws)
    facts = Facts(float(ratings.mean()), flaws, box)
    provenance |= {"local": [name, level], "area": round(float(inside.float().mean()), 4)}
    regions = _regions(local.mask[0], ratings, box, flaws)
    return DamagedPhoto(local.images[0], facts, (truth,), regions, provenance)


def _compact_mask(height: int, width: int, generator: torch.Generator) -> Tensor | None:
    """A soft mask (1, 1, H, W) that lies in one place; None when none of many does."""
    for _ in range(MASKS):
        mask = soft_mask(1, height, width, area=LOCAL_AREA, generator=generator)
        inside = mask[0] > 0.5
        if inside.any():
            x0, y0, x1, y1 = mask_box(mask[0])
            area = (x1 - x0) * (y1 - y0)
            if area <= MAX_BOX and float(inside.float().mean()) >= MIN_FILL * area:
                return mask
    return None


def _regions(
    mask: Tensor, ratings: Tensor, box: BBox, flaws: tuple[Flaw, ...]
) -> tuple[tuple[BBox, float, tuple[Flaw, ...]], ...]:
    """The damaged region, and a quarter of the frame that the local damage spares."""
    found = [(box, _mean_inside(ratings, box), flaws)]
    spare = (0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0)
    best = min(spare, key=lambda quarter: _mean_inside(mask, quarter))
    if _mean_inside(mask, best) < 0.01:
        found.append((best, _mean_inside(ratings, best), flaws[1:]))
    return tuple(found)


def _mean_inside(plane: Tensor, box: BBox) -> float:
    """Mean of a (1, H, W) plane in a box, over whole pixels."""
    _, height, width = plane.shape
    x0, x1 = (round(share * width) for share in box[::2])
    y0, y1 = (round(share * height) for share in box[1::2])
    return float(plane[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].mean())


def _change(before: Tensor, after: Tensor, where: Tensor | None = None) -> float:
    """Root mean square difference of (3, H, W) pictures, inside a (1, H, W) mask."""
    squares = (after - before).square().mean(0, keepdim=True)
    return float((squares if where is None else squares[where]).mean().sqrt())
