"""KL-Coverage: by hand on 2 × 4 tokens, where the gradient goes, and what on-policy means."""

import math
from typing import Any

import pytest
import torch

from zoomiqa_core.training.kl_coverage import (
    KLCoverageConfig,
    coverage,
    coverage_kl,
    rating_positions,
    token_weights,
)

# Two roll-outs of four tokens, the last of the second is padding.
LOG_PROBS = torch.tensor([[-0.1, -2.0, -0.5, -1.0], [-0.2, -3.0, -0.2, 9.0]])
ADVANTAGES = torch.tensor([1.0, -1.0])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def test_by_hand():
    """Mean log-prob −7.0 / 7 = −1.0; mean advantage (4 − 3) / 7 = 1/7.

    Row 1, A − mean = 6/7: (0.9, −1, 0.5, 0) · 6/7. Row 2, A − mean = −8/7: (0.8, −2, 0.8) · −8/7.
    Both factors are above 0 for tokens 0 and 2 of row 1 alone; the covariance of row 2's second
    token, 16/7, is the largest of all and is not chosen: unlikely and punished.
    """
    half = coverage(LOG_PROBS, ADVANTAGES, MASK, top=2 / 7)
    expected = torch.tensor([[5.4, -6, 3, 0], [-6.4, 16, -6.4, 0]]) / 7
    torch.testing.assert_close(half.covariance, expected)
    assert half.selected.tolist() == [[True, False, True, False], [False] * 4]
    one = coverage(LOG_PROBS, ADVANTAGES, MASK, top=0.02)  # never fewer than one
    assert one.selected.nonzero().tolist() == [[0, 0]]
    every = coverage(LOG_PROBS, ADVANTAGES, MASK, top=1.0)  # never more than qualify
    assert every.selected.sum() == 2


def test_nothing_is_chosen_where_nothing_stands_out():
    assert not coverage(LOG_PROBS, torch.ones(2), MASK, 1.0).selected.any()
    assert not coverage(LOG_PROBS, ADVANTAGES, torch.zeros_like(MASK), 1.0).selected.any()


def test_advantages_may_be_given_per_token():
    rows = coverage(LOG_PROBS, ADVANTAGES, MASK, 0.5)
    tokens = coverage(LOG_PROBS, ADVANTAGES[:, None].expand(2, 4), MASK, 0.5)
    assert torch.equal(rows.selected, tokens.selected)


def gradient(variant, other, coef=1.0) -> Any:
    log_probs = LOG_PROBS.clone().requires_grad_()
    chosen = coverage(log_probs, ADVANTAGES, MASK, top=2 / 7).selected
    base = (log_probs * MASK).sum() * 0.1  # stands for the policy loss
    kl = coverage_kl(log_probs, other, variant)
    (base + coef * (kl * chosen * token_weights(MASK, "bnpo")).sum()).backward()
    return log_probs.grad, chosen


@pytest.mark.parametrize("variant", ["kl_coverage", "kl_cov"])
def test_the_gradient_changes_on_the_chosen_tokens_and_on_no_other(variant):
    with_term, chosen = gradient(variant, LOG_PROBS - 0.3)
    without, _ = gradient(variant, LOG_PROBS - 0.3, coef=0.0)
    assert torch.equal(with_term != without, chosen)


def test_on_policy_the_old_policy_pulls_nowhere_and_the_reference_does():
    """|log π − log π_old| is at its kink, where torch's gradient is 0; k3 has (1 − e^d)."""
    old, _ = gradient("kl_cov", LOG_PROBS)
    plain, _ = gradient("kl_cov", LOG_PROBS, coef=0.0)
    assert torch.equal(old, plain)
    reference = LOG_PROBS - 0.3
    pulled, chosen = gradient("kl_coverage", reference)
    expected = plain + chosen * (1 - math.exp(-0.3)) / 7
    torch.testing.assert_close(pulled, expected)


def test_k3_is_zero_at_the_reference_and_positive_elsewhere():
    gaps = torch.linspace(-3, 3, 13)
    kl = coverage_kl(torch.zeros(13), gaps, "kl_coverage")
    assert kl[6] == 0 and (kl[gaps != 0] > 0).all()
    small = coverage_kl(torch.zeros(1), torch.tensor([1e-4]), "kl_coverage")
    assert float(small) == pytest.approx(5e-9, rel=0.01)  # gap² / 2, below fp32's step at 1


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "luspo"])
def test_weights_are_those_of_the_loss_type(loss_type):
    said = token_weights(MASK, loss_type, accumulation=2, items=5.0, max_length=8)
    per_token = {
        "grpo": [1 / 4 / 2 / 2, 1 / 3 / 2 / 2],
        "bnpo": [1 / 7 / 2] * 2,
        "dr_grpo": [1 / 16 / 2] * 2,
        "dapo": [1 / 5] * 2,
        "luspo": [1 / 2 / 2] * 2,
    }[loss_type]
    torch.testing.assert_close(said, MASK * torch.tensor(per_token)[:, None])


def test_an_unknown_loss_and_a_senseless_share_are_refused():
    with pytest.raises(ValueError, match="use dapo"):
        token_weights(MASK, "new")
    with pytest.raises(ValueError, match="0 < top"):
        KLCoverageConfig(top=0.0)


def test_the_tokens_of_the_rating_are_found():
    thought = ["<th", "ink>", '"rating":', "9", "</think>"]
    answer = ['"', "rat", 'ing":', "Ġ", "3", ".", "56,", "x"]
    marks = rating_positions(thought + answer)
    assert [p for p, m in zip(thought + answer, marks, strict=True) if m] == ["3", ".", "56,"]
    assert not any(rating_positions(["no", "thing"])) and rating_positions([]) == []
