"""What the alarm is taught from: families of versions, and what is done to them."""

from __future__ import annotations

import pytest
import torch

from restoration_guide.cli.main import DEMO_PHOTO
from zoomiqa_core.alarm.families import SIZE, damaged_family, restored_family
from zoomiqa_core.alarm.tampering import OPERATORS, tamper
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import save_png, to_batch
from zoomiqa_core.proxy.batches import VERSIONS


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pools(tmp_path_factory) -> dict:
    clean = to_batch(DEMO_PHOTO)[0, :, :96, :96]
    tiles = [clean * (1 - 0.05 * i) for i in range(len(VERSIONS))]
    path = tmp_path_factory.mktemp("sets") / "00000_demo.png"
    save_png(torch.cat(tiles, -1), path)
    return {
        restored_family: PhotoPool([path], min_side=64),
        damaged_family: PhotoPool([DEMO_PHOTO], min_side=64),
    }


@pytest.mark.parametrize("draw", [restored_family, damaged_family])
def test_a_family_is_versions_of_its_first_member(pools, draw):
    for seed in range(6):
        family = draw(pools[draw], 64, seeded(seed))
        assert family.shape == (SIZE, 3, 64, 64)
        assert float(family.min()) >= 0 and float(family.max()) <= 1
        clean = family[:1]
        assert torch.equal((clean * 255).round() / 255, clean)
        near = ((family[1:] - clean).square().mean((1, 2, 3))).sqrt()
        assert float(near.max()) < 0.6 and float((near > 0).float().mean()) > 0.5
        assert torch.equal(family, draw(pools[draw], 64, seeded(seed)))


@pytest.mark.parametrize("name", OPERATORS)
def test_tampering_changes_the_image_and_stays_finite(name):
    image = to_batch(DEMO_PHOTO)[0, :, :80, :101]
    made = [OPERATORS[name](image, seeded(seed)) for seed in range(5)]
    for changed in made:
        assert changed.shape == image.shape and bool(changed.isfinite().all())
        assert 1e-5 < float((changed.clamp(0, 1) - image).square().mean().sqrt()) < 0.35
    assert not torch.equal(made[0], made[1])


def test_local_tampering_leaves_part_of_the_image():
    image = to_batch(DEMO_PHOTO)[0, :, :128, :128]
    changed = tamper(image, generator=seeded(3), local=1.0)
    moved = (changed - image).abs().amax(0)
    everywhere = (tamper(image, generator=seeded(3), local=0.0) - image).abs().amax(0)
    assert 0 < float(moved.mean()) < float(everywhere.mean())
