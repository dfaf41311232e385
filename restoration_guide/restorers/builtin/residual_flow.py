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
    """Constants of the parametrisation; saved with the weights, which depend on them.

    >>> ResidualFlow(sigma_data=0.55)
    ResidualFlow(residual_scale=0.2, sigma_data=0.55, detail_gain=4.0)
    """

    residual_scale: float = 0.2
    """S: residuals of images in [-1, 1] are divided by it."""
    sigma_data: float = 0.5
    """σ: standard deviation of r over the training degradations, measured."""
    detail_gain: float = 4.0
    """Amplification of y minus its local mean, an input of the network."""

    def __post_init__(self) -> None:
        for name in ("residual_scale", "sigma_data", "detail_gain"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Preconditioning:
    """Coefficients of the preconditioning at B times, (B, 1, 1, 1) each."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    gate: Tensor


def to_residual(clean: Tensor, degraded: Tensor, flow: ResidualFlow) -> Tensor:
    """Scaled residual r = (x - y) / S of images (B, 3, H, W) in [-1, 1].

    >>> clean, degraded = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.4)
    >>> to_residual(clean, degraded, ResidualFlow(residual_scale=0.2))[0, 0, 0]
    tensor([0.5000, 0.5000])
    """
    return (clean - degraded) / flow.residual_scale


def apply_residual(degraded: Tensor, residual: Tensor, flow: ResidualFlow) -> Tensor:
    """Restored image x = y + S r, the inverse of `to_residual`; not clamped.

    >>> degraded, residual = torch.full((1, 3, 2, 2), 0.4), torch.full((1, 3, 2, 2), 0.5)
    >>> apply_residual(degraded, residual, ResidualFlow(residual_scale=0.2))[0, 0, 0]
    tensor([0.5000, 0.5000])
    """
    return degraded + flow.residual_scale * residual


def interpolate(residual: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """State z_t = (1 - t) r + t ε on the line between residual and noise, at times t (B,).

    >>> residual, noise = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    >>> interpolate(residual, noise, torch.tensor([0.25, 1.0]))[:, 0, 0, 0]
    tensor([0.2500, 1.0000])
    """
    t = t.view(-1, 1, 1, 1)
    return (1.0 - t) * residual + t * noise


def precondition(t: Tensor, sigma_data: float) -> Preconditioning:
    """Coefficients c_skip, c_out, c_in and gate at times t, (B,) in [0, 1].

    >>> c = precondition(torch.tensor([0.0, 1.0]), sigma_data=0.5)
    >>> c.c_skip.flatten(), c.c_out.flatten(), c.gate.flatten()
    (tensor([1., 0.]), tensor([0.0000, 0.5000]), tensor([1., 0.]))
    """
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
    """Fine detail of (B, C, H, W): y minus its 5 x 5 mean (of the pixels inside the image).

    >>> local_detail(torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]]))[0, 0, 0, 2]
    tensor(0.8000)
    """
    return degraded - F.avg_pool2d(degraded, 5, stride=1, padding=2, count_include_pad=False)


def network_input(state: Tensor, degraded: Tensor, t: Tensor, flow: ResidualFlow) -> Tensor:
    """Input of the network: gated state, degraded image and amplified detail, (B, 36, H/2, W/2).

    >>> state, degraded = torch.randn(2, 3, 16, 24), torch.rand(2, 3, 16, 24)
    >>> network_input(state, degraded, torch.tensor([0.5, 1.0]), ResidualFlow()).shape
    torch.Size([2, 36, 8, 12])
    """
    c = precondition(t, flow.sigma_data)
    # `where`, because a zero gate times a non-finite state would be NaN.
    gated = torch.where(c.gate > 0.0, c.gate * c.c_in * state, torch.zeros_like(state))
    stacked = torch.cat([gated, degraded, flow.detail_gain * local_detail(degraded)], dim=1)
    return F.pixel_unshuffle(stacked, SIDE_MULTIPLE)


def predict_residual(
    network: Network, state: Tensor, degraded: Tensor, t: Tensor, flow: ResidualFlow
) -> Tensor:
    """Predict the residual r̂, (B, 3, H, W), from state z_t, degraded image y and times t (B,).

    >>> def network(x, timesteps):  # one that always returns 0
    ...     return torch.zeros(len(x), NETWORK_OUT_CHANNELS, *x.shape[2:])
    >>> state, degraded = torch.randn(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    >>> predicted = predict_residual(network, state, degraded, torch.tensor([0.0]), ResidualFlow())
    >>> torch.equal(predicted, state)  # at t = 0 the state is the residual
    True
    """
    c = precondition(t, flow.sigma_data)
    raw = network(network_input(state, degraded, t, flow), t * 1000.0)
    skip = torch.where(c.c_skip > 0.0, c.c_skip * state, torch.zeros_like(state))
    return skip + c.c_out * F.pixel_shuffle(raw, SIDE_MULTIPLE)


def network_target(residual: Tensor, state: Tensor, t: Tensor, flow: ResidualFlow) -> Tensor:
    """Training target of F, for r̂ = r: (r - c_skip z_t) / c_out, pixel-unshuffled; t > 0.

    >>> residual = torch.randn(1, 3, 8, 8)
    >>> t = torch.tensor([0.5])
    >>> state = interpolate(residual, torch.randn(1, 3, 8, 8), t)
    >>> network_target(residual, state, t, ResidualFlow()).shape
    torch.Size([1, 12, 4, 4])
    """
    c = precondition(t, flow.sigma_data)
    return F.pixel_unshuffle((residual - c.c_skip * state) / c.c_out, SIDE_MULTIPLE)


def velocity(state: Tensor, residual: Tensor, t: Tensor) -> Tensor:
    """Velocity v = (z_t - r̂) / t, which a flow-matching scheduler integrates; t (B,) in (0, 1].

    >>> state, residual = torch.full((1, 3, 2, 2), 0.6), torch.full((1, 3, 2, 2), 0.1)
    >>> velocity(state, residual, torch.tensor([0.5])).max()
    tensor(1.)
    """
    return (state - residual) / t.view(-1, 1, 1, 1)


def sample_times(
    count: int, *, mmse_share: float, low: float, high: float, generator: torch.Generator
) -> Tensor:
    """Draw training times (count,): 1 with probability `mmse_share`, else uniform in [low, high].

    >>> generator = torch.Generator().manual_seed(0)
    >>> sample_times(4, mmse_share=0.5, low=0.1, high=0.9, generator=generator)
    tensor([1.0000, 0.6073, 1.0000, 1.0000])
    """
    draws = torch.rand(2, count, generator=generator)
    return torch.where(draws[0] < mmse_share, 1.0, low + (high - low) * draws[1])


def flow_loss(
    network: Network, clean: Tensor, degraded: Tensor, t: Tensor, noise: Tensor, flow: ResidualFlow
) -> Tensor:
    """Training loss: mean squared error of F per image, (B,) float32; images in [-1, 1].

    >>> def network(x, timesteps):
    ...     return torch.zeros(len(x), NETWORK_OUT_CHANNELS, *x.shape[2:])
    >>> clean, degraded = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    >>> t, noise = torch.tensor([0.5, 1.0]), torch.randn(2, 3, 8, 8)
    >>> flow_loss(network, clean, degraded, t, noise, ResidualFlow()).shape
    torch.Size([2])
    """
    residual = to_residual(clean, degraded, flow)
    state = interpolate(residual, noise, t)
    raw = network(network_input(state, degraded, t, flow), t * 1000.0)
    target = network_target(residual, state, t, flow)
    return (raw.float() - target).square().mean(dim=(1, 2, 3))
