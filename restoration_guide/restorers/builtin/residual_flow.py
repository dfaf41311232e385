"""Flow matching in residual space with EDM-style preconditioning, as pure functions.

Images are in [-1, 1]; y is the degraded image, x the clean one. The modelled quantity is the
scaled residual r = (x - y) / S. The flow is the straight line of rectified flow (Liu et al. 2022)

    z_t = (1 - t) r + t ε,    t in [0, 1],    velocity v = (z_t - r) / t,

and the network F predicts r through the preconditioning of Karras et al. 2022 (EDM, section 5),
re-derived here for this line with r of standard deviation σ:

    norm² = (1 - t)² σ² + t²
    c_in = 1 / norm,  c_skip = (1 - t) σ² / norm²,  c_out = t σ / norm
    r̂ = c_skip z_t + c_out F(gate(t) c_in z_t, y, detail(y), t)

Departure from EDM: the state is gated by 1 - t⁴. At t = 1 the state is pure noise and carries
nothing about r; the gate is exactly zero there, c_skip too, so the first prediction is the
minimum-mean-square-error estimate and no noise enters it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE_MULTIPLE = 2
"""Pixel-unshuffle factor: sides of every image given to the network are multiples of it."""

NETWORK_IN_CHANNELS = 3 * 3 * SIDE_MULTIPLE**2
NETWORK_OUT_CHANNELS = 3 * SIDE_MULTIPLE**2

Network = Callable[[Tensor, Tensor], Tensor]
"""(B, 36, H/2, W/2) input and (B,) timesteps in [0, 1000] -> (B, 12, H/2, W/2)."""


@dataclass(frozen=True)
class ResidualFlow:
    """Constants of the parametrisation; saved with the weights, since both belong together."""

    residual_scale: float = 0.2
    """S: residuals of images in [-1, 1] are divided by it."""
    sigma_data: float = 0.5
    """σ: standard deviation of r over the training degradations, measured."""
    detail_gain: float = 4.0
    """Amplification of y minus its local mean, the network's view of fine structure."""

    def __post_init__(self) -> None:
        for name in ("residual_scale", "sigma_data", "detail_gain"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Preconditioning:
    """Coefficients at a time, each (B, 1, 1, 1)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    gate: Tensor


def to_residual(clean: Tensor, degraded: Tensor, flow: ResidualFlow) -> Tensor:
    """r = (x - y) / S, for images (B, 3, H, W) in [-1, 1]."""
    return (clean - degraded) / flow.residual_scale


def apply_residual(degraded: Tensor, residual: Tensor, flow: ResidualFlow) -> Tensor:
    """x = y + S r, the inverse of `to_residual`; not clamped."""
    return degraded + flow.residual_scale * residual


def interpolate(residual: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t = (1 - t) r + t ε; t is (B,)."""
    t = t.view(-1, 1, 1, 1)
    return (1.0 - t) * residual + t * noise


def precondition(t: Tensor, sigma_data: float) -> Preconditioning:
    """The four coefficients at times t, (B,) in [0, 1]."""
    t = t.view(-1, 1, 1, 1)
    variance = ((1.0 - t) * sigma_data) ** 2 + t**2
    norm = variance.sqrt()
    return Preconditioning(
        c_skip=(1.0 - t) * sigma_data**2 / variance,
        c_out=t * sigma_data / norm,
        c_in=1.0 / norm,
        gate=1.0 - t**4,
    )


def local_detail(degraded: Tensor) -> Tensor:
    """y minus its 5 x 5 local mean (the window shrinks at the border)."""
    return degraded - F.avg_pool2d(degraded, 5, stride=1, padding=2, count_include_pad=False)


def network_input(state: Tensor, degraded: Tensor, t: Tensor, flow: ResidualFlow) -> Tensor:
    """Stack gated state, degraded image and amplified detail, (B, 36, H/2, W/2)."""
    c = precondition(t, flow.sigma_data)
    # `where`, not a product alone: a non-finite state must not leak through a zero gate.
    seen = torch.where(c.gate > 0.0, c.gate * c.c_in * state, torch.zeros_like(state))
    stacked = torch.cat([seen, degraded, flow.detail_gain * local_detail(degraded)], dim=1)
    return F.pixel_unshuffle(stacked, SIDE_MULTIPLE)


def predict_residual(
    network: Network, state: Tensor, degraded: Tensor, t: Tensor, flow: ResidualFlow
) -> Tensor:
    """r̂, (B, 3, H, W), from state z_t, degraded image y and times t (B,)."""
    c = precondition(t, flow.sigma_data)
    raw = network(network_input(state, degraded, t, flow), t * 1000.0)
    skip = torch.where(c.c_skip > 0.0, c.c_skip * state, torch.zeros_like(state))
    return skip + c.c_out * F.pixel_shuffle(raw, SIDE_MULTIPLE)


def network_target(residual: Tensor, state: Tensor, t: Tensor, flow: ResidualFlow) -> Tensor:
    """What F should return for r̂ = r: unshuffled (r - c_skip z_t) / c_out, for t > 0."""
    c = precondition(t, flow.sigma_data)
    return F.pixel_unshuffle((residual - c.c_skip * state) / c.c_out, SIDE_MULTIPLE)


def velocity(state: Tensor, residual: Tensor, t: Tensor) -> Tensor:
    """v = (z_t - r̂) / t, what a flow-matching scheduler integrates; t (B,) in (0, 1]."""
    return (state - residual) / t.view(-1, 1, 1, 1)


def sample_times(
    count: int, *, mmse_share: float, low: float, high: float, generator: torch.Generator
) -> Tensor:
    """Training times (count,): exactly 1 with chance `mmse_share`, else uniform in [low, high]."""
    draws = torch.rand(2, count, generator=generator)
    return torch.where(draws[0] < mmse_share, 1.0, low + (high - low) * draws[1])


def flow_loss(
    network: Network, clean: Tensor, degraded: Tensor, t: Tensor, noise: Tensor, flow: ResidualFlow
) -> Tensor:
    """Mean squared error of F per image, (B,) float32; images in [-1, 1]."""
    residual = to_residual(clean, degraded, flow)
    state = interpolate(residual, noise, t)
    raw = network(network_input(state, degraded, t, flow), t * 1000.0)
    target = network_target(residual, state, t, flow)
    return (raw.float() - target).square().mean(dim=(1, 2, 3))
