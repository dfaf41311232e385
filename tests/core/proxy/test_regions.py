"""Region ratings: exact pooling with the proxy's own weights."""

from __future__ import annotations

import math

import pytest
import torch

from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy
from zoomiqa_core.proxy.preprocess import fitted_size
from zoomiqa_core.proxy.regions import box_coverage, pool_regions, region_ratings


def test_coverage_is_exact_area_overlap():
    # 32 × 64 px; the box covers x in [.125, .5]: half of cell 0 and cell 1; y the lower row
    found = box_coverage((0.125, 0.5, 0.5, 1.0), 32, 64)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0, 0], [0.5, 1, 0, 0]]))


def test_a_cut_last_cell_keeps_its_true_place():
    # 20 px wide: cell 0 is 16 px, cell 1 is 4 px; the left half is 10 px of cell 0
    torch.testing.assert_close(box_coverage((0, 0, 0.5, 1), 16, 20), torch.tensor([[0.625, 0.0]]))


def test_region_by_hand():
    quality, weight = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 1.0]])
    std = torch.tensor([[0.2, 0.6]])
    out = ProxyOutput(
        torch.tensor([2.0]), torch.tensor([0.3]), *(x[None, None] for x in (quality, weight, std))
    )
    left, whole = region_ratings(out, [(0, 0, 0.5, 1), (0, 0, 1, 1)], 16, 32)
    assert (left.rating, whole.rating) == (pytest.approx(1), pytest.approx(2))  # (3·1 + 1·5) / 4
    assert left.rating_std == pytest.approx(0.2)
    assert whole.rating_std == pytest.approx(0.3)  # (3·.2 + 1·.6) / 4


def test_a_region_that_is_not_finite_is_a_failure_and_the_others_stand():
    quality = torch.tensor([[1.0, math.nan]])[None, None]
    ones = torch.ones(1, 1, 1, 2)
    out = ProxyOutput(torch.zeros(1), torch.ones(1), quality, ones, ones)
    left, right = region_ratings(out, [(0, 0, 0.5, 1), (0.5, 0, 1, 1)], 16, 32)
    assert left.valid and not right.valid and right.error == "not_finite"
    assert math.isnan(right.rating) and math.isnan(right.rating_std)


@pytest.mark.parametrize("size", [(64, 64), (70, 100), (33, 200)])
def test_the_whole_box_has_the_image_rating(size):
    torch.manual_seed(0)
    out = QualityProxy(width=8)(torch.rand(1, 3, *size))
    (whole,) = region_ratings(out, [(0.0, 0.0, 1.0, 1.0)], *size)
    assert whole.rating == pytest.approx(out.rating.item(), abs=1e-5)
    assert whole.rating_std == pytest.approx(out.rating_std.item(), abs=1e-5)


@pytest.mark.parametrize("bbox", [(0, 0, 0, 1), (0.5, 0, 0.2, 1), (0, 0, 2, 1), (-0.1, 0, 1, 1)])
def test_a_malformed_box_is_refused(bbox):
    with pytest.raises(ValueError, match="divide pixel boxes"):
        box_coverage(bbox, 4, 4)


SMALL = 96 * 96
"""Pixels above which the proxies below shrink an image."""


@pytest.mark.parametrize("size", [(64, 64), (17, 210), (210, 17), (130, 175), (400, 90)])
def test_whole_boxes_of_a_batch_have_the_ratings_also_of_images_that_are_shrunk(size):
    torch.manual_seed(0)
    proxy = QualityProxy(width=8, max_pixels=SMALL)
    out = proxy(torch.rand(2, 3, *size))
    judged = fitted_size(size[0], size[1], SMALL)
    found = pool_regions(out, [(0, 0, 1, 1)], *judged)
    torch.testing.assert_close(found[:, 0], out.rating, rtol=0, atol=1e-5)


def test_regions_that_part_the_image_add_up_to_its_rating():
    torch.manual_seed(0)
    out = QualityProxy(width=8)(torch.rand(1, 3, 70, 100))
    parts = [(0, 0, 0.37, 1), (0.37, 0, 1, 0.61), (0.37, 0.61, 1, 1)]
    share = torch.stack([(out.weight * box_coverage(box, 70, 100)).sum() for box in parts])
    found = (pool_regions(out, parts, 70, 100)[0] * share).sum() / share.sum()
    torch.testing.assert_close(found, out.rating[0], rtol=0, atol=1e-5)


def test_pooling_equals_roi_align_where_the_weights_are_even():
    from torchvision.ops import roi_align

    generator = torch.Generator().manual_seed(0)
    quality = 1 + 4 * torch.rand(1, 1, 6, 8, generator=generator)
    ones = torch.ones_like(quality)
    out = ProxyOutput(torch.zeros(1), torch.ones(1), quality, ones, ones)
    # a box on cell borders, in cells: x 2 to 7, y 1 to 5; one sample in the middle of each cell
    expected = roi_align(
        quality, [torch.tensor([[2.0, 1, 7, 5]])], (4, 5), sampling_ratio=1, aligned=True
    ).mean()
    found = pool_regions(out, [(2 / 8, 1 / 6, 7 / 8, 5 / 6)], 96, 128)
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-5)


def test_the_gradient_of_a_region_by_hand_and_in_the_image():
    # weights 3 and 1, left cell alone inside: d rating / d map = (1, 0); whole: (3/4, 1/4)
    quality = torch.tensor([[1.0, 5.0]])[None, None].requires_grad_()
    weight = torch.tensor([[3.0, 1.0]])[None, None]
    out = ProxyOutput(torch.zeros(1), torch.ones(1), quality, weight, weight)
    for box, slope in (((0, 0, 0.5, 1), [1.0, 0]), ((0, 0, 1, 1), [0.75, 0.25])):
        (found,) = torch.autograd.grad(pool_regions(out, [box], 16, 32).sum(), quality)
        torch.testing.assert_close(found.flatten(), torch.tensor(slope))
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 96).requires_grad_()
    rating = pool_regions(QualityProxy(width=8)(images), [(0, 0, 0.25, 0.25)], 64, 96)
    (found,) = torch.autograd.grad(rating.sum(), images)
    assert found.isfinite().all() and found[..., :16, :24].abs().min(1).values.gt(0).any()


def test_a_map_of_another_size_is_refused():
    out = QualityProxy(width=8)(torch.rand(1, 3, 64, 96))
    with pytest.raises(ValueError, match=r"\(8, 6\) cells.*fitted_size"):
        pool_regions(out, [(0, 0, 1, 1)], 128, 96)


def test_no_box_has_no_rating():
    out = QualityProxy(width=8)(torch.rand(1, 3, 64, 96))
    assert region_ratings(out, [], 64, 96) == []
