"""Attacks of training: inside their ball, in both directions, and stronger than chance."""

from __future__ import annotations

import torch

from zoomiqa_core.proxy.adversarial import perturb
from zoomiqa_core.proxy.model import QualityProxy


def attacked(images: torch.Tensor, seed: int, steps: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return perturb(
        lambda batch: batch.sum((1, 2, 3)), images, radius=0.1, steps=steps, generator=generator
    )


def test_a_linear_rating_is_driven_to_the_corner_of_the_ball_on_either_side():
    # from anywhere within ±.1, two steps of .1 to one side end in that side's corner
    images = torch.full((8, 3, 4, 4), 0.5)
    found = attacked(images, 0)
    change = found - images
    assert float(change.abs().max()) <= 0.1 + 1e-6
    up = change.mean((1, 2, 3)) > 0
    assert 0 < int(up.sum()) < 8  # some are driven up, some down
    assert bool((change[up] >= 0.1 - 1e-6).all() and (change[~up] <= -0.1 + 1e-6).all())


def test_pixels_stay_in_range_and_the_generator_decides():
    images = torch.tensor([0.0, 1.0]).repeat(8).view(16, 1, 1, 1).expand(16, 3, 4, 4)
    found = attacked(images, 3)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert torch.equal(found, attacked(images, 3))
    assert not torch.equal(found, attacked(images, 4))


def test_it_moves_a_proxy_more_than_noise_and_leaves_no_gradient_behind():
    torch.manual_seed(0)
    proxy = QualityProxy(width=8)
    images = torch.rand(4, 3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    radius = 2 / 255
    found = perturb(
        lambda batch: proxy(batch).rating, images, radius=radius, steps=2, generator=generator
    )
    noise = (images + radius * (2 * torch.rand(images.shape) - 1).sign()).clamp(0, 1)
    with torch.no_grad():
        start = proxy(images).rating
        moved = (proxy(found).rating - start).abs()
        by_noise = (proxy(noise).rating - start).abs()
    assert float(moved.mean()) > 2 * float(by_noise.mean())
    assert not found.requires_grad
    assert all(p.grad is None for p in proxy.parameters())
