"""Measured hints: by hand, against scikit-image, by property."""

from __future__ import annotations

import math

import pytest
import torch

from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.data.gr_iqa.hints import (
    blockiness,
    blur_effect,
    colourfulness,
    measure_hints,
    noise_deviation,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(size: int = 128) -> torch.Tensor:
    """A smooth picture with edges, (3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    waves = 0.5 + 0.2 * torch.sin(9 * x + 4 * y) + 0.2 * ((5 * x + 2 * y).floor() % 2)
    return torch.stack((waves, 0.8 * waves, 0.5 + 0.3 * waves)).clamp(0, 1)


def test_brightness_and_contrast_by_hand() -> None:
    # Left half black, right half pure green: luma 0 and .587, mean .2935, deviation .2935.
    image = torch.zeros(3, 32, 32)
    image[1, :, 16:] = 1
    hints = measure_hints(image)
    assert hints.brightness == pytest.approx(0.2935, abs=1e-6)
    assert hints.contrast == pytest.approx(0.2935, abs=1e-6)


def test_colourfulness_by_hand() -> None:
    # Half red, half grey (.5): rg is 255 and 0, yb is 127.5 and 0, so σ = 127.5 and 63.75 = µ;
    # √(127.5² + 63.75²) · 1.3 = 142.5493… · 1.3.
    image = torch.full((3, 4, 4), 0.5)
    image[:, :, 2:] = torch.tensor([1.0, 0, 0])[:, None, None]
    assert colourfulness(image) == pytest.approx(1.3 * math.hypot(127.5, 63.75), rel=1e-6)
    assert colourfulness(torch.full((3, 4, 4), 0.3)) == pytest.approx(0, abs=1e-6)


def test_noise_by_hand_and_on_known_noise() -> None:
    # One pixel of 36 in black: |I ∗ N| around it is 36 · (1 + 2 + 1 + 2 + 4 + 2 + 1 + 2 + 1) = 576
    # over the 16² places of 18² pixels: √(π/2) · 576/256 / 6.
    luma = torch.zeros(18, 18)
    luma[9, 9] = 36.0
    assert noise_deviation(luma) == pytest.approx(math.sqrt(math.pi / 2) * 576 / 256 / 6, rel=1e-5)
    smooth = torch.linspace(0.2, 0.8, 256).expand(256, 256)
    for sigma in (0.01, 0.05):
        noisy = smooth + sigma * torch.randn(256, 256, generator=seeded())
        assert noise_deviation(noisy) == pytest.approx(sigma, rel=0.12)
    assert noise_deviation(smooth) < 1e-6


def test_blockiness_by_hand_wherever_the_grid_lies() -> None:
    # Along a row the value rises by 1, and by 3 at every eighth step: 3 / 1. Columns likewise.
    steps = torch.ones(63)
    steps[7::8] = 3.0
    ramp = torch.cat((torch.zeros(1), steps.cumsum(0)))
    plane = ramp[:, None] + ramp[None, :]
    assert blockiness(plane) == pytest.approx(3.0)
    assert blockiness(plane[3:, 5:]) == pytest.approx(3.0)
    assert blockiness(torch.full((32, 32), 0.4)) == 1.0


def test_blur_equals_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure")
    images = [torch.rand(40, 56, generator=seeded()), scene().mean(0)]
    images.append(distort(scene()[None], "gaussian_blur", 4, generator=seeded())[0, 0])
    for luma in images:
        assert blur_effect(luma) == pytest.approx(measure.blur_effect(luma.numpy()), abs=1e-5)
    assert blur_effect(torch.full((30, 30), 0.5)) == 1.0


@pytest.mark.parametrize(
    ("name", "hint", "sign"),
    [
        ("gaussian_blur", "blur", 1),
        ("white_noise", "noise", 1),
        ("jpeg", "blockiness", 1),
        ("darken", "brightness", -1),
        ("brighten", "brightness", 1),
        ("hsv_saturation", "colourfulness", -1),
    ],
)
def test_a_hint_follows_its_damage(name: str, hint: str, sign: int) -> None:
    levels = (2, 3, 4)
    found = [
        getattr(measure_hints(distort(scene()[None], name, level, generator=seeded())), hint)
        for level in levels
    ]
    clean = getattr(measure_hints(scene()), hint)
    values = [sign * value for value in (clean, *found)]
    assert values == sorted(values) and values[-1] > values[0]


def test_mirrored_and_turned_pictures_measure_the_same() -> None:
    image = distort(scene()[None], "white_noise", 2, generator=seeded())[0]
    there = measure_hints(image)
    for other in (image.flip(-1), image.transpose(-1, -2), image[None]):
        again = measure_hints(other)
        for name in ("brightness", "contrast", "colourfulness"):
            assert getattr(again, name) == pytest.approx(getattr(there, name), rel=1e-4), name
        assert again.noise == pytest.approx(there.noise, rel=0.02)  # patches lie elsewhere
        assert again.blur == pytest.approx(there.blur, abs=5e-3)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 23, 40), (2, 3, 32, 32)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sides of at least 24 px"):
        measure_hints(torch.rand(shape))
