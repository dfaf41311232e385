"""Adversarial perturbations: small changes of an image that change its rating most."""

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
    """Perturb images to raise or lower their ratings: projected gradient steps in the max norm.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018: from a
    random start, steps of 2 · radius / ``steps``. Each image goes up or down, with equal chance.
    Training on the result makes a judge more robust.

    >>> def rate(x):
    ...     return x.mean((1, 2, 3))
    >>> grey = torch.full((1, 3, 8, 8), 0.5)
    >>> attacked = perturb(
    ...     rate, grey, radius=0.1, steps=4, generator=torch.Generator().manual_seed(0)
    ... )
    >>> round(float(rate(attacked)), 3)
    0.4

    Args:
        rate: (B, 3, H, W) → (B,); no gradient is added to its parameters.
        images: (B, 3, H, W) in [0, 1].
        radius: largest change of a pixel value, > 0.
        steps: number of gradient steps, ≥ 1.
        generator: CPU generator.

    Returns:
        (B, 3, H, W) in [0, 1], detached.
    """
    start = torch.rand(images.shape, generator=generator).to(images)
    sign = torch.randint(2, (len(images), 1, 1, 1), generator=generator).to(images) * 2 - 1
    low, high = (images - radius).clamp(0, 1), (images + radius).clamp(0, 1)
    perturbed = torch.lerp(low, high, start)
    for _ in range(steps):
        perturbed.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(rate(perturbed).sum(), perturbed)
        perturbed = perturbed.detach() + 2 * radius / steps * sign * slope.sign()
        perturbed = torch.min(torch.max(perturbed, low), high)
    return perturbed.detach()
