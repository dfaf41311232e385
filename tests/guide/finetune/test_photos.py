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
from restoration_guide.finetune.photos import (
    DegradedPhotos,
    PairedPhotos,
    held_out_batch,
    split_photos,
    training_batch,
)
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
    batch = training_batch(PairedPhotos(tmp_path, min_side=32), 6, 32, generator=generator())
    torch.testing.assert_close(batch.truth - 0.2, batch.degraded, atol=2 / 255, rtol=0)
    (tmp_path / "clean" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"without partner: \['2'\]"):
        PairedPhotos(tmp_path, min_side=32)


def test_pairs_of_two_sizes_are_refused(tmp_path):
    write_photos(tmp_path / "clean")
    write_photos(tmp_path / "degraded")
    save_png(torch.rand(3, 40, 41), tmp_path / "degraded" / "2.png")
    with pytest.raises(
        ValueError,
        match=r"2\.png: both images of a pair must have the same size.*\(40, 41\) degraded",
    ):
        PairedPhotos(tmp_path, min_side=32)


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
