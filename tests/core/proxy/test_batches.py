"""Training evidence: labels, groups, determinism, and what must never be shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy import batches
from zoomiqa_core.proxy.batches import (
    SEEN,
    VERSIONS,
    BatchPlan,
    Evidence,
    Photos,
    made_evidence,
    rated_evidence,
)

CROP = 176  # the smallest that MS-SSIM takes
PLAN = BatchPlan(
    rated=2,
    rated_crop=32,
    rated_smallest=32,
    distorted=1,
    levels=2,
    local=1,
    restored=1,
    written=1,
    crop=CROP,
    smallest=CROP,
)


def pool_of(folder, sizes, min_side) -> PhotoPool:
    for index, (height, width) in enumerate(sizes):
        generator = torch.Generator().manual_seed(index)
        save_png(torch.rand(3, height, width, generator=generator), folder / f"{index}.png")
    return PhotoPool(sorted(folder.iterdir()), min_side=min_side)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Photos:
    return Photos(
        rated=pool_of(tmp_path_factory.mktemp("rated"), [(40, 50)] * 4, 32),
        ratings=torch.tensor([2.0, 3.0, 4.0, 5.0]),
        subsets=["b", "a", "b", "a"],
        pristine=pool_of(tmp_path_factory.mktemp("photos"), [(180, 190)] * 2, CROP),
        restored=pool_of(tmp_path_factory.mktemp("sets"), [(CROP + 4, 7 * (CROP + 4))], CROP),
    )


def made(photos: Photos, seed: int = 0) -> Evidence:
    return made_evidence(photos, PLAN, generator=torch.Generator().manual_seed(seed))


def test_held_out_types_are_never_shown():
    assert not set(SEEN) & set(HELD_OUT)
    assert set(batches.HARD) < set(SEEN)
    assert len(SEEN) + len(HELD_OUT) == len(DISTORTIONS) == 25


def test_rated_subsets_are_drawn_evenly_and_are_groups_of_their_own(photos):
    evidence = rated_evidence(photos, PLAN, generator=torch.Generator().manual_seed(0))
    assert evidence.images.shape == (4, 3, 32, 32)
    assert evidence.group.tolist() == [0, 0, 1, 1]
    assert set(evidence.rating[:2].tolist()) <= {3.0, 5.0}  # subset a
    assert set(evidence.rating[2:].tolist()) <= {2.0, 4.0}  # subset b
    assert torch.equal(evidence.order, evidence.rating)
    assert bool(evidence.rating_map.isnan().all())


def test_what_is_known_of_each_kind_made_of_clean_photos(photos):
    evidence = made(photos)
    assert evidence.images.shape == (3 + 1 + 9 + 2, 3, CROP, CROP)
    assert bool(((evidence.images >= 0) & (evidence.images <= 1)).all())
    assert evidence.group.tolist() == [0] * 3 + [1] + [2] * 9 + [3] * 2
    assert (~evidence.rating.isnan()).tolist() == [True] * 3 + [False] * 12
    assert (~evidence.order.isnan()).tolist() == [True] * 3 + [False] + [True] * 11
    mapped = ~evidence.rating_map.isnan().flatten(1).any(1)
    assert mapped.tolist() == [False] * 3 + [True] + [False] * 11


def test_the_first_of_a_distorted_group_is_the_clean_photo_with_the_best_label(photos):
    plan = BatchPlan(levels=3, crop=32)
    generator = torch.Generator().manual_seed(3)
    group = batches.distorted_evidence(photos.pristine, plan, generator)
    assert group.rating[0] == batches.CLEAN_RATING
    assert len({round(x, 3) for x in group.rating[1:].tolist()}) == 3  # three different levels


def test_a_batch_may_be_cut_down_and_its_maps_with_it(photos):
    plan = replace(PLAN, smallest=32)
    sides = set()
    for seed in range(6):
        evidence = made_evidence(photos, plan, generator=torch.Generator().manual_seed(seed))
        whole = made(photos, seed)
        side = evidence.images.shape[-1]
        sides.add(side)
        assert side % 16 == 0 and 32 <= side <= CROP
        assert evidence.rating_map.shape[-2:] == evidence.images.shape[-2:] == (side, side)
        windows = whole.images[0].unfold(1, side, 1).unfold(2, side, 1)  # 3, top, left, side, side
        assert bool((windows == evidence.images[0][:, None, None]).flatten(3).all(3).all(0).any())
        assert torch.equal(whole.group, evidence.group)
    assert len(sides) > 2


def test_a_generator_state_decides_the_batch(photos):
    first, again, other = made(photos, 5), made(photos, 5), made(photos, 6)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_restored_sets_are_ordered_by_nearness_to_the_clean_photo(tmp_path):
    clean = torch.rand(3, CROP, CROP, generator=torch.Generator().manual_seed(0))
    flat = clean.mean().expand_as(clean)
    damage = {"clean": 0.0, "degraded": 0.9, "restored": 0.4}  # share of flat grey; others: .2
    tiles = [torch.lerp(clean, flat, damage.get(name, 0.2)) for name in VERSIONS]
    save_png(torch.cat(tiles, dim=-1), tmp_path / "set.png")
    sets = PhotoPool([tmp_path / "set.png"], min_side=CROP)
    evidence = batches.restored_evidence(sets, CROP, torch.Generator().manual_seed(1))
    assert evidence.order[0] == 40  # the clean photo itself
    assert int(evidence.order.argmin()) == 1  # the degraded one
    assert evidence.order[2] > evidence.order[1]
    assert bool((evidence.order[1:] < 40).all())  # nothing restored equals the clean photo
    # blends towards the clean photo lie between the two
    torch.testing.assert_close(
        batches.ms_ssim_db(evidence.images, evidence.images[0]), evidence.order
    )


def test_the_same_picture_with_text_stands_below_it(photos):
    generator = torch.Generator().manual_seed(0)
    evidence = batches.written_evidence(photos.restored, CROP, generator)
    assert evidence.order.tolist() == [1.0, 0.0]
    changed = (evidence.images[0] - evidence.images[1]).abs().amax(0) > 2 / 255
    assert 0.001 < float(changed.float().mean()) < 0.3  # letters, not the whole picture


def test_what_is_no_row_of_tiles_is_refused(photos):
    with pytest.raises(ValueError, match="row of 7 square tiles"):
        photos.pristine.tiles(CROP, 7, generator=torch.Generator().manual_seed(0))


def test_tiles_share_their_crop(tmp_path):
    tile = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    save_png(torch.cat([tile, 1 - tile], dim=-1), tmp_path / "pair.png")
    first, second = PhotoPool([tmp_path / "pair.png"], min_side=32).tiles(
        32, 2, generator=torch.Generator().manual_seed(4)
    )
    torch.testing.assert_close(first, 1 - second, atol=1 / 255, rtol=0)


def test_small_photos_and_empty_lists_are_refused(photos):
    with pytest.raises(ValueError, match="crops need 64 px"):
        PhotoPool(photos.rated.paths, min_side=64)
    with pytest.raises(ValueError, match="is the folder right"):
        PhotoPool([], min_side=8)


def test_small_photos_can_be_left_out(photos):
    paths = [*photos.rated.paths, *photos.pristine.paths]
    kept = PhotoPool(paths, min_side=64, skip_small=True)
    assert kept.paths == photos.pristine.paths
    assert len(kept) == 2


def test_rated_crops_may_be_reduced_instead_of_cut(photos: Photos) -> None:
    whole = rated_evidence(photos, PLAN, generator=torch.Generator().manual_seed(0))
    reduced_plan = replace(PLAN, rated_smallest=16, rated_reduced=1.0)
    generator = torch.Generator().manual_seed(0)
    reduced = rated_evidence(photos, reduced_plan, generator=generator)
    assert torch.equal(reduced.rating, whole.rating)
    assert reduced.images.shape[-1] in (16, 32)
    means = whole.images.mean((1, 2, 3))
    assert torch.allclose(reduced.images.mean((1, 2, 3)), means, atol=0.02)


def test_types_may_be_left_out(photos: Photos) -> None:
    left_out = [name for name in SEEN if name != "darken"]
    plan = replace(PLAN, left_out=left_out)
    shown = {round(mos, 4) for mos in DISTORTIONS["darken"].mean_mos}
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        part = batches.distorted_evidence(photos.pristine, plan, generator)
        assert {round(mos, 4) for mos in part.rating[1:].tolist()} <= shown
