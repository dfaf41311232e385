"""The full-reference rating the alarm is taught: by hand, by property, by rejection."""

from __future__ import annotations

import math

import pytest
import torch

from restoration_guide.cli.main import DEMO_PHOTO
from zoomiqa_core.alarm.reference import (
    DISTANCES,
    OFFSET,
    WEIGHTS,
    distances,
    from_distances,
    opponent,
    reference_rating,
)
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.images.sources import to_batch


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    return to_batch(DEMO_PHOTO)[..., :160, :160]


def test_the_clean_image_has_no_distance_and_the_best_rating(clean):
    assert distances(clean, clean).max().item() < 2e-3
    best = 1 + 4 / (1 + math.exp(-OFFSET))
    assert reference_rating(clean, clean).item() == pytest.approx(best, abs=0.02)


def test_distances_by_hand():
    base = torch.full((1, 3, 64, 64), 0.5)
    found = dict(zip(DISTANCES, distances(base + 0.04, base)[0].tolist(), strict=True))
    assert found["luma"] == pytest.approx(math.sqrt(0.04))  # the root of the difference
    assert found["chroma"] < 1e-3 and found["added_0"] < 1e-3
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 0.2 - 0.1
    noisy = dict(zip(DISTANCES, distances(base + board, base)[0].tolist(), strict=True))
    # 25 of a window's 49 pixels are one, 24 the other: σ = .1 · √(1 − 1/49²), from none
    sigma = 0.1 * math.sqrt(1 - 1 / 49**2)
    assert noisy["added_0"] == pytest.approx(math.sqrt(math.log((sigma + 0.01) / 0.01)), rel=1e-3)
    assert noisy["lost_0"] == 0 and noisy["added_1"] < 1e-3  # averaged away at half resolution


def test_the_rating_is_a_logistic_curve_that_no_distance_raises():
    found = torch.zeros(1, len(DISTANCES))
    assert from_distances(found, torch.tensor(WEIGHTS), 0.0).item() == 3.0
    assert min(WEIGHTS) >= 0.3
    for index in range(len(DISTANCES)):
        worse = found.clone()
        worse[0, index] = 1.0
        assert from_distances(worse, torch.tensor(WEIGHTS), 0.0) < 3.0


@pytest.mark.parametrize("name", ["white_noise", "gaussian_blur", "jpeg", "over_sharpening"])
def test_levels_of_damage_come_in_order(clean, name):
    generator = torch.Generator().manual_seed(0)
    levels = [distort(clean, name, level, generator=generator) for level in (1, 3, 5)]
    ratings = reference_rating(torch.cat([clean, *levels]), clean).tolist()
    assert ratings == sorted(ratings, reverse=True)


def test_opponent_by_hand():
    found = opponent(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)).flatten().tolist()
    assert found == pytest.approx([0.299 + 0.2935, 0.5, -0.75])


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 32 px"):
        distances(torch.zeros(1, 3, 31, 64), torch.zeros(1, 3, 31, 64))
