"""The tested photos: crops, numbers and streams; and what must not pass for a restoration."""

from pathlib import Path

import pytest
import torch

from benchmarks import measure_fidelity_limits
from benchmarks.damaged_photos import (
    SIDE,
    centre_crop,
    damage,
    damage_generator,
    read_crops,
    read_photos,
)
from restoration_guide.fidelity.terms import Fidelity
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
    with pytest.raises(ValueError, match="at least 1; got 0"):
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
    with pytest.raises(ValueError, match="6 photos give 30 crops; 31 were asked for"):
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


# --- the limits of fidelity ----------------------------------------------------------------------


def test_alterations_by_hand() -> None:
    clean, other = torch.full((3, 64, 64), 0.5), torch.full((3, 64, 64), 0.25)
    clean[:, :32] = 0.9
    changed = measure_fidelity_limits.alterations(
        clean, other, generator=torch.Generator().manual_seed(0)
    )
    corners = {name: image[:, (0, -1), 0].T.tolist() for name, image in changed.items()}
    assert corners["brightness + .08"] == [pytest.approx([0.98] * 3), pytest.approx([0.58] * 3)]
    assert corners["red + .1"][0] == pytest.approx([1.0, 0.9, 0.9])
    # around the mean of .7: .9 to .96, .5 to .44
    assert corners["contrast × 1.3"] == [pytest.approx([0.96] * 3), pytest.approx([0.44] * 3)]
    assert torch.equal(changed["foreign 64² patch"], other)  # the patch fills a photo this small
    assert torch.equal(changed["another photo"], other)


def test_tightest_limits_by_hand() -> None:
    clean = [Fidelity(0.01, 30.0, 31.0, 0.02, 0.9, 1.0), Fidelity(0.03, 32.0, 29.0, 0.01, 0.8, 2.0)]
    tightest = measure_fidelity_limits.worst(clean)
    assert list(tightest.values()) == [0.03, 30.0, 29.0, 0.02, 0.8, 2.0]
    altered = [
        Fidelity(0.02, 35.0, 35.0, 0.01, 0.7, 1.0),  # only its structure is worse
        Fidelity(0.05, 20.0, 20.0, 0.05, 0.9, 3.0),  # only its structure is not
    ]
    shares = measure_fidelity_limits.passing_shares(altered, tightest)
    assert [shares[name] for name in tightest] == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert (shares["all terms"], shares["defaults"]) == (0.0, 0.5)
    assert measure_fidelity_limits.passing_shares(clean, tightest)["all terms"] == 1.0


def test_a_tiny_measurement(folder: Path, capsys) -> None:
    measure_fidelity_limits.main(["--photos", str(folder), "--count", "2"])
    printed = capsys.readouterr().out
    assert "mixed" in printed and "another photo" in printed and "colour_drift" in printed
