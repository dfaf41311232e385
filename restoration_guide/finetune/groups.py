"""Rewards within a group: the candidates of one input are compared with each other alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, smallest_spread: float = 0.0) -> Tensor:
    """Rewards (G, N) of N candidates for each of G inputs, standardised within each input.

    Candidates of equal reward get 0. A non-finite reward stays NaN and is left out of
    its group's mean and deviation.

    >>> group_advantages(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
    tensor([[-1.2247,  0.0000,  1.2247],
            [ 0.0000,  0.0000,  0.0000]])

    Args:
        rewards: (G, N).
        smallest_spread: least standard deviation to divide by, so that noise between nearly equal
            candidates is not amplified.
    """
    finite = torch.isfinite(rewards)
    known = torch.where(finite, rewards, torch.zeros_like(rewards))
    count = finite.sum(1, keepdim=True).clamp(min=1)
    centred = known - known.sum(1, keepdim=True) / count
    centred = torch.where(finite, centred, torch.zeros_like(centred))
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    flat = deviation <= 1e-6 * (1 + known.abs().amax(1, keepdim=True))
    spread = deviation.clamp(min=max(smallest_spread, 1e-12))
    advantages = torch.where(flat, torch.zeros_like(centred), centred / spread)
    return torch.where(finite, advantages, torch.full_like(rewards, math.nan))
