"""The proxy's losses: by hand, by property, by rejection."""

from __future__ import annotations

import math

import pytest
import torch

from zoomiqa_core.proxy.losses import error_loss, map_loss, ranking_loss, regression_loss


def test_ranking_by_hand():
    # one pair: ratings 3 and 2.5 in the right order, scale .25: .25 · log(1 + e^−2)
    loss = ranking_loss(
        torch.tensor([3.0, 2.5]), torch.tensor([2.0, 1.0]), torch.zeros(2), min_gap=0.5
    )
    assert loss.item() == pytest.approx(0.25 * math.log1p(math.exp(-2)), abs=1e-6)


def test_ranking_compares_only_inside_groups_and_beyond_the_gap():
    ratings = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    order = torch.tensor([3.0, 2.0, 2.9])
    apart = ranking_loss(ratings, order, torch.tensor([0, 1, 0]), min_gap=0.25)
    assert apart.item() == 0  # 0 and 2 differ by .1, 1 is alone
    apart.backward()
    assert not ratings.grad.any()


def test_ranking_counts_groups_alike_however_many_pairs_they_have():
    # group 0: one pair 1 apart the right way; group 1: three pairs of equal ratings, .25·log 2;
    # group 2: no pair, takes no part
    ratings = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0, 5.0])
    order = torch.tensor([2.0, 1.0, 3.0, 2.0, 1.0, 0.0])
    loss = ranking_loss(ratings, order, torch.tensor([0, 0, 1, 1, 1, 2]), min_gap=0.5)
    means = 0.25 * math.log1p(math.exp(-4)), 0.25 * math.log(2)
    assert loss.item() == pytest.approx(sum(means) / 2, abs=1e-6)


def test_ranking_is_invariant_to_order_and_ignores_nan():
    ratings, order = torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([3.0, 1.0, 2.0, math.nan])
    group, shuffled = torch.zeros(4), torch.tensor([2, 3, 0, 1])
    first = ranking_loss(ratings, order, group, min_gap=0.5)
    second = ranking_loss(ratings[shuffled], order[shuffled], group, min_gap=0.5)
    assert first.item() == pytest.approx(second.item())
    assert first.item() == pytest.approx(
        ranking_loss(ratings[:3], order[:3], group[:3], min_gap=0.5).item()
    )


def test_ranking_gradient_raises_the_better_image():
    ratings = torch.tensor([2.0, 3.0], requires_grad=True)
    ranking_loss(ratings, torch.tensor([5.0, 1.0]), torch.zeros(2), min_gap=0.5).backward()
    assert ratings.grad[0] < 0 < ratings.grad[1]


def test_ranking_refuses_a_gap_of_zero():
    with pytest.raises(ValueError, match="min_gap must be positive"):
        ranking_loss(torch.zeros(2), torch.zeros(2), torch.zeros(2), min_gap=0)


def test_map_loss_averages_pixels_into_cells():
    target = torch.full((1, 1, 16, 32), 2.0)
    target[..., 16:] = 4.0
    assert map_loss(torch.tensor([2.0, 4.0]).view(1, 1, 1, 2), target).item() == 0
    # one cell off by 1: smooth L1 with β .25 gives 1 − .125, averaged over two cells
    off = map_loss(torch.tensor([2.0, 3.0]).view(1, 1, 1, 2), target)
    assert off.item() == pytest.approx(0.875 / 2)


def test_map_loss_refuses_grids_that_do_not_correspond():
    with pytest.raises(ValueError, match="multiples of 16"):
        map_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 16, 32))


def test_error_loss_is_least_where_the_spread_equals_the_error():
    spread = torch.tensor([0.5], requires_grad=True)
    error_loss(torch.tensor([3.5]), spread, torch.tensor([3.0])).backward()
    assert spread.grad.item() == pytest.approx(0, abs=1e-6)
    # log .5 + ½
    by_hand = error_loss(torch.tensor([3.5]), torch.tensor([0.5]), torch.tensor([3.0]))
    assert by_hand.item() == pytest.approx(math.log(0.5) + 0.5)


def test_error_loss_leaves_the_rating_alone():
    rating = torch.tensor([3.5], requires_grad=True)
    spread = torch.tensor([0.5], requires_grad=True)
    error_loss(rating, spread, torch.tensor([1.0])).backward()
    assert rating.grad is None


def test_regression_by_hand():
    # |1| beyond β = .25: 1 − .125;  |.1| inside: .5 · .01 / .25
    loss = regression_loss(torch.tensor([3.0, 2.1]), torch.tensor([2.0, 2.0]))
    assert loss.item() == pytest.approx((0.875 + 0.02) / 2)
