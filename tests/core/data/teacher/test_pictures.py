"""Pictures a teacher writes about: shares of damage, spread of ratings, and stored files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.data.teacher.damage_facts import DamageKind
from zoomiqa_core.data.teacher.pictures import (
    THUMBNAIL,
    Picture,
    damaged_pictures,
    damaged_scene,
    rated_pictures,
    rated_scene,
)
from zoomiqa_core.images.sources import read_image, save_png

SHARES: dict[DamageKind, float] = {"clean": 0.1, "global": 0.35, "local": 0.35}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def glance(thumbnail: torch.Tensor) -> float:
    """A judge of thumbnails."""
    assert max(thumbnail.shape) <= THUMBNAIL
    return 2.0 + float(thumbnail.mean())


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    coarse = torch.rand(1, 3, 24, 24, generator=generator())
    image = torch.nn.functional.interpolate(coarse, (96, 120), mode="bicubic").clamp(0, 1)
    return save_png(image, tmp_path / "photo.png")


def test_kinds_keep_their_shares_and_photos_are_used_in_turn() -> None:
    photos = [Path(f"{n}.png") for n in range(50)]
    pictures = list(damaged_pictures(photos, 400, SHARES, generator=generator()))
    kinds = [picture.kind for picture in pictures]
    shares = {kind: kinds.count(kind) / 400 for kind in ("clean", "global", "local", "both")}
    assert shares == pytest.approx(
        {"clean": 0.1, "global": 0.35, "local": 0.35, "both": 0.2}, abs=0.01
    )
    assert {picture.path for picture in pictures[:50]} == set(photos)
    assert [picture.path for picture in pictures[50:100]] == [p.path for p in pictures[:50]]


def test_rated_photos_are_spread_over_the_scale() -> None:
    ratings = [1.2, 1.7, 2.4, 2.9, 3.6, 4.4, *[2.4] * 50]
    images = [
        RatedImage(Path(f"{n}.png"), mos=rating, rating=rating, split="training")
        for n, rating in enumerate(ratings)
    ]
    chosen = rated_pictures(images, 6, generator=generator())
    assert sorted(picture.rating for picture in chosen) == [1.2, 1.7, 2.4, 2.9, 3.6, 4.4]
    assert [picture.index for picture in chosen] == list(range(6))
    assert len(rated_pictures(images, 100, generator=generator())) == 56


def test_a_rated_photo_is_stored_byte_by_byte(photo: Path, tmp_path: Path) -> None:
    scene = rated_scene(Picture("rated", 3, photo, rating=3.2), tmp_path / "set", "tag", glance)
    stored = tmp_path / "set" / "images" / scene.record.image
    assert stored.name == "photo-tag.png" and stored.read_bytes() == photo.read_bytes()
    assert scene.record.mos == scene.facts.rating == 3.2 and not scene.record.rounds
    assert scene.record.label_source == "human"
    assert 2.0 < scene.facts.blind < 3.0  # of the thumbnail: a hard case's first rating


def test_a_damaged_photo_is_cropped_and_its_record_shows_what_is_stored(
    photo: Path, tmp_path: Path
) -> None:
    picture = Picture("damaged", 7, photo, kind="global")

    def scene(**settings: bool):
        return damaged_scene(
            picture,
            tmp_path,
            "tag",
            side=64,
            blind=glance,
            generator=generator(1),
            **{"regions": True} | settings,
        )

    made = scene()
    stored = read_image(tmp_path / "images" / made.record.image).pixels
    assert made.record.image == "damaged/000007-tag.png" and stored.shape == (3, 64, 64)
    assert float((stored - made.image).abs().max()) <= 0.5 / 255 + 1e-6
    assert made.record.mos == pytest.approx(made.facts.rating, abs=5e-5)
    again, bare = scene(), scene(regions=False)
    assert torch.equal(made.image, again.image) and made.record == again.record
    assert torch.equal(made.image, bare.image) and bare.regions == ()
