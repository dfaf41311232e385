"""Fidelity: exact figures by hand, a reference implementation, gradients, rejection."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from restoration_guide.fidelity import (
    PSNR_CAP_DB,
    TERMS,
    Fidelity,
    FidelityLimits,
    degrade_and_compare,
    low_pass_distance,
    measure_fidelity,
)

TERM_FUNCTIONS = (low_pass_distance, degrade_and_compare)


def test_constant_shift_by_hand() -> None:
    # A shift of 0.1 is all low frequency: RMS 0.1, and −10 · log10(0.1²) = 20 dB.
    degraded = torch.full((2, 3, 20, 28), 0.5)
    candidate = degraded.clone()
    candidate[1] += 0.1
    assert low_pass_distance(candidate, degraded).tolist() == pytest.approx([0.0, 0.1], abs=1e-6)
    assert degrade_and_compare(candidate, degraded).tolist() == pytest.approx(
        [PSNR_CAP_DB, 20.0], abs=1e-4
    )


def test_coarse_cells_by_hand() -> None:
    # Without blur and with cells of 2: one pixel off by 0.4 makes its cell 0.1 off. Of the 2 × 2
    # cells of 3 channels one in 12 is: MSE = 0.01 / 12, so 30.79 dB.
    degraded = torch.zeros(1, 3, 4, 4)
    candidate = degraded.clone()
    candidate[0, 1, 2, 3] = 0.4
    value = degrade_and_compare(candidate, degraded, factor=2, sigma=0)
    assert value.item() == pytest.approx(-10 * math.log10(0.01 / 12), abs=1e-4)


def test_partial_cells_average_the_pixels_they_have() -> None:
    shift = torch.full((1, 3, 5, 7), 0.1)
    value = degrade_and_compare(shift, torch.zeros_like(shift), factor=4)
    assert value.item() == pytest.approx(20.0, abs=1e-4)


def test_low_pass_agrees_with_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(2, 3, 40, 33, generator=generator, dtype=torch.float64)
    difference = (pair[0] - pair[1]).numpy()
    # radius 9 = ⌈3 · 3⌉ as ours; scipy calls replicated borders "nearest"
    blurred = gaussian_filter(difference, sigma=(0, 3, 3), mode="nearest", radius=(0, 9, 9))
    expected = float((blurred**2).mean() ** 0.5)
    assert low_pass_distance(pair[:1], pair[1:]).item() == pytest.approx(expected, rel=1e-9)


def test_detail_is_free_and_structure_is_not() -> None:
    generator = torch.Generator().manual_seed(1)
    degraded = torch.full((1, 3, 64, 64), 0.5)
    noise = degraded + 0.1 * torch.randn(degraded.shape, generator=generator)
    ramp = degraded + torch.linspace(-0.17, 0.17, 64)  # RMS 0.1 as well
    limits = FidelityLimits()
    assert measure_fidelity(noise, degraded)[0].is_faithful(limits)
    assert not measure_fidelity(ramp, degraded)[0].is_faithful(limits)


@pytest.mark.parametrize("term", TERM_FUNCTIONS)
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (1, 50), (33, 47)])
def test_any_size_and_every_gradient(term, size) -> None:
    generator = torch.Generator().manual_seed(2)
    candidate = torch.rand(2, 3, *size, generator=generator).requires_grad_()
    value = term(candidate, torch.full((2, 3, *size), 0.5))
    assert value.shape == (2,) and value.isfinite().all()
    (gradient,) = torch.autograd.grad(value.sum(), candidate)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("term", TERM_FUNCTIONS)
def test_gradient_at_identity_is_finite(term) -> None:
    image = torch.full((1, 3, 16, 16), 0.5)
    candidate = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(candidate, image).sum(), candidate)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("term", TERM_FUNCTIONS)
def test_batch_does_not_matter(term) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 4, 3, 24, 24, generator=generator).unbind()
    alone = torch.cat([term(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    assert term(a, b).tolist() == pytest.approx(alone.tolist(), rel=1e-5)


def test_one_input_for_many_candidates() -> None:
    candidates = torch.stack([torch.full((3, 16, 16), value) for value in (0.5, 0.6)])
    first, second = measure_fidelity(candidates, torch.full((1, 3, 16, 16), 0.5))
    assert first == Fidelity(0.0, PSNR_CAP_DB)
    assert second.low_pass_distance == pytest.approx(0.1, abs=1e-6)


def test_limits_in_words() -> None:
    limits = FidelityLimits(max_low_pass_distance=0.04, min_degraded_psnr=24)
    assert Fidelity(0.04, 24.0).is_faithful(limits)
    assert Fidelity(0.05, 30.0).violations(limits) == ("low_pass_distance 0.0500 > 0.04",)
    assert Fidelity(0.01, 20.0).violations(limits) == ("degraded_psnr 20.00 dB < 24 dB",)
    assert len(Fidelity(math.nan, math.nan).violations(limits)) == 2
    off = FidelityLimits(max_low_pass_distance=math.inf, min_degraded_psnr=-math.inf)
    assert Fidelity(1.0, 0.0).is_faithful(off)


def test_every_term_has_a_unit() -> None:
    assert set(TERMS) == set(Fidelity(0.0, 0.0).to_dict())


@pytest.mark.parametrize("term", TERM_FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 8, 9)])
def test_wrong_shapes_teach(term, shape) -> None:
    with pytest.raises(ValueError, match=r"two batches \(B, 3, H, W\) of one shape"):
        term(torch.zeros(shape), torch.zeros(1, 3, 8, 8))


def test_wrong_settings_teach() -> None:
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="sigma is a standard deviation"):
        low_pass_distance(image, image, sigma=-1)
    with pytest.raises(ValueError, match="factor is the side"):
        degrade_and_compare(image, image, factor=0)
    with pytest.raises(ValueError, match="distance ≥ 0"):
        FidelityLimits(max_low_pass_distance=-0.1)
    with pytest.raises(ValueError, match="not NaN"):
        FidelityLimits(min_degraded_psnr=math.nan)
