"""Restoration degradations: severity, seeds, grids and rejections."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoomiqa_core.data.damage.restoration import (
    PRESETS,
    RestorationDegradation,
    Stage,
    chain,
    degrade,
    gaussian_kernel,
    resolve,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo_like(count: int, height: int, width: int) -> Tensor:
    """Smooth colour fields with edges and a little texture."""
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None, :]
    phases = torch.rand(count, 3, 1, 1, generator=generator(5)) * 6
    waves = 0.5 + 0.25 * torch.sin(9 * x + phases) * torch.cos(7 * y + phases)
    edges = 0.2 * torch.sign(torch.sin(25 * (x + 0.6 * y) + phases))
    return (waves + edges).clamp(0, 1)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_keeps_grid_and_8_bit_range(name: str) -> None:
    clean = photo_like(3, 40, 56)
    result = degrade(clean, name, generator=generator())
    assert result.images.shape == clean.shape
    assert result.images.dtype == clean.dtype
    assert float(result.images.min()) >= 0.0 and float(result.images.max()) <= 1.0
    levels = result.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert len(result.settings) == 3
    assert not torch.equal(result.images, clean)


def test_same_seed_same_bytes_and_other_seed_differs() -> None:
    clean = photo_like(2, 48, 48)
    first = degrade(clean, "mixed", generator=generator(3))
    again = degrade(clean, "mixed", generator=generator(3))
    other = degrade(clean, "mixed", generator=generator(4))
    assert torch.equal(first.images, again.images)
    assert first.settings == again.settings
    assert not torch.equal(first.images, other.images)


def test_batch_equals_one_by_one_on_a_shared_generator() -> None:
    clean = photo_like(3, 32, 48)
    whole = degrade(clean, "mixed", generator=generator(9)).images
    shared = generator(9)
    parts = [degrade(clean[i : i + 1], "mixed", generator=shared).images for i in range(3)]
    assert torch.equal(whole, torch.cat(parts))


def test_images_of_a_batch_draw_their_own_parameters() -> None:
    result = degrade(photo_like(4, 32, 32), "blur", generator=generator())
    sigmas = {record["stages"][0]["blur"]["sigma_x"] for record in result.settings}
    assert len(sigmas) == 4


def test_mixed_holds_noise_or_jpeg_in_most_draws() -> None:
    result = degrade(photo_like(40, 16, 16), "mixed", generator=generator())
    kinds = [{kind for stage in r["stages"] for kind in stage} for r in result.settings]
    assert sum("noise" in k for k in kinds) >= 28
    assert sum("jpeg" in k for k in kinds) >= 28


def test_gaussian_noise_has_the_stated_deviation() -> None:
    stage = Stage(
        noise_probability=1.0,
        gaussian_sigma=(10.0, 10.0),
        poisson_probability=0.0,
        grey_probability=0.0,
    )
    grey = torch.full((1, 3, 200, 200), 0.5)
    result = degrade(grey, RestorationDegradation((stage,)), generator=generator())
    # sqrt(10² + 1/12): the rounding to 8 bits adds a uniform error of variance 1/12
    assert float(result.images.std() * 255) == pytest.approx(math.sqrt(100 + 1 / 12), rel=0.01)
    assert float(result.images.mean()) == pytest.approx(0.5, abs=5e-4)


def test_poisson_noise_variance_is_signal_over_photons() -> None:
    stage = Stage(
        noise_probability=1.0,
        poisson_scale=(2.0, 2.0),
        poisson_probability=1.0,
        grey_probability=0.0,
    )
    grey = torch.full((1, 3, 200, 200), 0.25)
    result = degrade(grey, RestorationDegradation((stage,)), generator=generator())
    photons = 256 / 2.0**2  # 64
    assert float(result.images.var()) == pytest.approx(0.25 / photons, rel=0.03)


def test_grey_noise_shifts_all_channels_together() -> None:
    stage = Stage(noise_probability=1.0, grey_probability=1.0, poisson_probability=0.0)
    result = degrade(
        torch.full((1, 3, 32, 32), 0.5), RestorationDegradation((stage,)), generator=generator()
    )
    red, green, blue = result.images[0]
    assert torch.equal(red, green) and torch.equal(green, blue)
    assert float(red.std()) > 0


def test_kernel_by_hand_and_by_symmetry() -> None:
    kernel = gaussian_kernel(1.0, 1.0, 0.3)
    assert kernel.shape == (7, 7)
    assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-6)
    # centre to neighbour: exp(-0.5 * 1²) = 0.6065; a round kernel ignores its angle
    assert float(kernel[3, 4] / kernel[3, 3]) == pytest.approx(math.exp(-0.5), rel=1e-5)
    turned = gaussian_kernel(2.0, 0.5, math.pi / 2)
    torch.testing.assert_close(turned, gaussian_kernel(0.5, 2.0, 0.0), atol=1e-6, rtol=1e-4)


def test_blur_against_kornia_reference() -> None:
    from kornia.filters import gaussian_blur2d

    stage = Stage(blur_probability=1.0, blur_sigma=(1.5, 1.5), anisotropic_probability=0.0)
    clean = photo_like(1, 40, 40)
    result = degrade(clean, RestorationDegradation((stage,)), generator=generator())
    expected = gaussian_blur2d(clean, (11, 11), (1.5, 1.5), "reflect")
    torch.testing.assert_close(result.images, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_no_stage_active_is_the_8_bit_identity() -> None:
    clean = (photo_like(1, 32, 32) * 255).round() / 255
    result = degrade(clean, RestorationDegradation(), generator=generator())
    torch.testing.assert_close(result.images, clean, atol=1e-6, rtol=0)
    assert result.settings == [{"stages": [{}]}]


def test_lower_jpeg_quality_and_stronger_blur_hurt_more() -> None:
    clean = photo_like(4, 64, 64)

    def error(stage: Stage) -> float:
        images = degrade(clean, RestorationDegradation((stage,)), generator=generator()).images
        return float((images - clean).square().mean())

    jpeg = [error(Stage(jpeg_probability=1.0, jpeg_quality=(q, q))) for q in (90, 50, 10)]
    blur = [error(Stage(blur_probability=1.0, blur_sigma=(s, s))) for s in (0.5, 1.0, 2.0)]
    assert jpeg == sorted(jpeg) and blur == sorted(blur)


def test_chain_keeps_order_and_accepts_configurations() -> None:
    chained = chain(["blur", PRESETS["noise_jpeg"]])
    assert chained.stages == PRESETS["blur"].stages + PRESETS["noise_jpeg"].stages
    clean = photo_like(1, 32, 32)
    record = degrade(clean, chained, generator=generator()).settings[0]["stages"]
    assert set(record[0]) == {"blur"} and set(record[1]) == {"noise", "jpeg"}


def test_double_input_keeps_its_dtype_and_carries_no_gradient() -> None:
    clean = photo_like(1, 16, 17).double().requires_grad_()
    result = degrade(clean, "mixed", generator=generator())
    assert result.images.dtype == torch.float64
    assert not result.images.requires_grad


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    degrade(photo_like(2, 32, 32), "mixed", generator=generator())
    assert torch.equal(before, torch.get_rng_state())


def test_rejections_name_the_fix() -> None:
    clean = photo_like(1, 32, 32)
    with pytest.raises(ValueError, match="Choose one of mixed"):
        degrade(clean, "x3", generator=generator())
    with pytest.raises(ValueError, match=r"Expected images \(B, 3, H, W\)"):
        degrade(clean[0], generator=generator())
    with pytest.raises(TypeError, match="divide by 255"):
        degrade((clean * 255).byte(), generator=generator())
    with pytest.raises(ValueError, match="at least 16 px"):
        degrade(clean[..., :8], generator=generator())
    with pytest.raises(ValueError, match=r"blur_probability must lie in \[0, 1\]"):
        Stage(blur_probability=1.5)
    with pytest.raises(ValueError, match="low <= high"):
        Stage(jpeg_quality=(80, 20))
    with pytest.raises(ValueError, match="at least one degradation"):
        chain([])
    with pytest.raises(ValueError, match="at least one Stage"):
        RestorationDegradation(())
    assert resolve("mixed") is PRESETS["mixed"]
