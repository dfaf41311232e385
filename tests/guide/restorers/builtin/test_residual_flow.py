"""Residual flow: coefficients by hand, identities, gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from restoration_guide.restorers.builtin import residual_flow as rf

FLOW = rf.ResidualFlow(residual_scale=0.2, sigma_data=0.5, detail_gain=4.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_coefficients_by_hand_at_half_time() -> None:
    c = rf.precondition(torch.tensor([0.5]), 0.5)
    # norm² = (0.5 * 0.5)² + 0.5² = 0.0625 + 0.25 = 0.3125
    norm = math.sqrt(0.3125)
    assert c.c_in.item() == pytest.approx(1 / norm)
    assert c.c_skip.item() == pytest.approx(0.5 * 0.25 / 0.3125)  # 0.4
    assert c.c_out.item() == pytest.approx(0.5 * 0.5 / norm)
    assert c.gate.item() == pytest.approx(1 - 0.5**4)  # 0.9375


def test_coefficients_at_the_ends() -> None:
    c = rf.precondition(torch.tensor([1.0, 0.0]), 0.5)
    assert c.gate[0].item() == 0.0 and c.c_skip[0].item() == 0.0
    assert c.c_out[0].item() == pytest.approx(0.5)  # σ
    assert c.c_skip[1].item() == pytest.approx(1.0) and c.c_out[1].item() == 0.0


def test_state_and_target_have_unit_variance() -> None:
    t = torch.full((1,), 0.4)
    r, eps = 0.5 * noise(1, 3, 200, 200), noise(1, 3, 200, 200, seed=1)
    state = rf.interpolate(r, eps, t)
    assert float((rf.precondition(t, 0.5).c_in * state).std()) == pytest.approx(1.0, abs=0.02)
    assert float(rf.network_target(r, state, t, FLOW).std()) == pytest.approx(1.0, abs=0.02)


def test_interpolation_by_hand() -> None:
    r, eps = torch.full((2, 3, 2, 2), 2.0), torch.full((2, 3, 2, 2), -1.0)
    state = rf.interpolate(r, eps, torch.tensor([0.25, 1.0]))
    assert torch.allclose(state[0], torch.tensor(1.25))  # 0.75 * 2 - 0.25
    assert torch.equal(state[1], eps[1])


def test_residual_and_image_are_inverses() -> None:
    clean, degraded = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    r = rf.to_residual(clean, degraded, FLOW)
    torch.testing.assert_close(rf.apply_residual(degraded, r, FLOW), clean)
    assert torch.allclose(r, 5.0 * (clean - degraded))  # 1 / 0.2


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9, 1.0])
def test_ideal_network_returns_the_residual(time: float) -> None:
    clean, degraded = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    r, t = rf.to_residual(clean, degraded, FLOW), torch.full((2,), time)
    state = rf.interpolate(r, noise(2, 3, 8, 8, seed=2), t)
    ideal = rf.network_target(r, state, t, FLOW)
    predicted = rf.predict_residual(lambda x, s: ideal, state, degraded, t, FLOW)
    torch.testing.assert_close(predicted, r, atol=1e-4, rtol=1e-4)
    loss = rf.flow_loss(lambda x, s: ideal, clean, degraded, t, noise(2, 3, 8, 8, seed=2), FLOW)
    assert loss.shape == (2,) and float(loss.max()) < 1e-8


def test_no_noise_enters_at_the_first_step() -> None:
    degraded, t = noise(1, 3, 8, 8), torch.ones(1)
    seen = []

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        seen.append(x)
        return x[:, :12] + x[:, 12:24]

    a = rf.predict_residual(network, noise(1, 3, 8, 8, seed=1), degraded, t, FLOW)
    b = rf.predict_residual(network, torch.full_like(degraded, math.inf), degraded, t, FLOW)
    assert torch.equal(a, b)
    assert torch.equal(seen[0], seen[1]) and not seen[0][:, :12].any()


def test_euler_with_exact_predictions_lands_on_the_residual() -> None:
    r, times = noise(1, 3, 4, 4), [1.0, 0.7, 0.25, 0.0]
    state = noise(1, 3, 4, 4, seed=1)
    for now, after in pairwise(times):
        state = state + (after - now) * rf.velocity(state, r, torch.tensor([now]))
    torch.testing.assert_close(state, r, atol=1e-6, rtol=1e-5)


def test_detail_is_zero_on_flat_images_and_centred() -> None:
    assert float(rf.local_detail(torch.full((1, 3, 9, 9), 0.3)).abs().max()) < 1e-6
    spike = torch.zeros(1, 1, 9, 9)
    spike[0, 0, 4, 4] = 1.0
    assert rf.local_detail(spike)[0, 0, 4, 4].item() == pytest.approx(1 - 1 / 25)


def test_network_input_layout() -> None:
    x = rf.network_input(noise(2, 3, 8, 6), noise(2, 3, 8, 6, seed=1), torch.full((2,), 0.5), FLOW)
    assert x.shape == (2, rf.NETWORK_IN_CHANNELS, 4, 3)


def test_times_hold_the_share_of_ones_and_the_range() -> None:
    t = rf.sample_times(
        20_000, mmse_share=0.3, low=0.1, high=0.9, generator=torch.Generator().manual_seed(0)
    )
    assert float((t == 1).float().mean()) == pytest.approx(0.3, abs=0.015)
    rest = t[t != 1]
    assert float(rest.min()) >= 0.1 and float(rest.max()) <= 0.9
    assert float(rest.mean()) == pytest.approx(0.5, abs=0.01)


def test_gradient_reaches_state_and_image() -> None:
    state, degraded = noise(1, 3, 8, 8).requires_grad_(), noise(1, 3, 8, 8, seed=1).requires_grad_()
    out = rf.predict_residual(
        lambda x, s: x[:, :12] * x[:, 12:24] + x[:, 24:],
        state,
        degraded,
        torch.full((1,), 0.5),
        FLOW,
    )
    for grad in torch.autograd.grad(out.square().sum(), [state, degraded]):
        assert torch.isfinite(grad).all() and grad.any()


def test_rejects_constants_that_are_not_positive() -> None:
    with pytest.raises(ValueError, match="sigma_data must be positive, got 0"):
        rf.ResidualFlow(sigma_data=0.0)
