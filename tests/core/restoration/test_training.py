"""The fit of the restoration judge: its loss and its attacks, by hand."""

import math

import pytest
import torch

from zoomiqa_core.restoration.measured import attack
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.training import FitConfig, families_loss


def judged(ratings, error=1.0):
    """(1, N, 2): one member's utilities and logarithms of its errors."""
    utility = torch.logit((torch.tensor(ratings) - 1) / 4)
    return torch.stack([utility, torch.full_like(utility, math.log(error))], 1)[None]


ONE = torch.ones(1)


def test_the_loss_by_hand():
    config = FitConfig(error_weight=0.0)
    target, family = torch.tensor([4.0, 2.0]), torch.zeros(2, dtype=torch.long)

    def loss(ratings):
        made = judged(ratings)
        return families_loss(made, target, family, ONE, config).item()

    # right: two of four pairs, softplus((.5 − 2) / .15) · .15 = 6.8e-6 each; no other term
    assert loss([4.0, 2.0]) == pytest.approx(3.4e-6, rel=0.05)
    # wrong: ranking (2.5 · 2) / 4, differences 2 · (4 − .1) / 4, level .25 · (2 − .1)
    assert loss([2.0, 4.0]) == pytest.approx(1.25 + 1.95 + 0.475, rel=1e-3)


def test_families_count_alike_and_errors_are_learned():
    config = FitConfig()
    target, family = torch.tensor([4.0, 2.0, 4.0, 2.0]), torch.tensor([0, 0, 1, 1])
    made = judged([2.5, 2.0, 2.5, 2.0])
    both = families_loss(made, target, family, torch.ones(2), config)
    one = families_loss(made[:, :2], target[:2], family[:2], ONE, config)
    torch.testing.assert_close(both, one)
    # the difference is off by 1.5: a standard deviation of 1.5 is the most likely one
    whole = 1 / (2 * (1 - math.exp(-0.5 / 0.3))) ** 0.5

    def loss(std):
        made = judged([2.5, 2.0], std * whole)
        return families_loss(made, target[:2], family[:2], ONE, config).item()

    assert loss(1.5) < min(loss(1.4), loss(1.6))


def test_a_family_of_attacks_counts_by_its_weight():
    target, family = torch.tensor([4.0, 2.0, 4.0, 2.0]), torch.tensor([0, 0, 1, 1])
    right, wrong = [4.0, 2.0], [2.0, 4.0]

    def loss(ratings, weight):
        config = FitConfig(error_weight=0.0)
        return families_loss(judged(ratings), target, family, torch.tensor(weight), config).item()

    both = loss(right + wrong, [1.0, 0.25])  # (1 · 0 + .25 · 3.675) / 1.25
    assert both == pytest.approx(0.25 / 1.25 * loss(wrong + wrong, [1.0, 1.0]), rel=1e-3)


def test_an_attack_stays_within_its_limit_and_raises_the_rating():
    torch.manual_seed(0)
    judge = RestorationJudge(width=8, members=2)
    images = torch.rand(1, 3, 64, 64) * 0.5 + 0.25
    found = attack(judge, images, images, levels=2, steps=3)
    assert (found - images).abs().max() <= 2 / 255 + 1e-6
    assert judge(found, images).rating > judge(images, images).rating
