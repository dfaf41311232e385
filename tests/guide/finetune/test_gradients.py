"""Normalised image gradients: by hand, by weight whatever the scale, over steps."""

from __future__ import annotations

import math

import pytest
import torch

from restoration_guide.finetune.gradients import (
    RunningRms,
    contributions,
    gradient_rms,
    gradient_shares,
    image_gradients,
)


def quadratic(images: torch.Tensor, target: float, factor: float) -> torch.Tensor:
    return -factor * (images - target).square().mean((1, 2, 3))


def test_an_image_gradient_by_hand_and_independent_of_the_crop():
    for side in (2, 8):
        images = torch.full((2, 3, side, side), 0.5, requires_grad=True)
        found = image_gradients({"near": quadratic(images, 0.3, 1.0)}, images)["near"]
        torch.testing.assert_close(found, torch.full_like(found, -2 * 0.2))  # d/dx of −(x − .3)²


def test_terms_of_very_different_scales_contribute_by_their_weights():
    images = torch.rand(2, 3, 6, 6, requires_grad=True)
    steep, flat = quadratic(images, 0.9, 1e6), quadratic(images.flip(-1), 0.1, 1e-6)
    gradients = image_gradients({"steep": steep, "flat": flat}, images)
    scale = RunningRms()
    scale.update(gradient_rms(gradients))
    weights = {"steep": torch.full((2,), 1.0), "flat": torch.full((2,), 3.0)}
    parts = contributions(gradients, weights, scale)
    for name, weight in weights.items():  # by hand: the RMS over the batch is the weight
        assert parts[name].square().mean().sqrt().item() == pytest.approx(
            float(weight[0]), rel=1e-4
        )
        assert bool(parts[name].isfinite().all())
    direct = 1.0 * gradients["steep"] / gradients["steep"].square().mean().sqrt()
    torch.testing.assert_close(parts["steep"], direct)


def test_shares_sum_to_one_and_an_outweighed_term_is_negative():
    up = torch.ones(1, 3, 2, 2)
    shares = gradient_shares({"up": 3 * up, "down": -up})
    assert shares["up"].item() == pytest.approx(1.5) and shares["down"].item() == pytest.approx(
        -0.5
    )
    nothing = gradient_shares({"a": 0 * up, "b": 0 * up})
    assert [value.item() for value in nothing.values()] == [0.0, 0.0]


def test_the_running_rms_by_hand():
    rms = RunningRms(momentum=0.5)
    assert rms["rating"] == 1.0
    rms.update({"rating": torch.tensor([1.0, 3.0])})  # mean square 5
    assert rms["rating"] == pytest.approx(math.sqrt(5))
    rms.update({"rating": torch.tensor([4.0, math.nan, 0.0])})  # 16; NaN and 0 are left out
    assert rms["rating"] == pytest.approx(math.sqrt(10.5))
    rms.update({"rating": torch.tensor([0.0, math.inf])})
    assert rms["rating"] == pytest.approx(math.sqrt(10.5))
