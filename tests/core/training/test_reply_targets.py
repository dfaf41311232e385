"""What a reply's tokens are trained towards: weights and soft digits, by hand and by property."""

from __future__ import annotations

import math

import pytest
import torch

from zoomiqa_core.training.reply_targets import (
    TargetSettings,
    reply_targets,
    soft_digits,
    weighted_loss,
)

PIECES = ["<think>", "4.9", "</think>", '<answer>{"rating": ', "2", ".", "0", "5", "}", "<end>"]


def test_only_the_answer_weighs_more_and_only_its_digits_are_soft():
    weights, digits = reply_targets(PIECES, TargetSettings(answer_weight=8.0))
    assert weights == [1.0] * 3 + [8.0] * 7
    assert set(digits) == {4, 6}  # not the 4.9 of the thought, not the second decimal
    # 2.05 ± 0.2: Φ(−.25) = .4013 lies under 2; of the rest, up to 2.1 (Φ(.25)) is decimal 0
    assert digits[4][1] == pytest.approx(0.4013, abs=1e-4)
    assert digits[6][0] == pytest.approx((0.5987 - 0.4013) / 0.5987, abs=1e-3)


def test_what_is_ignored_has_no_weight_and_a_merged_number_stays_hard():
    weights, _ = reply_targets(PIECES, TargetSettings(), ignored=[(0, 8), (10**3, 10**4)])
    assert weights[:3] == [0.0, 0.0, 1.0]
    merged = ['<answer>{"rating": ', "2.0", "5}"]
    assert reply_targets(merged, TargetSettings()).digits == {}
    assert reply_targets(["no answer"], TargetSettings()) == ([1.0], {})
    assert reply_targets(PIECES, TargetSettings(rating_spread=0.0)).digits == {}


@pytest.mark.parametrize("rating", [1.0, 1.37, 2.999, 3.0, 4.95, 5.0])
def test_soft_digits_are_distributions_about_the_rating(rating: float):
    whole, decimal = soft_digits(rating, 0.2)
    assert sum(whole) == pytest.approx(1) and sum(decimal) == pytest.approx(1)
    assert whole[0] == sum(whole[6:]) == 0
    mean = sum(p * (digit + 0.5) for digit, p in enumerate(whole))
    assert abs(mean - rating) < 0.7
    sharp, tenth = soft_digits(rating, 1e-4)
    assert tenth.index(max(tenth)) == int(round(rating % 1, 6) * 10)
    assert rating % 1 == 0 or sharp[int(rating)] == pytest.approx(1)


def test_the_loss_by_hand_and_its_gradient():
    logits = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[-100, 7, 3, -100], [-100, -100, 12, 2]])
    weights = torch.tensor([[0, 1, 5, 0], [0, 0, 0, 5.0]])
    soft = torch.tensor([[0, 2]]), torch.tensor([[0, 0, 0.25, 0.75, 0, 0, 0, 0, 0, 0]])
    loss = weighted_loss(logits, labels, weights, soft, range(10))
    p = logits.log_softmax(-1)
    expected = -p[0, 0, 7] - 5 * (0.25 * p[0, 1, 2] + 0.75 * p[0, 1, 3]) - 5 * p[1, 2, 2]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    touched = {tuple(place) for place in logits.grad.abs().sum(-1).nonzero().tolist()}
    assert touched == {(0, 0), (0, 1), (1, 2)}  # the label 12 has no weight
    none = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 10)
    assert math.isfinite(weighted_loss(logits, labels, weights, none, range(10)).item())


def test_settings_are_checked():
    with pytest.raises(ValueError, match="answer_weight > 0"):
        TargetSettings(answer_weight=0.0)
