"""Statistics of natural scenes: by hand on patterns, by property, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from zoomiqa_core.alarm.statistics import (
    COUNT,
    FAINT,
    LAGS,
    bands,
    contrast,
    local_contrast,
    periodicity,
    statistics,
    structure,
    tone,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_luma(luma: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W): a luma without colour."""
    return functional.pad(luma, (0, 0, 0, 0, 0, 2))


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (64, 64), (97, 130)])
def test_any_size_gives_finite_statistics(size):
    found = statistics(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (2, COUNT) and bool(found.isfinite().all())


def test_bands_of_white_noise_are_all_as_strong_and_gaussian():
    found = bands(of_luma(0.1 * noise(1, 1, 512, 512)))[0]
    # RMS .1; mean magnitude of a Gaussian √(2/π) of it; geometric mean √(½) · e^(−γ/2) of it
    expected = [0.1, 0.1 * math.sqrt(2 / math.pi), 0.1 * math.sqrt(0.5) * math.exp(-0.5772 / 2)]
    at = 0
    for name in ("across", "down", "diagonal", "antidiagonal", "checkered", "laplacian"):
        step = 3 if name in ("across", "down", "checkered", "laplacian") else 1
        norms = found[at : at + 3 * step : step].exp()
        assert norms.tolist() == pytest.approx(expected, rel=0.03), name
        at += 3 * step + (2 if step == 3 else 0)


def test_a_checkerboard_by_hand():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    board = of_luma((0.5 + 0.1 * (-1.0) ** (x + y)).view(1, 1, 64, 64))
    found = bands(board)[0]
    # a step across is .2 over the filter's norm √2; diagonal neighbours are equal: FAINT is left
    assert found[0].exp().item() == pytest.approx(0.2 / math.sqrt(2), rel=1e-3)
    assert found[22].exp().item() == pytest.approx(FAINT, rel=1e-3)
    mean, logs = local_contrast(board)
    apart = structure(board[:, :1] - mean[:, :1], logs)[0]
    correlations = dict(zip(LAGS, apart[[4, 6, 8, 10, 12, 13, 14, 15]].tolist(), strict=True))
    for (down, right), value in correlations.items():
        assert value == pytest.approx((-1) ** (down + right), abs=0.05)
    assert apart[16] > -0.1  # all of it is the same in every second pixel


def test_local_contrast_by_hand():
    stripes = torch.tensor([0.4, 0.6]).repeat(32).expand(1, 3, 64, 64)
    _, logs = local_contrast(of_luma(stripes[:, :1]))
    inside = (..., slice(3, -3), slice(3, -3))
    # seven columns hold three of one and four of the other: variance .01 · (1 − 1/49)
    assert logs[:, :1][inside].exp().unique().mean().item() == pytest.approx(
        0.1 * math.sqrt(48 / 49), rel=1e-3
    )
    found = contrast(logs)[0]
    assert found[-1] > 0.7 and found[-2] < 0.35  # below .16, not below .08


def test_periodicity_sees_blocks_wherever_they_begin():
    image = of_luma(0.02 * noise(1, 1, 96, 96))
    blocks = functional.interpolate(noise(1, 1, 12, 12, seed=1), scale_factor=8.0) * 0.1
    plain = periodicity(image)[0, 0]
    for shift in (0, 3):
        found = periodicity(image + of_luma(blocks.roll(shift, -1)))[0, 0]
        assert found > plain + 1


def test_tone_by_hand():
    image = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    found = tone(image, torch.zeros(1, 3, 32, 32))[0]
    assert found[11].item() == pytest.approx(0.4)  # saturation, largest less smallest
    assert found[9].item() < 1e-3 and found[10].item() < 1e-3  # neither black nor white
    assert tone(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))[0, 9] > 0.8


def test_mirroring_changes_nothing_but_directions_and_shifts():
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    upright, mirrored = statistics(image), statistics(image.flip(-1))
    same = torch.isclose(upright, mirrored, atol=1e-3)[0]
    assert float(same.float().mean()) > 0.6


def test_gradient_equals_a_finite_difference():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 64, 64, generator=generator).double().requires_grad_()
    direction = torch.randn(image.shape, generator=generator).double()
    weights = torch.randn(COUNT, generator=generator).double()
    (slope,) = torch.autograd.grad((statistics(image) * weights).sum(), image)
    step = 1e-7
    with torch.no_grad():
        ahead, behind = (
            (statistics(image + s * step * direction) * weights).sum() for s in (1, -1)
        )
    expected = float((ahead - behind) / (2 * step))
    assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4)


def test_a_flat_image_has_a_finite_gradient():
    flat = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    statistics(flat).sum().backward()
    assert flat.grad is not None and bool(flat.grad.isfinite().all())
