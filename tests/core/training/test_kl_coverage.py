"""KL-Coverage: selection by hand, where the gradient goes, and what on-policy means."""

import math
from typing import Any

import pytest
import torch

from zoomiqa_core.training.kl_coverage import (
    KLCoverageConfig,
    Variant,
    coverage,
    coverage_kl,
    rating_positions,
)

# Two roll-outs of four tokens, the last of the second is padding.
LOG_PROBS = torch.tensor([[-0.1, -2.0, -0.5, -1.0], [-0.2, -3.0, -0.2, 9.0]])
ENTROPIES = torch.tensor([[0.1, 1.5, 0.9, 0.8], [0.1, 2.0, 0.5, 9.0]])
ADVANTAGES = torch.tensor([1.0, -1.0])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def select(variant: Variant, top: float, **settings: Any) -> torch.Tensor:
    config = KLCoverageConfig(variant, top, **settings)
    return coverage(LOG_PROBS, ENTROPIES, ADVANTAGES, MASK, config).selected


def test_confident_tokens_by_hand():
    """Mean log-prob −7.0 / 7 = −1.0; mean advantage (4 − 3) / 7 = 1/7.

    Row 1, A − mean = 6/7: (0.9, −1, 0.5, 0) · 6/7. Row 2, A − mean = −8/7: (0.8, −2, 0.8) · −8/7.
    Both factors are above 0 for tokens 0 and 2 of row 1 alone.
    """
    config = KLCoverageConfig("confident", top=2 / 7)
    chosen = coverage(LOG_PROBS, ENTROPIES, ADVANTAGES, MASK, config)
    expected = torch.tensor([[5.4, -6, 3, 0], [-6.4, 16, -6.4, 0]]) / 7
    torch.testing.assert_close(chosen.covariance, expected)
    assert chosen.selected.tolist() == [[True, False, True, False], [False] * 4]
    assert select("confident", 0.02).nonzero().tolist() == [[0, 0]]  # never fewer than one
    assert select("confident", 1.0).sum() == 2  # never more than there are candidates


def test_the_rule_of_prime_rl_by_hand():
    """The same covariances without a sign filter: 16/7 is the unlikely token of the bad one."""
    assert select("kl_cov", 1 / 7).nonzero().tolist() == [[1, 1]]
    assert select("kl_cov", 2 / 7).nonzero().tolist() == [[0, 0], [1, 1]]
    assert select("kl_cov", 1.0).sum() == 3  # a negative covariance is never selected


def test_tokens_without_a_choice_are_left_out_by_hand():
    """Entropy ≥ 0.2: row 1 tokens 1, 2, 3 and row 2 tokens 1, 2; their means −6.7/5 and 1/5.

    Row 1, A − mean = 0.8: (−0.66, 0.84, 0.34) · 0.8. The first token, the most likely of all, is
    certain, so the KL there would have no effect.
    """
    config = KLCoverageConfig("kl_coverage", top=1 / 7)
    chosen = coverage(LOG_PROBS, ENTROPIES, ADVANTAGES, MASK, config)
    assert chosen.selected.nonzero().tolist() == [[0, 2]]
    assert chosen.covariance[0].tolist() == pytest.approx([0, -0.528, 0.672, 0.272])
    assert chosen.covariance[1].tolist() == pytest.approx([0, 1.992, -1.368, 0])
    assert select("kl_coverage", 2 / 7).nonzero().tolist() == [[0, 2], [0, 3]]
    assert torch.equal(select("kl_coverage", 2 / 7, min_entropy=0.0), select("confident", 2 / 7))
    assert not select("kl_coverage", 1.0, min_entropy=3.0).any()


def test_nothing_is_selected_without_a_difference():
    config = KLCoverageConfig("kl_coverage", top=1.0)
    equal = torch.ones(2)
    assert not coverage(LOG_PROBS, ENTROPIES, equal, MASK, config).selected.any()
    none = torch.zeros_like(MASK)
    assert not coverage(LOG_PROBS, ENTROPIES, ADVANTAGES, none, config).selected.any()


def test_a_batch_of_one_roll_out_selects_nothing_and_the_whole_batch_does():
    """Why tokens are selected over the generation batch: within one row advantages are equal."""
    config = KLCoverageConfig("kl_coverage", top=1.0)
    for row in range(2):
        one = slice(row, row + 1)
        part = coverage(LOG_PROBS[one], ENTROPIES[one], ADVANTAGES[one], MASK[one], config)
        assert not part.selected.any()
    assert coverage(LOG_PROBS, ENTROPIES, ADVANTAGES, MASK, config).selected.any()


def gradient(variant, other, coef=1.0) -> Any:
    log_probs = LOG_PROBS.clone().requires_grad_()
    chosen = select("confident", 2 / 7)
    base = (log_probs * MASK).sum() * 0.1  # stands for the policy loss
    kl = coverage_kl(log_probs, other, variant)
    (base + coef * (kl * chosen).sum() / 7).backward()
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


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="0 < top"):
        KLCoverageConfig(top=0.0)
    with pytest.raises(ValueError, match="min_entropy ≥ 0"):
        KLCoverageConfig(min_entropy=-1.0)


def test_the_tokens_of_the_rating_are_found():
    thought = ["<th", "ink>", '"rating":', "9", "</think>"]
    answer = ['"', "rat", 'ing":', "Ġ", "3", ".", "56,", "x"]
    marks = rating_positions(thought + answer)
    assert [p for p, m in zip(thought + answer, marks, strict=True) if m] == ["3", ".", "56,"]
    assert not any(rating_positions(["no", "thing"])) and rating_positions([]) == []
