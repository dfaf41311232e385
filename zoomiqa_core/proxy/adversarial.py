"""Adversarial perturbations: small changes of an image that change its rating most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoomiqa_core.proxy.losses import regression_loss
from zoomiqa_core.proxy.model import QualityProxy


@dataclass(frozen=True)
class AdversarialConfig:
    """Adversarial training: how many images are perturbed, how much, and the loss's weight.

    >>> AdversarialConfig(images=2)
    AdversarialConfig(weight=0.5, images=2, radius=(0.5, 2.0), steps=3)
    """

    weight: float = 0.5
    """Weight of the loss; 0 is off."""
    images: int = 3
    """Images of each step's batch that are perturbed, at their size: a proxy that was attacked on
    crops of another size learned to rate all images of that size alike."""
    radius: tuple[float, float] = (0.5, 2.0)
    """Range of the largest change of a pixel value, in 255ths."""
    steps: int = 3
    """Steps of gradient ascent."""


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


def attacked_loss(
    proxy: QualityProxy, images: Tensor, config: AdversarialConfig, generator: torch.Generator
) -> Tensor:
    """How far attacks move the ratings of a few images (smooth L1, β = 0.25 rating units).

    In fp32: bf16 would round changes of a 255th away.

    >>> proxy, generator = QualityProxy(), torch.Generator().manual_seed(0)
    >>> loss = attacked_loss(proxy, torch.rand(4, 3, 64, 64), AdversarialConfig(), generator)
    >>> loss.shape, loss.requires_grad
    (torch.Size([]), True)

    Args:
        proxy: in training mode.
        images: (B, 3, H, W) in [0, 1].
        config: of the attacks.
        generator: CPU generator.
    """
    share = float(torch.rand((), generator=generator))
    chosen = images[torch.randperm(len(images), generator=generator)[: config.images]]
    low, high = config.radius
    proxy.eval()  # without dropout
    attacked = perturb(
        lambda batch: proxy(batch).rating,
        chosen,
        radius=(low + (high - low) * share) / 255,
        steps=config.steps,
        generator=generator,
    )
    ratings = proxy(torch.cat([chosen, attacked])).rating
    proxy.train()
    return regression_loss(ratings[len(chosen) :], ratings[: len(chosen)].detach())
