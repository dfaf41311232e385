"""Small changes that move a rating most; a judge that is shown them in training is moved less."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def perturb(
    rate: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Projected gradient ascent on the rating in the max norm, from a random start.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, with
    steps of 2 · radius / steps. Half of the images, drawn at random, are driven down instead.

    Args:
        rate: (B, 3, H, W) → (B,); its parameters' gradients are left alone.
        images: (B, 3, H, W) in [0, 1].
        radius: largest change of a pixel value, > 0.
        steps: of the ascent, ≥ 1.
        generator: CPU generator.

    Returns:
        (B, 3, H, W) in [0, 1], without a graph.
    """
    drawn = torch.rand(images.shape, generator=generator).to(images)
    side = torch.randint(2, (len(images), 1, 1, 1), generator=generator).to(images) * 2 - 1
    low, high = (images - radius).clamp(0, 1), (images + radius).clamp(0, 1)
    found = torch.lerp(low, high, drawn)
    for _ in range(steps):
        found.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(rate(found).sum(), found)
        found = found.detach() + 2 * radius / steps * side * slope.sign()
        found = torch.min(torch.max(found, low), high)
    return found.detach()
