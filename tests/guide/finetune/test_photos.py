"""Batches for fine-tuning, and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from restoration_guide.finetune.checkpoints import (
    checkpoint_folder,
    checkpoint_steps,
    keep_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from restoration_guide.finetune.pairs import find_pairs
from restoration_guide.finetune.photo_files import PhotoFiles
from restoration_guide.finetune.photos import (
    DegradedPhotos,
    PairedPhotos,
    held_out_batch,
    split_photos,
    training_batch,
)
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import find_images, save_png


def write_photos(folder: Path, count: int = 4, shift: float = 0.0) -> Path:
    for number in range(count):
        coarse = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(number))
        photo = functional.interpolate(coarse, (40, 48), mode="bicubic").clamp(0.3, 0.9)
        save_png(photo - shift, folder / f"{number}.png")
    return folder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_degraded_batches_are_seeded(tmp_path):
    photos = DegradedPhotos(
        find_images([write_photos(tmp_path)]), {"noise_jpeg": 1.0, "none": 1.0}, min_side=32
    )
    a, b, c = (training_batch(photos, 8, 32, generator=generator(s)) for s in (0, 0, 1))
    assert a.degraded.shape == (8, 3, 32, 32)
    assert torch.equal(a.degraded, b.degraded) and not torch.equal(a.degraded, c.degraded)
    assert a.truth is not None
    same = [torch.equal(x, y) for x, y in zip(a.degraded, a.truth, strict=True)]
    assert any(same) and not all(same)  # some are left as they are


def test_pairs_are_cropped_alike(tmp_path):
    write_photos(tmp_path / "clean")
    write_photos(tmp_path / "degraded", shift=0.2)
    batch = training_batch(
        PairedPhotos(find_pairs(tmp_path), min_side=32), 6, 32, generator=generator()
    )
    torch.testing.assert_close(batch.truth - 0.2, batch.degraded, atol=2 / 255, rtol=0)
    (tmp_path / "clean" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"without partner: \['2'\]"):
        find_pairs(tmp_path)


def test_pairs_of_two_sizes_are_refused(tmp_path):
    write_photos(tmp_path / "clean")
    write_photos(tmp_path / "degraded")
    save_png(torch.rand(3, 40, 41), tmp_path / "degraded" / "2.png")
    with pytest.raises(ValueError, match=r"2\.png: expected a clean photo as large.*\(40, 41\)"):
        PairedPhotos(find_pairs(tmp_path), min_side=32)


def nearest(photo: torch.Tensor, factor: int) -> torch.Tensor:
    return photo.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


@pytest.mark.parametrize(
    ("layout", "low", "high"),
    [
        ("div2k", "DIV2K_train_LR_bicubic/X4/000{n}x4.png", "DIV2K_train_HR/000{n}.png"),
        ("realsr", "Canon/Train/4/Canon_00{n}_LR4.png", "Canon/Train/4/Canon_00{n}_HR.png"),
        ("lr/{name}.small.png | hr/{name}.png", "lr/{n}.small.png", "hr/{n}.png"),
    ],
)
def test_data_sets_are_read_by_their_names_and_cropped_at_the_same_place(
    tmp_path, layout, low, high
):
    for n in range(3):
        small = torch.rand(3, 20, 24, generator=generator(n))
        save_png(small, tmp_path / low.format(n=n))
        save_png(nearest(small, 4), tmp_path / high.format(n=n))
    pairs = PairedPhotos(find_pairs(tmp_path, layout), min_side=32, enlarge=False)
    batch = training_batch(pairs, 6, 32, generator=generator())
    assert pairs.factor == 4 and batch.degraded.shape == (6, 3, 8, 8)
    assert batch.truth is not None
    assert torch.equal(nearest(batch.degraded, 4), batch.truth)
    enlarged = PairedPhotos(find_pairs(tmp_path, layout), min_side=32)
    same = training_batch(enlarged, 6, 32, generator=generator())
    assert same.truth is not None
    assert same.degraded.shape == same.truth.shape and torch.equal(same.truth, batch.truth)
    with pytest.raises(ValueError, match="30 px are no multiple of the factor 4"):
        training_batch(pairs, 1, 30, generator=generator())


def test_pairs_that_are_ambiguous_or_unknown_are_refused(tmp_path):
    for name in ("2/a_LR2", "2/a_HR", "b_LR2", "b_LR4", "b_HR"):
        save_png(torch.rand(3, 20, 24), tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"b_LR2\.png and b_LR4\.png are both 'b'"):
        find_pairs(tmp_path, "realsr")
    with pytest.raises(ValueError, match="expected one of folders, div2k, realsr, or two patterns"):
        find_pairs(tmp_path, "real")
    with pytest.raises(ValueError, match="no file matches"):
        find_pairs(tmp_path, "folders")
    with pytest.raises(ValueError, match=r"unknown placeholder \{nam\}"):
        find_pairs(tmp_path, "{nam}/{name}.png | {name}.png")


def test_memory_does_not_grow_with_the_number_of_photos(tmp_path):
    paths = find_images([write_photos(tmp_path, count=12)])
    limit = 3 * 3 * 40 * 48  # three photos
    photos = PhotoFiles(paths, min_side=32, cache_bytes=limit)
    most = 0
    for index in [*range(12), *range(12)]:
        photos.crop(index, 32, generator=generator())
        most = max(most, photos.cached_bytes)
    assert 0 < most <= limit
    whole = PhotoPool(paths, min_side=32)
    for index in (0, 7):  # the same crops as from memory
        crop = photos.crop(index, 32, generator=generator(index))
        assert torch.equal(crop, whole.crop(index, 32, generator=generator(index)))


def test_photos_for_super_resolution_enter_smaller(tmp_path):
    paths = find_images([write_photos(tmp_path)])
    photos = DegradedPhotos(paths, {"none": 1.0}, min_side=32, scale=2)
    batch = training_batch(photos, 2, 32, generator=generator())
    assert batch.degraded.shape == (2, 3, 16, 16)
    assert batch.truth is not None
    torch.testing.assert_close(batch.degraded, functional.avg_pool2d(batch.truth, 2))


def test_held_out_crops_come_in_turn_from_every_photo(tmp_path):
    photos = DegradedPhotos(find_images([write_photos(tmp_path)]), {"none": 1.0}, min_side=32)
    batch = held_out_batch(photos, 8, 32, seed=0)
    assert torch.equal(batch.degraded, held_out_batch(photos, 8, 32, seed=0).degraded)
    assert not torch.equal(batch.degraded[0], batch.degraded[4])  # another crop of photo 0


def test_a_third_is_held_out():
    paths = [Path(f"{n}.png") for n in range(7)]
    training, held_out = split_photos(paths)
    assert [path.stem for path in held_out] == ["0", "3", "6"]
    assert sorted(training + held_out) == paths
    with pytest.raises(ValueError, match=r"expected at least 3 photos.* got 2"):
        split_photos(paths[:2])


def test_only_whole_checkpoints_count(tmp_path):
    for step in (5, 10, 20):
        save_checkpoint(tmp_path, step, {"step": step, "weights": torch.ones(2)})
    (checkpoint_folder(tmp_path, 20) / "COMPLETE").unlink()  # killed while writing
    assert checkpoint_steps(tmp_path) == [5, 10]
    assert load_checkpoint(tmp_path, 10)["step"] == 10
    with pytest.raises(FileNotFoundError, match=r"step 20 .* there are \[5, 10\]"):
        load_checkpoint(tmp_path, 20)
    save_checkpoint(tmp_path, 20, {"step": 21})
    assert load_checkpoint(tmp_path, 20)["step"] == 21
    keep_checkpoints(tmp_path, {5, 20})
    assert checkpoint_steps(tmp_path) == [5, 20] and not checkpoint_folder(tmp_path, 10).exists()
