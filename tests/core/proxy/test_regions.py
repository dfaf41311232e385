"""Region ratings: exact pooling with the proxy's own weights."""

from __future__ import annotations

import pytest
import torch

from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy
from zoomiqa_core.proxy.regions import box_coverage, region_ratings


def test_coverage_is_exact_area_overlap():
    # 32 × 64 px; the box covers x in [.125, .5]: half of cell 0 and cell 1; y the lower row
    found = box_coverage((0.125, 0.5, 0.5, 1.0), 32, 64)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0, 0], [0.5, 1, 0, 0]]))


def test_a_cut_last_cell_keeps_its_true_place():
    # 20 px wide: cell 0 is 16 px, cell 1 is 4 px; the left half is 10 px of cell 0
    torch.testing.assert_close(box_coverage((0, 0, 0.5, 1), 16, 20), torch.tensor([[0.625, 0.0]]))


def test_region_by_hand():
    quality, weight = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 1.0]])
    out = ProxyOutput(
        torch.tensor([2.0]), torch.tensor([0.3]), quality[None, None], weight[None, None]
    )
    left, whole = region_ratings(out, [(0, 0, 0.5, 1), (0, 0, 1, 1)], 16, 32)
    assert (left.rating, whole.rating) == (pytest.approx(1), pytest.approx(2))
    assert whole.rating_std == pytest.approx(0.3)


@pytest.mark.parametrize("size", [(64, 64), (70, 100), (33, 200)])
def test_the_whole_box_has_the_image_rating(size):
    torch.manual_seed(0)
    out = QualityProxy(width=8)(torch.rand(1, 3, *size))
    (whole,) = region_ratings(out, [(0.0, 0.0, 1.0, 1.0)], *size)
    assert whole.rating == pytest.approx(out.rating.item(), abs=1e-5)


@pytest.mark.parametrize("bbox", [(0, 0, 0, 1), (0.5, 0, 0.2, 1), (0, 0, 2, 1), (-0.1, 0, 1, 1)])
def test_a_malformed_box_is_refused(bbox):
    with pytest.raises(ValueError, match="divide pixel boxes"):
        box_coverage(bbox, 4, 4)
