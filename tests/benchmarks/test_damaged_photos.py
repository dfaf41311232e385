"""The tested photos: crops, numbers and streams."""

from pathlib import Path

import pytest
import torch

from benchmarks.damaged_photos import (
    SIDE,
    centre_crop,
    damage,
    damage_generator,
    read_crops,
    read_photos,
)
from restoration_guide.restorers import candidate_generator
from zoomiqa_core.images.sources import save_png


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for name in "abcdef":
        coarse = torch.rand(1, 3, 20, 20, generator=generator)
        photo = torch.nn.functional.interpolate(coarse, (SIDE + 1, SIDE + 4), mode="bicubic")
        save_png(photo, made / f"{name}.png")
    return made


def test_centre_crop_by_hand() -> None:
    image = torch.arange(20.0).reshape(4, 5)
    assert centre_crop(image, 2, 2).tolist() == [[6, 7], [11, 12]]
    assert torch.equal(centre_crop(image, 4, 5), image)
    with pytest.raises(ValueError, match="at least 6 x 4 px; got 5 x 4"):
        centre_crop(image, 4, 6)


def test_photos_are_spread_and_keep_their_numbers(folder: Path) -> None:
    every, some = read_photos(folder), read_photos(folder, 3)
    assert [photo.name for photo in every] == [f"{name}.png" for name in "abcdef"]
    assert [(photo.number, photo.name) for photo in some] == [
        (0, "a.png"),
        (2, "c.png"),
        (4, "e.png"),
    ]
    assert {tuple(photo.clean.shape) for photo in every} == {(3, SIDE, SIDE)}
    assert len(read_photos(folder, 40)) == 6
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        read_photos(folder, 0)


def test_further_crops_come_from_the_corners(folder: Path) -> None:
    photos, crops = read_photos(folder), read_crops(folder, 9)
    assert [crop.name for crop in crops[:6]] == [photo.name for photo in photos]
    assert [(crop.number, crop.name) for crop in crops[6:]] == [
        (6, "a.png, top left"),
        (8, "c.png, top left"),
        (10, "e.png, top left"),
    ]
    # The photos are 1 px higher and 4 px wider than a crop, the middle starts at (0, 2).
    assert torch.equal(crops[6].clean[:, :, 2:], photos[0].clean[:, :, :-2])
    assert torch.equal(read_crops(folder, 2)[1].clean, read_photos(folder, 2)[1].clean)
    every = read_crops(folder, 30)
    assert len({crop.number for crop in every}) == 30
    assert torch.equal(every[12].clean[:, :, :-2], photos[0].clean[:, :, 2:])  # top right
    assert torch.equal(every[-1].clean[:, :-1, 2:], photos[-1].clean[:, 1:, :-2])  # bottom left
    with pytest.raises(ValueError, match="6 photos have 30 crops, expected 31"):
        read_crops(folder, 31)


def test_damage_depends_on_number_and_seed_alone(folder: Path) -> None:
    every, some = read_photos(folder), read_photos(folder, 3)
    first = damage(every[2], "noise_jpeg", seed=0)
    assert torch.equal(first, damage(some[1], "noise_jpeg", seed=0))
    assert not torch.equal(first, damage(every[2], "noise_jpeg", seed=1))
    assert first.shape == (3, SIDE, SIDE) and not torch.equal(first, every[2].clean)


def test_no_stream_is_a_candidates() -> None:
    pairs = [(seed, number) for seed in range(4) for number in range(16)]
    damages = {damage_generator(*pair).initial_seed() for pair in pairs}
    candidates = {candidate_generator(*pair).initial_seed() for pair in pairs}
    assert len(damages) == len(candidates) == 64
    assert not damages & candidates
