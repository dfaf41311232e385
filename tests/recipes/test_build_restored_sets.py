"""Restored sets: what lies in a file, and that finished files are kept."""

from __future__ import annotations

from pathlib import Path

import torch

from recipes import build_restored_sets as recipe
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import read_image, save_png
from zoomiqa_core.proxy.batches import VERSIONS, restored_evidence

SMOKE = Path(recipe.__file__).parent / "configs" / "build_restored_sets" / "smoke.yaml"


def test_sets_begin_with_the_clean_crop_and_finished_ones_are_kept(tmp_path):
    photo = tmp_path / "photos" / "grey.png"
    ramp = torch.linspace(0.2, 0.8, 200).expand(3, 180, 200)
    save_png(ramp, photo)
    arguments = ["--config", str(SMOKE), f"photos={photo.parent}", f"out={tmp_path}/run"]
    recipe.main(arguments)
    (made,) = sorted((tmp_path / "run" / "sets").iterdir())
    tiles = read_image(made).pixels.chunk(len(VERSIONS), dim=-1)
    assert tiles[0].shape == (3, 176, 176)
    assert all(float((tile - tiles[0]).abs().max()) > 0 for tile in tiles[1:])
    # restoring a clean ramp changes it less than the damage does
    changes = {
        n: float((t - tiles[0]).square().mean()) for n, t in zip(VERSIONS, tiles, strict=True)
    }
    assert changes["restored_clean"] < changes["degraded"]

    generator = torch.Generator().manual_seed(0)
    assert len(restored_evidence(PhotoPool([made], min_side=176), 176, generator).images) == 9

    before = made.stat().st_mtime_ns
    recipe.main(arguments)
    assert made.stat().st_mtime_ns == before
