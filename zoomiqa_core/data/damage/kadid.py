"""KADID-10k's 25 distortions at 5 levels each, with people's mean opinion of each cell.

A cell is a distortion at a level. A photo that is distorted at a cell's strength gets its mean
opinion score (MOS, 1–5, higher is better; 30 observers an image, 81 references) as a label.
Operators and strengths follow the MATLAB code published with the dataset (``imdist_generator.m``;
Lin, Hosu, Saupe, "KADID-10k: A large-scale artificially distorted IQA database", QoMEX 2019).
Departures of single operators are in their docstrings in
``zoomiqa_core.data.damage.distortions``; others are:

- The generator stretches its input and its output to the full [0, 1] range; here both keep their
  range and the output is clamped.
- ``mean_shift`` and ``contrast_change`` run from brighter to darker and from more contrast to less,
  with the mildest level in the middle, instead of from mild to strong.
- JPEG 2000's strongest ratio is 400 as in the generator (some ports say 170, about 2 dB milder than
  other types that people rated 1.4).
- ``denoise`` uses another denoiser, numbers of patches and blocks scale with the image's area, and
  JPEG 2000's ratio is that of a 512×384 image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoomiqa_core.data.damage.distortions import blur, codec, colour, noise, spatial, tone

MIN_DISTORTED_SIDE = 16
"""Smallest height or width in px that every distortion accepts."""

LEVELS = (1, 2, 3, 4, 5)

HELD_OUT = ("motion_blur", "lab_chroma", "ycbcr_noise", "jitter", "quantisation")
"""Types that no model of this project is trained on, for tests on unseen damage."""


@dataclass(frozen=True)
class Distortion:
    """One of KADID-10k's 25 types."""

    number: int
    """KADID's number, 1–25 (the second field of its file names)."""
    name: str
    """Key in ``DISTORTIONS``."""
    unit: str
    """Unit or meaning of a strength."""
    levels: tuple[float, ...]
    """Published strength of levels 1–5."""
    mean_mos: tuple[float, ...]
    """Mean opinion score of levels 1–5 over KADID's 81 references, 1–5."""


class DistortionError(ValueError):
    """A distortion, level or image batch that ``distort`` cannot work with."""


# fmt: off
_TABLE = (
    # name, what a strength means, strengths of levels 1–5, mean opinion scores of levels 1–5
    ("gaussian_blur", "σ in px",
     (0.1, 0.5, 1, 2, 5), (4.61, 4.38, 2.91, 1.87, 1.30)),
    ("lens_blur", "radius in px",
     (1, 2, 4, 6, 8), (3.86, 2.65, 1.76, 1.44, 1.30)),
    ("motion_blur", "length in px",
     (1, 2, 4, 6, 10), (4.60, 4.10, 2.85, 2.18, 1.67)),
    ("colour_diffusion", "amount",
     (1, 3, 6, 8, 12), (4.50, 2.60, 1.76, 1.61, 1.39)),
    ("colour_shift", "px",
     (1, 3, 6, 8, 12), (4.23, 2.55, 1.92, 1.85, 1.86)),
    ("colour_quantisation", "colours",
     (64, 48, 32, 16, 8), (4.11, 3.97, 3.72, 3.20, 2.42)),
    ("hsv_saturation", "factor",
     (0.4, 0.2, 0.1, 0, -0.4), (2.75, 2.33, 2.26, 2.24, 2.03)),
    ("lab_chroma", "factor",
     (1, 2, 3, 6, 9), (4.58, 3.33, 2.65, 1.82, 1.52)),
    ("jpeg2000", "compression ratio",
     (16, 32, 45, 120, 400), (4.55, 4.20, 3.87, 2.44, 1.39)),
    ("jpeg", "quality",
     (43, 36, 24, 7, 4), (4.34, 4.25, 3.87, 1.95, 1.35)),
    ("white_noise", "variance",
     (0.001, 0.002, 0.003, 0.005, 0.01), (3.89, 3.39, 3.05, 2.71, 2.30)),
    ("ycbcr_noise", "variance",
     (0.0001, 0.0005, 0.001, 0.002, 0.003), (4.47, 3.68, 3.17, 2.69, 2.38)),
    ("impulse_noise", "share",
     (0.001, 0.005, 0.01, 0.02, 0.03), (3.58, 2.93, 2.61, 2.31, 2.13)),
    ("multiplicative_noise", "variance",
     (0.001, 0.005, 0.01, 0.02, 0.05), (4.40, 3.58, 3.08, 2.64, 2.12)),
    ("denoise", "variance before denoising",
     (0.01, 0.03, 0.05, 0.1, 0.15), (3.67, 2.73, 2.20, 1.65, 1.47)),
    ("brighten", "amount",
     (0.1, 0.2, 0.4, 0.7, 1.1), (4.51, 4.29, 3.63, 2.70, 1.81)),
    ("darken", "amount",
     (0.05, 0.1, 0.2, 0.4, 0.8), (4.60, 4.53, 4.23, 3.53, 2.22)),
    ("mean_shift", "offset",
     (0.15, 0.08, 0, -0.08, -0.15), (4.22, 4.52, 4.60, 4.37, 3.90)),
    ("jitter", "px",
     (0.05, 0.1, 0.2, 0.5, 1), (4.42, 4.09, 3.24, 1.85, 1.34)),
    ("misplaced_patches", "count per 512×384",
     (20, 40, 60, 80, 100), (4.33, 3.94, 3.77, 3.46, 3.26)),
    ("pixelate", "strength",
     (0.01, 0.05, 0.1, 0.2, 0.5), (3.89, 3.10, 2.90, 2.79, 1.50)),
    ("quantisation", "thresholds",
     (20, 16, 13, 10, 7), (4.17, 3.93, 3.69, 3.37, 2.80)),
    ("colour_blocks", "count per 512×384",
     (2, 4, 6, 8, 10), (2.69, 2.36, 2.30, 2.13, 2.04)),
    ("over_sharpening", "amount",
     (1, 2, 3, 6, 12), (3.58, 2.64, 2.14, 1.61, 1.34)),
    ("contrast_change", "amount",
     (0.3, 0.15, 0, -0.4, -0.6), (3.42, 3.86, 4.29, 4.14, 3.32)),
)
# fmt: on

DISTORTIONS: dict[str, Distortion] = {
    row[0]: Distortion(number, *row) for number, row in enumerate(_TABLE, start=1)
}
"""The 25 types in KADID's order."""

_FIXED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian_blur": blur.gaussian_blur,
    "lens_blur": blur.lens_blur,
    "colour_diffusion": colour.colour_diffusion,
    "colour_quantisation": lambda images, count: colour.colour_quantisation(images, int(count)),
    "hsv_saturation": colour.hsv_saturation,
    "lab_chroma": colour.lab_chroma,
    "jpeg2000": codec.jpeg2000,
    "jpeg": lambda images, quality: codec.jpeg(images, int(quality)),
    "brighten": tone.brighten,
    "darken": tone.darken,
    "mean_shift": tone.mean_shift,
    "pixelate": spatial.pixelate,
    "quantisation": lambda images, count: tone.quantise_intensity(images, int(count)),
    "over_sharpening": blur.over_sharpen,
    "contrast_change": tone.contrast_change,
}

_RANDOM: dict[str, Callable[[Tensor, float, Sequence[torch.Generator]], Tensor]] = {
    "motion_blur": blur.motion_blur,
    "colour_shift": colour.colour_shift,
    "white_noise": noise.white_noise,
    "ycbcr_noise": noise.ycbcr_noise,
    "impulse_noise": noise.impulse_noise,
    "multiplicative_noise": noise.multiplicative_noise,
    "denoise": noise.denoise,
    "jitter": spatial.jitter,
    "misplaced_patches": lambda images, n, draws: spatial.misplaced_patches(images, int(n), draws),
    "colour_blocks": lambda images, n, draws: spatial.colour_blocks(images, int(n), draws),
}


@torch.no_grad()
def distort(images: Tensor, name: str, level: int, *, generator: torch.Generator) -> Tensor:
    """Damage a batch as KADID-10k does at one level.

    >>> generator = torch.Generator().manual_seed(0)
    >>> damaged = distort(torch.rand(2, 3, 96, 128), "jpeg", 4, generator=generator)
    >>> damaged.shape, cell_rating("jpeg", 4)
    (torch.Size([2, 3, 96, 128]), 1.95)

    One RNG per image, seeded from ``generator``: the same generator state gives the same output,
    and a batch equals its images distorted one after another.

    Args:
        images: (B, 3, H, W) float RGB in [0, 1], sides of at least 16 px.
        name: Key of ``DISTORTIONS``.
        level: 1–5.
        generator: Source of randomness, on the CPU.

    Returns:
        (B, 3, H, W) in [0, 1], dtype and device of ``images``, detached.

    Raises:
        DistortionError: unknown name or level, or images of another type, shape or range.
    """
    strength = find_distortion(name, level).levels[level - 1]
    _check_images(images)
    generators = spawn_generators(generator, len(images))
    pixels = images.detach().float()
    if name in _RANDOM:
        damaged = _RANDOM[name](pixels, strength, generators)
    else:
        damaged = _FIXED[name](pixels, strength)
    return damaged.clamp(0.0, 1.0).to(images.dtype)


def cell_rating(name: str, level: int) -> float:
    """Mean opinion score (1–5) of a distortion at a level in KADID-10k.

    >>> cell_rating("gaussian_blur", 1), cell_rating("gaussian_blur", 5)
    (4.61, 1.3)
    """
    return find_distortion(name, level).mean_mos[level - 1]


def find_distortion(name: str, level: int) -> Distortion:
    """Look up a distortion by name and check the level.

    >>> jpeg = find_distortion("jpeg", 4)
    >>> jpeg.number, jpeg.unit, jpeg.levels[3]
    (10, 'quality', 7)

    Raises:
        DistortionError: unknown name or level.
    """
    if name not in DISTORTIONS:
        raise DistortionError(f"unknown distortion {name!r}: use one of {', '.join(DISTORTIONS)}")
    if isinstance(level, bool) or not isinstance(level, int) or level not in LEVELS:
        raise DistortionError(f"level must be an integer from 1 (mild) to 5, got {level!r}")
    return DISTORTIONS[name]


def spawn_generators(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """``count`` CPU generators seeded by successive draws from ``generator``.

    >>> first, second = spawn_generators(torch.Generator().manual_seed(0), 2)
    >>> first.initial_seed() == second.initial_seed()
    False

    Raises:
        TypeError: ``generator`` is not a ``torch.Generator``.
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}: "
            "pass torch.Generator().manual_seed(seed)"
        )
    seeds = [
        torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
        for _ in range(count)
    ]
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = f"a {images.dtype} tensor" if isinstance(images, Tensor) else type(images).__name__
        raise DistortionError(f"images must be a float tensor in [0, 1], got {kind}")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape) == 0:
        raise DistortionError(
            f"images must be (B, 3, H, W), got {tuple(images.shape)}: "
            "add a batch axis with images[None], convert to RGB with "
            "zoomiqa_core.images.sources.to_batch"
        )
    if min(images.shape[-2:]) < MIN_DISTORTED_SIDE:
        raise DistortionError(
            f"images must measure at least {MIN_DISTORTED_SIDE}×{MIN_DISTORTED_SIDE} px, got "
            f"{images.shape[-1]}×{images.shape[-2]}: crop larger or pad first"
        )
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not (low >= 0.0 and high <= 1.0):
        raise DistortionError(
            f"images must lie in [0, 1], got [{low:.3g}, {high:.3g}]: "
            "divide 8-bit values by 255, clamp, and remove NaN"
        )
