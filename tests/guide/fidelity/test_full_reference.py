"""Figures against the clean image, those of learned distances included."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from restoration_guide.fidelity import full_reference
from restoration_guide.fidelity.full_reference import LearnedMetricError, reference_figures


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    """No learned distance is loaded, and no backbone was ever downloaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    full_reference._learned.cache_clear()
    yield
    full_reference._learned.cache_clear()


def test_figures_by_hand() -> None:
    # Flat images: PSNR −10 log10(.1²) = 20 dB, SSIM (2 a b + c) / (a² + b² + c) with c = 1e-4.
    dark, light = torch.full((3, 16, 20), 0.4), torch.full((3, 16, 20), 0.5)
    figures = reference_figures(dark, light)
    assert figures.psnr == pytest.approx(20, abs=1e-4)
    assert figures.ssim == pytest.approx((0.4 + 1e-4) / (0.16 + 0.25 + 1e-4), abs=1e-4)
    assert figures.ms_ssim is None and figures.lpips is None and figures.dists is None


def test_sides_that_are_too_small_have_no_figure() -> None:
    image = torch.rand(3, 10, 300, generator=torch.Generator().manual_seed(0))
    assert reference_figures(image, image).ssim is None
    large = torch.rand(3, 176, 176, generator=torch.Generator().manual_seed(0))
    assert reference_figures(large, large).ms_ssim == pytest.approx(1, abs=1e-5)


SLOW = pytest.mark.slow  # it draws the weights of a VGG-16 before it asks for the trained ones


@pytest.mark.parametrize("name", ["lpips", pytest.param("dists", marks=SLOW)])
def test_a_backbone_that_cannot_be_had_teaches(fresh, name) -> None:
    image = torch.zeros(3, 64, 64)
    with pytest.raises(LearnedMetricError, match=f"{name} needs a backbone.*checkpoints"):
        reference_figures(image, image, learned=[name])


def test_lpips_with_a_backbone(fresh, monkeypatch) -> None:
    import torchvision.models

    make: Callable[..., torch.nn.Module] = torchvision.models.alexnet
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: make(weights=None))
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 64, 64, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    distances = [
        reference_figures((clean + s * noise).clamp(0, 1), clean, learned=["lpips"]).lpips
        for s in (0.0, 0.1, 0.3)
    ]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert 0 < (distances[1] or math.nan) < (distances[2] or math.nan)


def test_every_figure_has_a_unit() -> None:
    image = torch.zeros(3, 16, 16)
    assert list(full_reference.UNITS) == list(vars(reference_figures(image, image)))
