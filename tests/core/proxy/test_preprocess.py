"""Preparation for the backbone: sizes, borders, gradients."""

from __future__ import annotations

import pytest
import torch

from zoomiqa_core.proxy.preprocess import coverage, fit, pad


def test_fit_leaves_small_images_untouched_and_shrinks_large_ones_keeping_aspect():
    small = torch.rand(1, 3, 10, 20)
    assert fit(small, 200) is small
    assert fit(torch.rand(1, 3, 400, 100), 10_000).shape[-2:] == (200, 50)


def test_fit_gives_every_pixel_a_gradient():
    image = torch.rand(1, 3, 90, 70, requires_grad=True)
    fit(image, 400).sum().backward()
    assert bool((image.grad > 0).all())


def test_fit_never_empties_a_side():
    assert fit(torch.rand(1, 3, 1, 10_000), 100).shape[-2:] == (1, 1000)


@pytest.mark.parametrize(
    ("size", "padded"), [((1, 1), (64, 64)), ((65, 96), (96, 96)), ((64, 64), (64, 64))]
)
def test_pad_aligns_and_repeats_the_border(size, padded):
    image = torch.rand(1, 3, *size)
    out = pad(image)
    assert out.shape[-2:] == padded
    torch.testing.assert_close(out[..., : size[0], : size[1]], image)
    torch.testing.assert_close(out[..., -1, -1], image[..., -1, -1])


def test_coverage_by_hand():
    # 24 px: one whole cell, half of another, one of padding; 16 px: one whole cell
    found = coverage(24, 16, torch.tensor([0, 16, 32]), torch.tensor([0]))
    assert found[0, 0].tolist() == [[1.0], [0.5], [0.0]]
