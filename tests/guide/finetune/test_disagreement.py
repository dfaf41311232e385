"""Two judges on one change: gains, tests and verdicts by hand, probes, failures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from restoration_guide.finetune.disagreement import Disagreement, disagreement
from zoomiqa_core.assessment import Assessment


class Judge:
    """Rates the mean of a channel, or fails on black images."""

    def __init__(self, channel: int) -> None:
        self.name, self.channel = "mean", channel

    def assess(self, images) -> Any:
        return [
            Assessment.failed("no", "black")
            if not image.any()
            else Assessment(1 + 4 * float(image[self.channel].mean()), 0.1)
            for image in images
        ]

    def score_regions(self, image, bboxes) -> Any:
        return []

    def quality_map(self, image) -> Any:
        return torch.ones(1, 1, 1)


def gains(mean: float, count: int = 12) -> np.ndarray:
    return mean + np.random.default_rng(0).normal(0, 0.05, count)


def test_verdicts_of_clear_cases():
    assert Disagreement(gains(0.4), gains(0.3)).verdict == "confirmed"
    assert Disagreement(gains(0.4), gains(-0.3)).verdict == "hacked"
    assert Disagreement(gains(0.4), gains(0.0)).verdict == "doubtful"
    assert Disagreement(gains(-0.4), gains(-0.3)).verdict == "no claim"


def test_one_image_proves_nothing():
    assert Disagreement(np.array([0.5]), np.array([-0.5])).verdict == "no claim"


def test_false_verdicts_are_as_rare_as_asked_for():
    random, found = np.random.default_rng(1), []
    for _ in range(400):  # the alarm sees nothing
        found.append(Disagreement(gains(0.4), random.normal(0, 0.3, 12), significance=0.05).verdict)
    assert np.mean([verdict == "hacked" for verdict in found]) < 0.08
    assert np.mean([verdict == "confirmed" for verdict in found]) < 0.08


def test_gains_by_hand_and_failures_left_out():
    before = torch.full((3, 3, 32, 32), 0.5)
    after = before.clone()
    after[:, 0] += torch.tensor([0.1, 0.2, 0.0]).view(3, 1, 1)  # red rises
    after[:, 2] -= 0.1  # blue falls
    after[2] = 0.0  # a black image: both fail
    found = disagreement(before, after, Judge(0), Judge(2))
    assert found.judge_gain[:2].tolist() == pytest.approx([0.4, 0.8])
    assert found.alarm_gain[:2].tolist() == pytest.approx([-0.4, -0.4])
    assert math.isnan(found.gap[2]) and found.gap[:2].tolist() == pytest.approx([0.8, 1.2])
    # t = 1 / .2 = 5 with one degree of freedom: 1/2 − atan(5) / π
    assert found.gap_p == pytest.approx(0.5 - math.atan(5) / math.pi, rel=1e-4)
    colour = math.sqrt((0.1**2 + 0.1**2) / 3)
    assert found.probes["colour"][0] == pytest.approx(colour, rel=1e-4)


def test_with_clean_images_probes_say_whether_they_came_nearer():
    clean = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    found = disagreement(clean + 0.2, clean + 0.05, Judge(0), Judge(1), clean=clean)
    assert found.probes["colour"].tolist() == pytest.approx([-0.15, -0.15], abs=1e-5)


def test_the_bundled_judges_are_asked_by_default():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = disagreement(image, image)
    assert found.judge_gain.tolist() == found.alarm_gain.tolist() == [0.0]


def test_unequal_sizes_are_refused():
    with pytest.raises(ValueError, match="of the same sizes"):
        disagreement(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 33), Judge(0), Judge(1))
    with pytest.raises(ValueError, match="as many images"):
        disagreement(torch.zeros(2, 3, 32, 32), torch.zeros(1, 3, 32, 32), Judge(0), Judge(1))
