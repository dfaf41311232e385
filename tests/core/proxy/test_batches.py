"""Training evidence: labels, groups, determinism, and what must never be shown."""

from __future__ import annotations

import pytest
import torch

from zoomiqa_core.data.kadid import DISTORTIONS, HELD_OUT
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images import save_png
from zoomiqa_core.proxy import batches
from zoomiqa_core.proxy.batches import SEEN, BatchPlan, training_batch


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> PhotoPool:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(3):
        generator = torch.Generator().manual_seed(index)
        save_png(torch.rand(3, 40 + index, 50, generator=generator), folder / f"{index}.png")
    return PhotoPool(sorted(folder.iterdir()), min_side=32)


def batch(pool, seed=0, plan=BatchPlan(rated=2, distorted=1, levels=2, local=1, blended=1)):  # noqa: B008
    generator = torch.Generator().manual_seed(seed)
    return training_batch(pool, torch.tensor([2.0, 3.0, 4.0]), pool, plan, 32, generator=generator)


def test_held_out_types_are_never_shown():
    assert not set(SEEN) & set(HELD_OUT)
    assert len(SEEN) + len(HELD_OUT) == len(DISTORTIONS) == 25


def test_what_is_known_of_each_kind(pool):
    evidence = batch(pool)
    assert evidence.images.shape == (2 + 3 + 1 + 3, 3, 32, 32)
    assert bool(((evidence.images >= 0) & (evidence.images <= 1)).all())
    assert evidence.group.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 3]
    assert (~evidence.rating.isnan()).tolist() == [True] * 5 + [False] * 4
    assert evidence.order[-3:].tolist() == [0, 1, 2]
    mapped = ~evidence.rating_map.isnan().flatten(1).any(1)
    assert mapped.tolist() == [False] * 5 + [True] + [False] * 3


def test_the_first_of_a_distorted_group_is_the_clean_photo_with_the_best_label(pool):
    group = batches.distorted_evidence(pool, 3, 32, torch.Generator().manual_seed(3))
    assert group.rating[0] == batches.CLEAN_RATING
    assert len({round(x, 3) for x in group.rating[1:].tolist()}) == 3  # three different levels


def test_a_generator_state_decides_the_batch(pool):
    first, again, other = batch(pool, 5), batch(pool, 5), batch(pool, 6)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_the_half_way_blend_is_the_mean_of_its_ends(pool):
    degraded, half, clean = batches.blended_evidence(
        pool, 32, torch.Generator().manual_seed(1)
    ).images
    torch.testing.assert_close(half, (degraded + clean) / 2)


def test_small_photos_and_empty_lists_are_refused(pool):
    with pytest.raises(ValueError, match="crops need 64 px"):
        PhotoPool(pool.paths, min_side=64)
    with pytest.raises(ValueError, match="is the folder right"):
        PhotoPool([], min_side=8)
