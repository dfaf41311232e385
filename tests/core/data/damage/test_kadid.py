"""KADID's 25 distortions: strengths by hand, against references, by property, by rejection."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.data.damage.distortions import blur, colour, noise, spatial, tone
from zoomiqa_core.data.damage.kadid import (
    DISTORTIONS,
    HELD_OUT,
    LEVELS,
    DistortionError,
    cell_rating,
    distort,
)

NOT_GRADED = {"mean_shift", "contrast_change"}
"""Types whose levels run from one side to the other, mildest in the middle."""

METHODS_MOS = {
    1: (4.61, 4.38, 2.91, 1.87, 1.30),
    2: (3.86, 2.65, 1.76, 1.44, 1.30),
    3: (4.60, 4.10, 2.85, 2.18, 1.67),
    4: (4.50, 2.60, 1.76, 1.61, 1.39),
    5: (4.23, 2.55, 1.92, 1.85, 1.86),
    6: (4.11, 3.97, 3.72, 3.20, 2.42),
    7: (2.75, 2.33, 2.26, 2.24, 2.03),
    8: (4.58, 3.33, 2.65, 1.82, 1.52),
    9: (4.55, 4.20, 3.87, 2.44, 1.39),
    10: (4.34, 4.25, 3.87, 1.95, 1.35),
    11: (3.89, 3.39, 3.05, 2.71, 2.30),
    12: (4.47, 3.68, 3.17, 2.69, 2.38),
    13: (3.58, 2.93, 2.61, 2.31, 2.13),
    14: (4.40, 3.58, 3.08, 2.64, 2.12),
    15: (3.67, 2.73, 2.20, 1.65, 1.47),
    16: (4.51, 4.29, 3.63, 2.70, 1.81),
    17: (4.60, 4.53, 4.23, 3.53, 2.22),
    18: (4.22, 4.52, 4.60, 4.37, 3.90),
    19: (4.42, 4.09, 3.24, 1.85, 1.34),
    20: (4.33, 3.94, 3.77, 3.46, 3.26),
    21: (3.89, 3.10, 2.90, 2.79, 1.50),
    22: (4.17, 3.93, 3.69, 3.37, 2.80),
    23: (2.69, 2.36, 2.30, 2.13, 2.04),
    24: (3.58, 2.64, 2.14, 1.61, 1.34),
    25: (3.42, 3.86, 4.29, 4.14, 3.32),
}
"""Means of KADID-10k's published labels by type and level, over 81 references."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def psnr(a: Tensor, b: Tensor) -> float:
    return -10.0 * math.log10(max(float((a - b).square().mean()), 1e-10))


def colours(*rows: tuple[float, float, float]) -> Tensor:
    """One pixel per colour: (1, 3, 1, N)."""
    return torch.tensor(rows).T[None, :, None, :]


@pytest.fixture(scope="module")
def scene() -> Tensor:
    """A coloured (1, 3, 192, 256) scene: smooth shading, edges and fine texture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 192), torch.linspace(0, 1, 256), indexing="ij")
    shade = torch.stack((0.25 + 0.5 * x, 0.25 + 0.5 * y, 0.7 - 0.4 * x * y))
    disk = ((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.05).float()
    bars = ((x * 24).floor() % 2) * (y > 0.7).float()
    texture = 0.06 * torch.rand(192, 256, generator=seeded(9))
    return (shade + 0.25 * disk * torch.tensor([1.0, -0.6, -0.4]).view(3, 1, 1)
            - 0.2 * bars + texture).clamp(0.02, 0.98)[None]  # fmt: skip


# The table


def test_table_is_complete_and_in_kadid_order() -> None:
    assert [d.number for d in DISTORTIONS.values()] == list(range(1, 26))
    assert all(key == d.name for key, d in DISTORTIONS.items())
    assert all(len(d.levels) == len(d.mean_mos) == 5 for d in DISTORTIONS.values())
    assert {d.number: d.mean_mos for d in DISTORTIONS.values()} == METHODS_MOS
    assert set(HELD_OUT) < set(DISTORTIONS)


def test_an_unchanged_image_has_the_best_mean_of_its_type() -> None:
    """Strength and label must not be paired in different orders."""
    for name in ("mean_shift", "contrast_change"):
        mildest = DISTORTIONS[name].levels.index(0)
        assert max(DISTORTIONS[name].mean_mos) == DISTORTIONS[name].mean_mos[mildest]
    assert cell_rating("mean_shift", 3) == 4.60


# By hand


def test_hsv_saturation_keeps_the_value() -> None:
    # V = .8; .8 + .5 (.4 − .8) = .6; .8 + .5 (.2 − .8) = .5
    result = colour.hsv_saturation(colours((0.8, 0.4, 0.2)), 0.5)
    torch.testing.assert_close(result, colours((0.8, 0.6, 0.5)))
    grey = colour.hsv_saturation(colours((0.8, 0.4, 0.2)), 0.0)
    torch.testing.assert_close(grey, colours((0.8, 0.8, 0.8)))


def test_hsv_saturation_matches_kornia() -> None:
    from kornia.color import hsv_to_rgb, rgb_to_hsv

    image = torch.rand(1, 3, 24, 24, generator=seeded())
    hsv = rgb_to_hsv(image)
    hsv[:, 1] *= 0.4
    torch.testing.assert_close(
        colour.hsv_saturation(image, 0.4), hsv_to_rgb(hsv), atol=1e-5, rtol=0
    )


def test_lab_chroma_of_grey_is_grey_and_one_is_identity(scene: Tensor) -> None:
    grey = torch.full((1, 3, 4, 4), 0.4)
    torch.testing.assert_close(colour.lab_chroma(grey, 9.0), grey, atol=2e-3, rtol=0)
    torch.testing.assert_close(colour.lab_chroma(scene, 1.0), scene, atol=1e-3, rtol=0)


def test_disk_kernel_of_radius_one() -> None:
    # fspecial('disk', 1): centre .3183 (area 1 of π), sides .1453, corners .0251
    kernel = blur.disk_kernel(1.0)
    assert kernel.shape == (3, 3)
    expected = torch.tensor(
        [[0.0251, 0.1453, 0.0251], [0.1453, 0.3183, 0.1453], [0.0251, 0.1453, 0.0251]]
    )
    torch.testing.assert_close(kernel, expected, atol=1e-3, rtol=0)


def test_motion_kernel_along_an_axis_is_a_line() -> None:
    torch.testing.assert_close(blur.motion_kernel(1, 0.7), torch.ones(1, 1))
    # length 4: half-length 1.5; offsets 0, ±1 weigh 1, ±2 weigh 1 − ½; sum 4
    horizontal = blur.motion_kernel(4, 0.0)
    expected = torch.tensor([0.5, 1.0, 1.0, 1.0, 0.5]) / 4
    torch.testing.assert_close(horizontal[2], expected)
    torch.testing.assert_close(horizontal.sum(dim=1), torch.eye(5)[2])
    torch.testing.assert_close(blur.motion_kernel(4, math.pi / 2), horizontal.T)


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_motion_kernel_is_symmetric_and_sums_to_one(angle: float) -> None:
    kernel = blur.motion_kernel(10, angle)
    assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))


def test_gaussian_blur_matches_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    image = torch.rand(1, 1, 40, 50, generator=seeded())
    expected = gaussian_filter(image[0, 0].numpy(), 2.0, mode="nearest", radius=4)
    np.testing.assert_allclose(blur.gaussian_blur(image, 2.0)[0, 0].numpy(), expected, atol=1e-6)


def test_over_sharpening_leaves_a_flat_image() -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(blur.over_sharpen(flat, 12.0), flat, atol=2e-3, rtol=0)


def test_colour_shift_moves_green_down_and_right_at_an_edge() -> None:
    image = torch.zeros(1, 3, 48, 48)
    image[..., 24:, 24:] = 1.0
    shifted = distort(image, "colour_shift", 3, generator=seeded())
    assert torch.equal(shifted[:, 0::2], image[:, 0::2])
    lost = image[:, 1] - shifted[:, 1]
    assert float(lost.sum()) > 0.0 and float(lost.min()) >= 0.0  # the corner moved away
    assert float(lost[:, :20, :20].abs().max()) == 0.0


def test_colour_quantisation_keeps_the_number_of_colours(scene: Tensor) -> None:
    for level, number in zip(LEVELS, DISTORTIONS["colour_quantisation"].levels, strict=True):
        result = distort(scene, "colour_quantisation", level, generator=seeded())
        assert len(result[0].flatten(1).T.unique(dim=0)) <= number
    two = torch.zeros(1, 3, 32, 32)
    two[..., 16:] = torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1)
    torch.testing.assert_close(colour.colour_quantisation(two, 8), two, atol=1e-6, rtol=0)


def test_impulse_noise_replaces_the_stated_share() -> None:
    grey = torch.full((4, 3, 128, 128), 0.5)
    result = distort(grey, "impulse_noise", 5, generator=seeded())
    salt, pepper = (result == 1).float().mean(), (result == 0).float().mean()
    # share .03, half each; n = 196,608, standard deviation √(.015·.985/n) = .00027
    assert float(salt) == pytest.approx(0.015, abs=0.0011)
    assert float(pepper) == pytest.approx(0.015, abs=0.0011)
    assert ((result == 0) | (result == 0.5) | (result == 1)).all()


def test_speckle_is_proportional_to_intensity() -> None:
    image = torch.cat((torch.full((1, 3, 256, 128), 0.2), torch.full((1, 3, 256, 128), 0.6)), 3)
    error = distort(image, "multiplicative_noise", 5, generator=seeded()) - image
    # variance .05·v²: .002 at .2, .018 at .6
    assert float(error[..., :128].var()) == pytest.approx(0.002, rel=0.03)
    assert float(error[..., 128:].var()) == pytest.approx(0.018, rel=0.03)


@pytest.mark.parametrize("level", LEVELS)
def test_white_noise_has_the_psnr_of_its_variance(level: int) -> None:
    grey = torch.full((1, 3, 256, 256), 0.5)  # five deviations from clipping
    result = distort(grey, "white_noise", level, generator=seeded())
    variance = DISTORTIONS["white_noise"].levels[level - 1]
    assert psnr(result, grey) == pytest.approx(-10 * math.log10(variance), abs=0.1)


def test_ycbcr_noise_is_amplified_by_the_inverse_transform() -> None:
    grey = torch.full((1, 3, 256, 256), 0.5)
    result = distort(grey, "ycbcr_noise", 2, generator=seeded())
    # rows of the inverse transform: R 1.164 0 1.596; G 1.164 −.392 −.813; B 1.164 2.017 0
    gains = torch.tensor([1.164**2 + 1.596**2, 1.164**2 + 0.392**2 + 0.813**2, 1.164**2 + 2.017**2])
    variance = (result - grey).var(dim=(0, 2, 3))
    torch.testing.assert_close(variance, 0.0005 * gains, rtol=0.03, atol=0)


def test_denoising_beats_the_noise_it_was_given(scene: Tensor) -> None:
    noisy = noise.white_noise(scene, 0.01, [seeded()]).clamp(0, 1)
    clean = noise.denoise(scene, 0.01, [seeded()])
    assert psnr(clean, scene) > psnr(noisy, scene) + 5.0
    flat = torch.full((1, 3, 37, 41), 0.4)
    torch.testing.assert_close(noise.dct_shrinkage(flat, 0.1), flat)


def test_tone_curves_pass_their_points() -> None:
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    # darken .4: mid-grey to ½ − .2
    torch.testing.assert_close(
        tone.darken(x, 0.4), torch.tensor([0.0, 0.3, 1.0]).view(1, 1, 1, 3).expand_as(x)
    )
    points = torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0]).view(1, 1, 1, 5)
    # contrast −.4: ¼ + .1 = .35 and ¾ − .1 = .65
    bent = tone.contrast_change(points, -0.4)
    torch.testing.assert_close(bent.flatten(), torch.tensor([0.0, 0.35, 0.5, 0.65, 1.0]))


def test_contrast_change_matches_scipys_spline() -> None:
    from scipy.interpolate import CubicSpline

    x = torch.linspace(0, 1, 101)
    for amount in DISTORTIONS["contrast_change"].levels:
        heights = (0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1)
        spline = CubicSpline((0, 0.3, 0.5, 0.7, 1), heights, bc_type="not-a-knot")
        expected = np.clip(spline(x.numpy()), 0, 1)
        np.testing.assert_allclose(tone.contrast_change(x, amount), expected, atol=2e-6)


def test_brighten_lifts_and_mean_shift_shifts() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    # grey of intensity .5: ⅔·.7 + ⅓·(a lifted lightness), which lies above .5 too
    lifted = distort(grey, "brighten", 3, generator=seeded())
    assert 0.65 < float(lifted.mean()) < 0.75
    shifted = distort(grey, "mean_shift", 5, generator=seeded())
    torch.testing.assert_close(shifted, torch.full_like(grey, 0.35))


def test_quantisation_by_hand() -> None:
    # Two clusters, one threshold: it falls midway at (51 + 204)/2, classes become 0 and 1.
    image = torch.tensor([0.2, 0.2, 0.8, 0.8]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    torch.testing.assert_close(tone.quantise_intensity(image, 1), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_quantisation_leaves_at_most_the_thresholds_and_one(scene: Tensor, level: int) -> None:
    result = distort(scene, "quantisation", level, generator=seeded())
    assert len(result.unique()) <= DISTORTIONS["quantisation"].levels[level - 1] + 1


def test_two_otsu_thresholds_match_exhaustive_search(scene: Tensor) -> None:
    codes = (scene * 255).round().flatten().numpy()
    grid = np.arange(5, 250, 5)

    def within(a: float, b: float) -> float:
        parts = codes[codes <= a], codes[(codes > a) & (codes <= b)], codes[codes > b]
        return sum(part.var() * len(part) for part in parts if len(part))

    best = min(within(float(a), float(b)) for a in grid for b in grid if a < b)
    values = tone.quantise_intensity(scene, 2).unique() * 255  # 0, second threshold, 255
    # The darkest two classes share no value here, so recover the cut from the result's classes.
    classes = tone.quantise_intensity(scene, 2).flatten()
    parts = [codes[(classes == value / 255).numpy()] for value in values]
    found = sum(part.var() * len(part) for part in parts if len(part))
    assert found <= best * 1.02


def test_pixelate_by_hand() -> None:
    # level 5: z = .95 − .5^.6 = .290; 16 px become round(4.64) = 5 a side
    image = torch.rand(1, 3, 16, 16, generator=seeded())
    result = distort(image, "pixelate", 5, generator=seeded())
    assert len(result[0, 0].unique(dim=0)) == 5
    assert len(result[0, 0].unique(dim=1).T) == 5
    assert set(result.unique().tolist()) <= set(image.unique().tolist())


def test_colour_blocks_cover_the_stated_area() -> None:
    black = torch.zeros(1, 3, 384, 512)
    result = distort(black, "colour_blocks", 1, generator=seeded(3))
    covered = int((result.amax(dim=1) > 0).sum())
    assert 32 * 32 < covered <= 2 * 32 * 32
    assert spatial.scaled_count(10, 384, 512) == 10
    assert spatial.scaled_count(10, 192, 256) == 2  # a quarter of the area: 2.5 rounds to even
    assert spatial.scaled_count(2, 16, 16) == 1


def test_misplaced_patches_stay_near_and_copy(scene: Tensor) -> None:
    ramp = torch.linspace(0, 1, 256).expand(1, 3, 192, 256)
    result = distort(ramp, "misplaced_patches", 1, generator=seeded())
    moved = (result - ramp).abs() * 255
    assert 0 < float(moved.max()) <= 2 * 8 + 0.01  # one copy moves 8 px, two in a row 16
    assert set(result.unique().tolist()) <= set(ramp.unique().tolist())


def test_jitter_moves_a_linear_ramp_by_its_amount() -> None:
    ramp = torch.linspace(0, 1, 129).expand(1, 3, 129, 129)
    errors = [
        (distort(ramp, "jitter", level, generator=seeded()) - ramp)[..., 20:-20] * 128
        for level in (1, 5)
    ]
    assert all(abs(float(error.mean())) < 0.05 for error in errors)
    # five steps of .05 px: deviation .05·√5 px
    assert float(errors[0].std()) == pytest.approx(0.05 * math.sqrt(5), rel=0.05)
    # steps of 1 px: interpolating between scattered neighbours averages some of it away
    assert 1.0 < float(errors[1].std()) < math.sqrt(5)


# Against a reference


def keys_cubic(t: np.ndarray, a: float = -0.5) -> np.ndarray:
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


@pytest.mark.parametrize("axis", [0, 1])
def test_bicubic_reading_matches_keys_along_an_axis(axis: int) -> None:
    image = torch.rand(1, 1, 12, 12, generator=seeded(), dtype=torch.float64)
    index = torch.arange(12, dtype=torch.float64)
    y, x = torch.meshgrid(index, index, indexing="ij")
    places = torch.stack((x, y), dim=-1)[None]
    offset = torch.rand(12, 12, generator=seeded(1), dtype=torch.float64)
    places[..., axis] += offset
    lines = image[0, 0].numpy() if axis == 0 else image[0, 0].T.numpy()
    at = places[0, ..., axis].numpy() if axis == 0 else places[0, ..., axis].T.numpy()
    expected = np.einsum("ijk,ik->ij", keys_cubic(at[..., None] - np.arange(12)), lines)
    found = spatial.sample_bicubic(image, places)[0, 0]
    found = found.numpy() if axis == 0 else found.T.numpy()
    inner = slice(2, 9)  # away from the replicated border
    np.testing.assert_allclose(found[:, inner], expected[:, inner], atol=1e-12)


def test_jpeg_equals_pillow(scene: Tensor) -> None:
    pixels = (scene[0] * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=24)
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    assert torch.equal(distort(scene, "jpeg", 3, generator=seeded())[0], expected)


def test_jpeg2000_equals_pillow_at_kadids_size(scene: Tensor) -> None:
    large = torch.nn.functional.interpolate(scene, (384, 512), mode="nearest")
    pixels = (large[0] * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, format="JPEG2000", quality_mode="rates", quality_layers=[45],
        num_resolutions=6, irreversible=True, mct=1,
    )  # fmt: skip
    assert pixels.size / buffer.tell() == pytest.approx(45, rel=0.02)
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    assert torch.equal(distort(large, "jpeg2000", 3, generator=seeded())[0], expected)


def test_jpeg2000_is_as_severe_on_a_tile_as_on_the_whole(scene: Tensor) -> None:
    """At 400:1 the headers alone exceed the budget of a small tile."""
    tile = scene[..., :128, :128]
    whole = tile.repeat(1, 1, 3, 4)  # 384×512
    values = [
        psnr(distort(image, "jpeg2000", 5, generator=seeded()), image) for image in (tile, whole)
    ]
    assert values[0] == pytest.approx(values[1], abs=2.5), values


# By property


@pytest.mark.parametrize("name", [name for name in DISTORTIONS if name not in NOT_GRADED])
def test_psnr_falls_with_level(scene: Tensor, name: str) -> None:
    copies = 24 if name == "colour_blocks" else 3  # few objects: average over placements
    batch = scene.expand(copies, -1, -1, -1)
    values = [psnr(distort(batch, name, level, generator=seeded()), batch) for level in LEVELS]
    assert values == sorted(values, reverse=True), values
    assert values[0] > values[4] + 2.0


@pytest.mark.parametrize("name", list(DISTORTIONS))
def test_seeding_batching_range_and_shape(name: str) -> None:
    images = torch.rand(2, 3, 37, 53, generator=seeded(1))
    before = images.clone()
    batched = distort(images, name, 4, generator=seeded(2))
    assert batched.shape == images.shape and batched.dtype == images.dtype
    assert torch.equal(images, before)
    assert batched.isfinite().all() and batched.min() >= 0 and batched.max() <= 1
    assert torch.equal(batched, distort(images, name, 4, generator=seeded(2)))
    one_by_one = seeded(2)
    singles = [distort(image[None], name, 4, generator=one_by_one) for image in images]
    torch.testing.assert_close(torch.cat(singles), batched, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["motion_blur", "white_noise", "jitter", "colour_blocks"])
def test_images_of_a_batch_differ_in_their_damage(name: str) -> None:
    image = torch.rand(1, 3, 64, 64, generator=seeded())
    first, second = distort(image.expand(2, -1, -1, -1), name, 5, generator=seeded())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", list(DISTORTIONS))
@pytest.mark.parametrize("size", [(16, 16), (16, 61), (61, 16)])
def test_smallest_and_oblong_sizes(name: str, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size, generator=seeded())
    for level in LEVELS:
        result = distort(image, name, level, generator=seeded())
        assert result.shape == image.shape and result.isfinite().all()


@pytest.mark.parametrize("name", list(DISTORTIONS))
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_images_stay_finite(name: str, value: float) -> None:
    result = distort(torch.full((1, 3, 32, 32), value), name, 5, generator=seeded())
    assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1


def test_output_is_detached_and_keeps_its_dtype() -> None:
    images = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    result = distort(images, "gaussian_blur", 3, generator=seeded())
    assert result.dtype == torch.float64 and not result.requires_grad


def test_global_seed_is_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    distort(torch.rand(1, 3, 32, 32, generator=seeded()), "jitter", 2, generator=seeded())
    assert torch.equal(torch.rand(1), expected)


# By rejection


@pytest.mark.parametrize(
    ("images", "name", "level", "message"),
    [
        (torch.rand(1, 3, 32, 32), "color_shift", 1, "unknown distortion 'color_shift': use one"),
        (torch.rand(1, 3, 32, 32), "jpeg", 0, "from 1 \\(mild\\) to 5, got 0"),
        (torch.rand(1, 3, 32, 32), "jpeg", True, "from 1 \\(mild\\) to 5, got True"),
        (torch.rand(3, 32, 32), "jpeg", 1, r"must be \(B, 3, H, W\), got \(3, 32, 32\)"),
        (torch.rand(1, 1, 32, 32), "jpeg", 1, "convert to RGB"),
        (torch.rand(1, 3, 8, 32), "jpeg", 1, "at least 16×16 px, got 32×8"),
        (torch.rand(1, 3, 32, 32) * 255, "jpeg", 1, "divide 8-bit values by 255"),
        (torch.full((1, 3, 32, 32), float("nan")), "jpeg", 1, "remove NaN"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "jpeg", 1, "got a torch.uint8 tensor"),
    ],
)
def test_wrong_input_is_named(images: Tensor, name: str, level: int, message: str) -> None:
    with pytest.raises(DistortionError, match=message):
        distort(images, name, level, generator=seeded())


def test_a_seed_is_no_generator() -> None:
    with pytest.raises(TypeError, match="manual_seed"):
        distort(torch.rand(1, 3, 32, 32), "jpeg", 1, generator=0)  # type: ignore[arg-type]
