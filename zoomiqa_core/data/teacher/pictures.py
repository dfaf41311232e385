"""Pictures a teacher writes about: clean photos to be damaged, and photos that people rated.

A :class:`Picture` names a file; :func:`rated_scene` and :func:`damaged_scene` store it as a record
shows it and state what is known of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, GRIQARegion
from zoomiqa_core.data.gr_iqa.records import IMAGES
from zoomiqa_core.data.teacher.damage_facts import DamageKind, damage_photo
from zoomiqa_core.data.teacher.facts import Facts
from zoomiqa_core.data.teacher.photo_facts import photo_facts
from zoomiqa_core.data.teacher.synthetic import write_region
from zoomiqa_core.images.sources import read_image, save_png
from zoomiqa_core.runs.files import write_bytes_atomic
from zoomiqa_core.runs.random import below
from zoomiqa_core.zoom_iqa.prompts import load_prompts

THUMBNAIL = 224
"""Longer side of a thumbnail, pixels. The proxy's ratings of thumbnails explain .29 of the variance
of people's ratings of BIQ2021's photos (512 px); at 160 px .11."""
BlindJudge = Callable[[Tensor], float]
"""Rates a thumbnail (3, h, w) in [0, 1], 1–5."""
GOLDEN = 0.618034
"""Multiples of the golden ratio, modulo 1, fill [0, 1) evenly at any length."""


class Picture(NamedTuple):
    """One picture to write about, still in its file."""

    source: str
    """``"damaged"``, ``"rated"`` or ``"wordless"``: a rated photo without a rationale."""
    index: int
    """Number among the pictures of its source."""
    path: Path
    rating: float = math.nan
    """People's, of a rated photo."""
    kind: DamageKind = "clean"
    """Damage to be done to a clean photo."""


class Scene(NamedTuple):
    """A picture as it is stored, and what is known of it."""

    image: Tensor
    """(3, H, W) in [0, 1]."""
    facts: Facts
    record: GRIQARecord
    """Without rounds."""
    regions: tuple[GRIQARegion, ...] = ()
    """Replies about single regions."""


def damaged_pictures(
    photos: Sequence[Path],
    count: int,
    shares: Mapping[DamageKind, float],
    *,
    generator: torch.Generator,
) -> Iterator[Picture]:
    """Clean photos in random order, used again when there are fewer than ``count``.

    >>> shares = {"clean": 0.25, "global": 0.25, "local": 0.25}
    >>> generator = torch.Generator().manual_seed(0)
    >>> pictures = damaged_pictures([Path("a.png")], 4, shares, generator=generator)
    >>> [picture.kind for picture in pictures]
    ['clean', 'local', 'clean', 'global']

    Args:
        photos: image files.
        count: number of pictures.
        shares: of each kind of damage, evenly spread over the pictures; the rest is ``"both"``.
        generator: of the order.
    """
    order = torch.randperm(len(photos), generator=generator).tolist()
    for index in range(count):
        position = (index * GOLDEN + 0.5) % 1
        kind: DamageKind = "both"
        for name in ("local", "global", "clean"):
            share = shares[name]
            kind = name if position < share else kind
            position = math.inf if position < share else position - share
        yield Picture("damaged", index, photos[order[index % len(order)]], kind=kind)


def rated_pictures(
    images: Sequence[RatedImage], count: int, wordless: int = 0, *, generator: torch.Generator
) -> list[Picture]:
    """Rated photos, spread evenly over the ratings while there are enough.

    They are drawn in turn from bins of half a rating.

    Args:
        images: to choose from.
        count: number of photos to write about.
        wordless: number of further photos, of which only the rating is learnt.
        generator: of the order.
    """
    bins: dict[int, list[RatedImage]] = {}
    for index in torch.randperm(len(images), generator=generator).tolist():
        bins.setdefault(min(int(2 * images[index].rating), 9), []).append(images[index])
    chosen: list[RatedImage] = []
    while len(chosen) < min(count + wordless, len(images)):
        for key in sorted(bins):
            if bins[key] and len(chosen) < count + wordless:
                chosen.append(bins[key].pop())
    return [
        Picture("rated" if n < count else "wordless", n, image.path, image.rating)
        for n, image in enumerate(chosen)
    ]


def thumbnail(image: Tensor) -> Tensor:
    """An image (3, H, W) reduced to ``THUMBNAIL`` pixels: what is seen at a glance.

    >>> tuple(thumbnail(torch.rand(3, 300, 400)).shape)
    (3, 168, 224)
    """
    scale = min(1.0, THUMBNAIL / max(image.shape[-2:]))
    size = [max(1, round(length * scale)) for length in image.shape[-2:]]
    small = functional.interpolate(image[None], size, mode="bicubic", antialias=True)
    return small[0].clamp(0, 1)


def wordless_record(picture: Picture, folder: Path, tag: str) -> GRIQARecord:
    """Store a rated photo as it is; its record has a rating and no rounds.

    Args:
        picture: of :func:`rated_pictures`.
        folder: of the records.
        tag: makes the file's name unique.
    """
    name = f"rated/{picture.path.stem}-{tag}{picture.path.suffix.lower()}"
    write_bytes_atomic(folder / IMAGES / name, picture.path.read_bytes())
    return GRIQARecord(
        name,
        load_prompts("builtin").question(picture.index),
        (),
        picture.rating,
        name,
        provenance={"file": picture.path.name, "label": "human"},
    )


def rated_scene(picture: Picture, folder: Path, tag: str, blind: BlindJudge) -> Scene:
    """Store a rated photo as it is; its flaws are those that measurements show.

    Args:
        picture: of :func:`rated_pictures`.
        folder: of the records.
        tag: makes the file's name unique.
        blind: rates the thumbnail.
    """
    record = wordless_record(picture, folder, tag)
    image = read_image(folder / IMAGES / record.image).pixels
    facts = photo_facts(image, picture.rating, blind(thumbnail(image)))
    return Scene(image, facts, record)


def damaged_scene(
    picture: Picture,
    folder: Path,
    tag: str,
    *,
    side: int,
    regions: bool,
    blind: BlindJudge,
    generator: torch.Generator,
) -> Scene:
    """Crop and damage a clean photo and store it; its facts are those of the damage.

    Args:
        picture: of :func:`damaged_pictures`.
        folder: of the records.
        tag: makes the file's name unique.
        side: of the crop, pixels; a smaller photo is cropped to its shorter side.
        regions: write replies about single regions as well.
        blind: rates the thumbnail.
        generator: of crop, damage and wording.

    Raises:
        InvisibleDamageError: no attempt changed the photo visibly.
    """
    name = f"damaged/{picture.index:06d}-{tag}.png"
    photo = read_image(picture.path).pixels
    side = min(side, *photo.shape[-2:])
    top, left = (below(length - side + 1, generator) for length in photo.shape[-2:])
    crop = photo[:, top : top + side, left : left + side]
    made = damage_photo(crop, picture.kind, generator=generator)
    save_png(made.image, folder / IMAGES / name)
    replies = made.regions if regions else ()
    record = GRIQARecord(
        name,
        load_prompts("builtin").question(picture.index),
        (),
        round(made.facts.rating, 4),
        name,
        made.region_truth,
        provenance={"file": picture.path.name, **made.provenance},
    )
    written = tuple(write_region(*reply, generator=generator) for reply in replies)
    # The crop is laid round the damage, so every flaw of the picture is in it.
    guess = blind(thumbnail(made.image))
    facts = dataclasses.replace(made.facts, blind=guess, closer=made.facts.flaws)
    return Scene(made.image, facts, record, written)
