"""Training of the bundled restorer: seeded pairs, the measured residual, steps and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from restoration_guide.restorers.builtin.training import (
    RestorerTraining,
    RestorerTrainingConfig,
    residual_rms,
    training_pair,
)
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import save_png

CONFIG = RestorerTrainingConfig(
    channels=[8, 16], layers_per_block=1, crop=48, batch_size=4, sigma_crops=8
)


@pytest.fixture
def photos(tmp_path: Path) -> PhotoPool:
    coarse = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    photo = torch.nn.functional.interpolate(coarse, (144, 128), mode="bicubic").clamp(0, 1)
    return PhotoPool([save_png(photo, tmp_path / "photo.png")], min_side=48)


def test_training_pair_is_seeded_and_damaged(photos: PhotoPool) -> None:
    pairs = [
        training_pair(photos, CONFIG, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    clean, degraded = pairs[0]
    assert clean.shape == degraded.shape == (4, 3, 48, 48)
    assert float(clean.min()) >= -1.0 and float(clean.max()) <= 1.0
    assert all(float((c - d).abs().max()) > 0 for c, d in zip(clean, degraded, strict=True))
    assert torch.equal(degraded, pairs[1][1]) and not torch.equal(degraded, pairs[2][1])


def test_the_measured_residual_is_that_of_the_pairs(photos: PhotoPool) -> None:
    generator = torch.Generator().manual_seed(CONFIG.seed)
    pairs = [training_pair(photos, CONFIG, generator) for _ in range(2)]  # 8 crops in batches of 4
    squares = torch.cat([(clean - degraded) / 0.2 for clean, degraded in pairs]).square()
    assert residual_rms(photos, CONFIG) == pytest.approx(float(squares.mean().sqrt()), abs=1e-3)


def test_a_resumed_training_ends_as_an_unbroken_one(photos: PhotoPool) -> None:
    torch.manual_seed(0)
    whole = RestorerTraining(photos, CONFIG)
    records = [whole.step(number, 1e-3) for number in range(3)]
    assert records[0].shape == (2, 4) and bool(torch.stack(records).isfinite().all())

    torch.manual_seed(0)
    first = RestorerTraining(photos, CONFIG)
    first.step(0, 1e-3)
    resumed = RestorerTraining(photos, CONFIG, first.state())
    for number in (1, 2):
        resumed.step(number, 1e-3)
    for ours, theirs in (
        (whole.unet, resumed.unet),
        (whole.pipeline().unet, resumed.pipeline().unet),
    ):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    trained, averaged = whole.unet.state_dict(), whole.pipeline().unet.state_dict()
    assert any(not torch.equal(trained[name], averaged[name]) for name in trained)
