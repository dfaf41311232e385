"""Degradations to restore from: Real-ESRGAN's two stages of blur, resize, noise and JPEG.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data"
(2021), section 3. Departures: the damaged image is always resized back to the clean one's
size (a restorer keeps its input's size), strengths are milder (about 23-27 dB PSNR on photos, so
that the damage can be repaired), and there is no sinc filter.

Parameters are drawn for each image of a batch from one CPU `torch.Generator`. The images are
degraded on the CPU (JPEG needs it) and returned on their device and in their dtype.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MIN_DEGRADED_SIDE = 16
"""Smallest height and width in pixels that can be degraded."""

_RESIZE_KERNELS = ("area", "bilinear", "bicubic")
_NOISE_KINDS = ("gaussian", "poisson")

Range = tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """One pass of blur, resize, noise and JPEG; a probability of 0 switches a part off.

    >>> Stage(noise_probability=1.0, gaussian_sigma=(5.0, 10.0)).jpeg_probability
    0.0
    """

    blur_probability: float = 0.0
    """Chance of a Gaussian blur."""
    blur_sigma: Range = (0.2, 1.5)
    """Standard deviation of the blur along each axis, in pixels of the stage's input."""
    anisotropic_probability: float = 0.4
    """Chance that the blur has two different axes and a random angle."""
    resize_probability: float = 0.0
    """Chance of a resize."""
    resize_scale: Range = (0.5, 1.1)
    """Factor on both sides; below 1 shrinks."""
    resize_kernels: tuple[str, ...] = _RESIZE_KERNELS
    """Kernels to draw from; shrinking with "bilinear" or "bicubic" is antialiased."""
    noise_probability: float = 0.0
    """Chance of noise."""
    gaussian_sigma: Range = (1.0, 12.0)
    """Standard deviation of Gaussian noise, in 1/255."""
    poisson_scale: Range = (0.3, 1.6)
    """Strength of shot noise: white holds 256 / scale² photons."""
    poisson_probability: float = 0.4
    """Chance that the noise is shot noise instead of Gaussian."""
    grey_probability: float = 0.4
    """Chance that the three channels share one noise field."""
    jpeg_probability: float = 0.0
    """Chance of a JPEG round trip (4:2:0)."""
    jpeg_quality: tuple[int, int] = (40, 95)
    """Quality of the JPEG, both ends included."""

    def __post_init__(self) -> None:
        for name in ("blur", "anisotropic", "resize", "noise", "poisson", "grey", "jpeg"):
            value = getattr(self, f"{name}_probability")
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}_probability must lie in [0, 1], got {value}.")
        lowest = {
            "blur_sigma": 1e-3,
            "resize_scale": 0.05,
            "gaussian_sigma": 0.0,
            "poisson_scale": 1e-3,
            "jpeg_quality": 1,
        }
        for name, floor in lowest.items():
            low, high = getattr(self, name)
            if not floor <= low <= high:
                raise ValueError(
                    f"{name} must be (low, high) with {floor} <= low <= high, got {low, high}."
                )
        if self.jpeg_quality[1] > 100:
            raise ValueError(f"jpeg_quality must not exceed 100, got {self.jpeg_quality}.")
        unknown = set(self.resize_kernels) - set(_RESIZE_KERNELS)
        if unknown or not self.resize_kernels:
            raise ValueError(
                f"resize_kernels must be drawn from {_RESIZE_KERNELS}, got {self.resize_kernels}."
            )


@dataclass(frozen=True)
class RestorationDegradation:
    """A sequence of stages, followed by a resize back to the clean image's size.

    >>> noise = RestorationDegradation((Stage(noise_probability=1.0),))
    >>> damaged = degrade(torch.rand(1, 3, 32, 32), noise, generator=torch.Generator())
    >>> list(damaged.settings[0]["stages"][0])
    ['noise']
    """

    stages: tuple[Stage, ...] = field(default_factory=lambda: (Stage(),))
    """Applied in order."""
    return_before_jpeg_probability: float = 0.5
    """Chance that the last stage's JPEG is applied after the resize back instead of before it."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("A degradation needs at least one Stage.")


@dataclass(frozen=True)
class Degraded:
    """Damaged images and the parameters drawn for each."""

    images: Tensor
    """(B, 3, H, W), range [0, 1] on the 8-bit grid, dtype and device of the clean images."""
    settings: list[dict[str, Any]]
    """One record per image: {"stages": [{"blur": ..., "resize": ..., "noise": ..., "jpeg": ...}]}.
    Parts that were not drawn are absent."""


PRESETS: dict[str, RestorationDegradation] = {
    "mixed": RestorationDegradation(
        stages=(
            Stage(
                blur_probability=0.7,
                blur_sigma=(0.2, 1.4),
                resize_probability=0.7,
                resize_scale=(0.5, 1.2),
                noise_probability=0.8,
                gaussian_sigma=(3.0, 20.0),
                poisson_scale=(0.4, 2.0),
                jpeg_probability=0.8,
                jpeg_quality=(30, 85),
            ),
            Stage(
                blur_probability=0.3,
                blur_sigma=(0.2, 0.9),
                resize_probability=0.4,
                resize_scale=(0.6, 1.2),
                noise_probability=0.6,
                gaussian_sigma=(1.0, 10.0),
                poisson_scale=(0.2, 1.2),
                jpeg_probability=0.8,
                jpeg_quality=(35, 90),
            ),
        )
    ),
    "x2": RestorationDegradation(
        stages=(Stage(resize_probability=1.0, resize_scale=(0.5, 0.5)),),
    ),
    "x4": RestorationDegradation(
        stages=(Stage(resize_probability=1.0, resize_scale=(0.25, 0.25)),),
    ),
    "noise_jpeg": RestorationDegradation(
        stages=(
            Stage(
                noise_probability=1.0,
                gaussian_sigma=(6.0, 22.0),
                poisson_scale=(0.8, 2.4),
                jpeg_probability=1.0,
                jpeg_quality=(25, 75),
            ),
        )
    ),
    "blur_noise": RestorationDegradation(
        stages=(
            Stage(
                blur_probability=1.0,
                blur_sigma=(0.6, 2.0),
                noise_probability=1.0,
                gaussian_sigma=(3.0, 18.0),
                poisson_scale=(0.5, 2.0),
            ),
        )
    ),
    "blur": RestorationDegradation(
        stages=(Stage(blur_probability=1.0, blur_sigma=(0.8, 2.2)),),
    ),
}
"""Named degradations. "x2" and "x4" only shrink and enlarge, by a random kernel per image."""


def resolve(degradation: str | RestorationDegradation) -> RestorationDegradation:
    """Return the configuration of a preset's name; a configuration is returned as it is.

    >>> resolve("x4").stages[0].resize_scale
    (0.25, 0.25)

    Raises:
        ValueError: The name is not in `PRESETS`.
    """
    if isinstance(degradation, RestorationDegradation):
        return degradation
    if degradation not in PRESETS:
        raise ValueError(
            f"Unknown degradation {degradation!r}. Choose one of {', '.join(PRESETS)}, "
            "or pass a RestorationDegradation."
        )
    return PRESETS[degradation]


def chain(degradations: Iterable[str | RestorationDegradation]) -> RestorationDegradation:
    """Compose degradations: all stages in order, then one resize back to the original size.

    >>> len(chain(["blur", "noise_jpeg"]).stages)
    2
    """
    parts = [resolve(part) for part in degradations]
    if not parts:
        raise ValueError("chain() needs at least one degradation.")
    return RestorationDegradation(
        stages=tuple(stage for part in parts for stage in part.stages),
        return_before_jpeg_probability=parts[-1].return_before_jpeg_probability,
    )


def degrade(
    images: Tensor,
    degradation: str | RestorationDegradation = "mixed",
    *,
    generator: torch.Generator,
) -> Degraded:
    """Damage clean images, each with its own random parameters.

    >>> clean = torch.rand(2, 3, 64, 64)
    >>> damaged = degrade(clean, "x4", generator=torch.Generator().manual_seed(0))
    >>> damaged.images.shape, damaged.settings[0]["stages"][0]["resize"]["scale"]
    (torch.Size([2, 3, 64, 64]), 0.25)

    Args:
        images: Clean images, (B, 3, H, W), floating point in [0, 1], sides of at least 16 px.
        degradation: A preset's name or a configuration.
        generator: A CPU generator; the same state gives the same result.

    Returns:
        The damaged images on the input's grid, detached, and the drawn settings.

    Raises:
        ValueError: Wrong shape, too small, or an unknown preset.
        TypeError: Integer images.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected images (B, 3, H, W), got {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise TypeError(f"Expected float images in [0, 1], got {images.dtype}; divide by 255.")
    if min(images.shape[-2:]) < MIN_DEGRADED_SIDE:
        raise ValueError(
            f"Sides must be at least {MIN_DEGRADED_SIDE} px, got {tuple(images.shape[-2:])}."
        )
    config = resolve(degradation)
    clean = images.detach().to("cpu", torch.float32).clamp(0.0, 1.0)
    damaged, settings = [], []
    for image in clean:
        result, record = _degrade_one(image, config, generator)
        damaged.append(result)
        settings.append(record)
    batch = torch.stack(damaged) if damaged else clean
    return Degraded(batch.to(images.device, images.dtype), settings)


def _degrade_one(
    image: Tensor, config: RestorationDegradation, generator: torch.Generator
) -> tuple[Tensor, dict[str, Any]]:
    grid = (image.shape[-2], image.shape[-1])
    records: list[dict[str, Any]] = []
    for number, stage in enumerate(config.stages, start=1):
        # The stage's parameters are drawn first; its noise and JPEG quality then draw from the same
        # generator, so the draws of a stage depend on the stages before it.
        draws = torch.rand(14, generator=generator, dtype=torch.float64).tolist()
        record: dict[str, Any] = {}
        if draws[0] < stage.blur_probability:
            sigma_x = _between(stage.blur_sigma, draws[1])
            round_blur = draws[2] >= stage.anisotropic_probability
            sigma_y = sigma_x if round_blur else _between(stage.blur_sigma, draws[3])
            angle = 0.0 if round_blur else math.pi * draws[4]
            image = _blur(image, sigma_x, sigma_y, angle)
            record["blur"] = {"sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}
        if draws[5] < stage.resize_probability:
            scale = _between(stage.resize_scale, draws[6])
            kernel = stage.resize_kernels[int(draws[7] * len(stage.resize_kernels))]
            size = (max(4, round(grid[0] * scale)), max(4, round(grid[1] * scale)))
            image = _resize(image, size, kernel)
            record["resize"] = {"scale": scale, "kernel": kernel}
        if draws[8] < stage.noise_probability:
            poisson = draws[9] < stage.poisson_probability
            strength = _between(stage.poisson_scale if poisson else stage.gaussian_sigma, draws[10])
            grey = draws[11] < stage.grey_probability
            kind = _NOISE_KINDS[int(poisson)]
            image = _add_noise(image, kind, strength, grey, generator)
            record["noise"] = {"kind": kind, "strength": strength, "grey": grey}
        last = number == len(config.stages)
        if last and draws[13] < config.return_before_jpeg_probability:
            image = _resize(image, grid, "bicubic")
        if draws[12] < stage.jpeg_probability:
            quality = _quality(stage.jpeg_quality, generator)
            image = _jpeg(image, quality)
            record["jpeg"] = {"quality": quality}
        records.append(record)
    image = _resize(image, grid, "bicubic")
    return image.clamp(0.0, 1.0).mul(255.0).round().div(255.0), {"stages": records}


def _between(bounds: Range, draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _quality(bounds: tuple[int, int], generator: torch.Generator) -> int:
    return int(torch.randint(bounds[0], bounds[1] + 1, (), generator=generator))


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float) -> Tensor:
    """Rotated Gaussian kernel of radius 3σ, odd and square, sum 1; the angle is in radians.

    >>> gaussian_kernel(0.3, 0.3, 0.0)[1]
    tensor([0.0038, 0.9847, 0.0038])
    """
    radius = max(1, math.ceil(3.0 * max(sigma_x, sigma_y)))
    axis = torch.arange(-radius, radius + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along = math.cos(angle) * x + math.sin(angle) * y
    across = -math.sin(angle) * x + math.cos(angle) * y
    kernel = torch.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return kernel / kernel.sum()


def _blur(image: Tensor, sigma_x: float, sigma_y: float, angle: float) -> Tensor:
    from kornia.filters import filter2d

    kernel = gaussian_kernel(sigma_x, sigma_y, angle)
    radius = min(kernel.shape[-1] // 2, min(image.shape[-2:]) - 1)
    trim = kernel.shape[-1] // 2 - radius  # reflection needs a radius below the side
    if trim:
        kernel = kernel[trim:-trim, trim:-trim]
        kernel = kernel / kernel.sum()
    return filter2d(image[None], kernel[None], border_type="reflect")[0]


def _resize(image: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    options: dict[str, Any] = {} if kernel == "area" else {"antialias": True}
    return F.interpolate(image[None], size=size, mode=kernel, **options)[0].clamp(0.0, 1.0)


def _add_noise(
    image: Tensor, kind: str, strength: float, grey: bool, generator: torch.Generator
) -> Tensor:
    if kind == "gaussian":
        shape = (1 if grey else 3, *image.shape[-2:])
        noise = torch.randn(shape, generator=generator) * (strength / 255.0)
    else:
        photons = 256.0 / strength**2
        signal = image.mean(0, keepdim=True) if grey else image
        noise = torch.poisson(signal * photons, generator=generator) / photons - signal
    return (image + noise).clamp(0.0, 1.0)


def _jpeg(image: Tensor, quality: int) -> Tensor:
    pixels = image.mul(255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = np.asarray(Image.open(buffer), dtype=np.float32)
    return torch.from_numpy(decoded).permute(2, 0, 1).div(255.0)
