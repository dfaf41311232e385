"""The attack suite on two tiny images: attacks attack, and stay within their means."""

from __future__ import annotations

import pytest
import torch

from benchmarks import attack_proxy as suite
from zoomiqa_core.proxy.model import QualityProxy


@pytest.fixture(scope="module")
def proxy() -> QualityProxy:
    return QualityProxy.from_pretrained().requires_grad_(False)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1)


def rating(proxy):
    return lambda image: proxy(image).rating


def test_pgd_raises_the_rating_within_its_radius(proxy, image):
    found = suite.projected_gradient(image, rating(proxy), 2 / 255)
    assert (found - image).abs().max() <= 2 / 255 + 1e-6
    assert proxy(found).rating > proxy(image).rating


@pytest.mark.parametrize("name", [n for n in suite.ATTACKS if not n.startswith("PGD")])
def test_every_attack_leaves_an_image_that_differs(proxy, image, name):
    found = suite.ATTACKS[name](image, rating(proxy))
    assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1
    assert not torch.equal(found, image)


def test_the_table_has_both_gains_of_every_attack(proxy, image):
    table = suite.attack_table(proxy, [image, image.flip(-1)], seed=0, names=["PGD 1/255"])
    assert list(table) == ["PGD 1/255"]
    row = table["PGD 1/255"]
    assert row["gain of the rating"].value > 0
    assert row["PSNR to the image, dB"] > 40
    assert set(row) >= {"gain of the reward", "largest rise of the rating"}
