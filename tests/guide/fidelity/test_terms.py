"""Fidelity: exact figures by hand, a reference implementation, gradients, rejection."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from restoration_guide.fidelity.full_reference import PSNR_CAP_DB
from restoration_guide.fidelity.measure import TERMS, Fidelity, FidelityLimits, measure_fidelity
from restoration_guide.fidelity.terms import (
    colour_drift,
    degrade_and_compare,
    explained_psnr,
    ll_distance,
    low_pass_distance,
    structure,
)

TERM_FUNCTIONS = (
    low_pass_distance,
    degrade_and_compare,
    explained_psnr,
    ll_distance,
    structure,
    colour_drift,
)


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


def test_the_right_blur_explains_the_input() -> None:
    generator = torch.Generator().manual_seed(4)
    sharp = torch.rand(1, 3, 48, 40, generator=generator)
    blurred = torch.from_numpy(gaussian_filter(sharp.numpy(), (0, 0, 1.5, 1.5), mode="nearest"))
    # scipy's kernel reaches 6 px, ours 5: far above what any other blur explains
    assert explained_psnr(sharp, blurred).item() > 45
    assert explained_psnr(sharp, blurred, sigma=1.5).item() > 45
    assert explained_psnr(sharp, blurred, sigma=0.5).item() < 25
    assert explained_psnr(sharp.flip(-1), blurred).item() < 30


def test_haar_low_band_by_hand() -> None:
    # One level: means of 2 × 2 blocks. The pixel off by .4 makes one of 4 · 3 means .1 off.
    degraded = torch.zeros(1, 3, 4, 4)
    candidate = degraded.clone()
    candidate[0, 1, 2, 3] = 0.4
    assert ll_distance(candidate, degraded, level=1).item() == pytest.approx(0.1 / math.sqrt(12))
    assert ll_distance(candidate, degraded, level=0).item() == pytest.approx(0.4 / math.sqrt(48))


def test_structure_by_hand() -> None:
    # Flat images have no contrast: SSIM is (2 a b + c) / (a² + b² + c), c = .01².
    a, b = torch.full((1, 3, 64, 64), 0.4), torch.full((1, 3, 64, 64), 0.6)
    expected = (2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4)
    assert structure(a, b).item() == pytest.approx(expected, abs=1e-3)


def test_colour_drift_by_hand() -> None:
    # Grey has a* = b* = 0; of pure blue they are 79.2 and −107.9 (CIELAB, D65).
    grey = torch.full((1, 3, 20, 20), 0.5)
    assert colour_drift(grey, grey + 0.2).item() == pytest.approx(0, abs=0.05)
    blue = torch.zeros_like(grey)
    blue[:, 2] = 1
    expected = math.sqrt((79.2**2 + 107.9**2) / 2)
    assert colour_drift(grey, blue).item() == pytest.approx(expected, abs=0.3)


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
    noise = degraded + 0.1 * torch.randn(1, 1, 64, 64, generator=generator)
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
    assert gradient.abs().max() <= 1e-6


@pytest.mark.parametrize("term", TERM_FUNCTIONS)
def test_batch_does_not_matter(term) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 4, 3, 24, 24, generator=generator).unbind()
    alone = torch.cat([term(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    assert term(a, b).tolist() == pytest.approx(alone.tolist(), rel=1e-5)


def test_one_input_for_many_candidates() -> None:
    candidates = torch.stack([torch.full((3, 16, 16), value) for value in (0.5, 0.6)])
    first, second = measure_fidelity(candidates, torch.full((1, 3, 16, 16), 0.5), terms=TERMS)
    assert first == Fidelity(0.0, PSNR_CAP_DB, PSNR_CAP_DB, 0.0, 1.0, 0.0, 0.0)
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
    assert list(TERMS) == list(Fidelity(0.0, 0.0).to_dict())


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
    with pytest.raises(ValueError, match="factor is the side"):
        structure(image, image, factor=0)
    with pytest.raises(ValueError, match="level is the depth"):
        ll_distance(image, image, level=-1)
    with pytest.raises(ValueError, match="distance ≥ 0"):
        FidelityLimits(max_low_pass_distance=-0.1)
    with pytest.raises(ValueError, match="not NaN"):
        FidelityLimits(min_degraded_psnr=math.nan)
