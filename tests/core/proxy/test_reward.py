"""The reward mode: by hand, its gradient, its views."""

from __future__ import annotations

import math

import pytest
import torch

from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy, lower_bound
from zoomiqa_core.proxy.views import ViewConfig, random_views


@pytest.fixture(scope="module")
def proxy() -> QualityProxy:
    return QualityProxy.from_pretrained().requires_grad_(False)


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 96, 80, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_bound_by_hand():
    # ratings 3 and 4, own deviations 0.3 and 0.4: mean 3.5, own variance 0.125, between 0.25
    nothing = torch.zeros(1, 1, 1, 1)
    outs = [
        ProxyOutput(torch.tensor([r]), torch.tensor([s]), nothing, nothing, nothing)
        for r, s in ((3.0, 0.3), (4.0, 0.4))
    ]
    assert lower_bound(outs, 2.0).item() == pytest.approx(3.5 - 2 * math.sqrt(0.375))


def test_without_views_it_is_the_lower_bound_of_the_rating(proxy):
    batch = images()
    out = proxy(batch)
    found = proxy.reward(batch, generator=generator(), views=ViewConfig(count=0), k=1.0)
    assert torch.allclose(found, out.rating - out.rating_std)


def test_its_gradient_reaches_the_pixels_and_the_generator_decides(proxy):
    batch = images().requires_grad_()
    found = proxy.reward(batch, generator=generator())
    (slope,) = torch.autograd.grad(found.sum(), batch)
    assert slope.isfinite().all() and slope.flatten(1).abs().sum(1).min() > 0
    again, other = (proxy.reward(batch, generator=generator(seed)) for seed in (0, 1))
    assert torch.equal(found, again) and not torch.equal(found, other)


def test_under_bf16_its_gradient_stays_finite(proxy):
    batch = images().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = proxy.reward(batch, generator=generator())
    assert found.dtype == torch.float32
    (slope,) = torch.autograd.grad(found.sum(), batch)
    assert slope.isfinite().all() and slope.abs().sum() > 0


def test_views_show_what_their_ranges_say():
    batch = images()
    same = ViewConfig(count=3, crop=(1.0, 1.0), scale=(1.0, 1.0))
    for view in random_views(batch, same, generator()):
        assert torch.equal(view, batch) or torch.equal(view, batch.flip(-1))
    for view in random_views(batch, ViewConfig(count=8), generator()):
        assert view.shape[:2] == batch.shape[:2] and min(view.shape[-2:]) >= 64
    with pytest.raises(ValueError, match="count"):
        ViewConfig(count=-1)
    with pytest.raises(ValueError, match="crop"):
        ViewConfig(crop=(0.5, 1.2))
