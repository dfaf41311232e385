"""Opening a small model's eyes: views and targets agree, filters are whitened, the tower learns."""

from __future__ import annotations

import math

import pytest
import torch

from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
from zoomiqa_core.training.vision_warm_up import (
    WHITENING_FLOOR,
    CropBatch,
    WarmUp,
    teacher_grids,
    whiten_patches,
)


@pytest.fixture
def model() -> WarmUp:
    vlm, processor = build_tiny_vlm()
    return WarmUp(vlm.model.visual, processor.image_processor, torch.zeros(4), torch.ones(4))


def test_a_cell_is_rated_by_its_surroundings():
    proxy = QualityProxy(width=2)
    image = torch.rand(1, 3, 16, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = proxy(image)
    ratings, weights = out.map[0, 0, 0], out.weight[0, 0, 0]  # of 12 cells in a row
    grid = teacher_grids(proxy, image)[0, :, 0].float()
    for cell, seen in ((0, slice(0, 4)), (6, slice(3, 10)), (11, slice(8, 12))):  # 3 on each side
        expected = (ratings[seen] * weights[seen]).sum() / weights[seen].sum()
        assert grid[0, cell] == pytest.approx(expected.item(), abs=5e-3)
    assert torch.allclose(grid[1], weights.log() / 4, atol=5e-3)


def test_where_each_cell_sees_all_the_rating_is_the_proxys_own(model):
    proxy = QualityProxy(width=2)
    image = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0))
    grids = teacher_grids(proxy, image[None])
    assert grids.shape == (1, 4, 4, 3)
    with torch.no_grad():
        expected = proxy(image[None]).rating
    assert torch.allclose(model.rating(grids.float()), expected, atol=5e-3)


def test_whitened_filters_see_every_chosen_component_alike(model):
    views = torch.rand(8, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    views = torch.nn.functional.avg_pool2d(views, 5, 1, 2)  # coarse detail far above the fine
    patches = model.patches(views)["pixel_values"]
    before = model.tower.patch_embed(patches).square().mean(0)
    whiten_patches(model.tower, patches)
    after = model.tower.patch_embed(patches).square().mean(0)
    assert before.max() / before.min() > 3
    top = after[: len(after) // 2]
    assert torch.allclose(top, torch.ones_like(top), atol=1e-2)
    assert after.max() < 1 + 1e-2
    assert WHITENING_FLOOR > 0


def test_every_part_of_the_tower_learns_from_views_and_labels(model):
    generator = torch.Generator().manual_seed(0)
    batch = CropBatch(
        torch.rand(2, 3, 56, 56, generator=generator),
        torch.randn(2, 4, 2, 2, generator=generator),
        torch.tensor([3.0, math.nan]),
    )
    loss, terms = model.loss(batch)
    assert set(terms) == {"map", "features", "rating"} and loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_without_labels_there_is_no_term_for_them(model):
    batch = CropBatch(torch.rand(1, 3, 56, 56), torch.zeros(1, 4, 2, 2), torch.tensor([math.nan]))
    _, terms = model.loss(batch)
    assert set(terms) == {"map", "features"}
