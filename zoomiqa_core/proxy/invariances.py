"""Pairs of an image and a copy of it: people rate the copy alike, or never higher.

A proxy trained on damage alone takes an invisible checkerboard or faint colour noise on a blurred
photo for detail, and a black-and-white photo for a faded one. A pair states what people would say
of the copy without any rating of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.data.damage.distortions.blur import gaussian_blur
from zoomiqa_core.data.damage.distortions.codec import jpeg
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.proxy.batches import SEEN, VERSIONS
from zoomiqa_core.runs.random import below

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a greyscale copy (ITU-R BT.601)."""

Operator = Callable[[Tensor, torch.Generator], Tensor]


class Pairs(NamedTuple):
    """N images with a copy of each."""

    images: Tensor
    """(N, 3, S, S) in [0, 1]."""
    copies: Tensor
    """(N, 3, S, S) in [0, 1]."""
    alike: Tensor
    """(N,) bool: True where people rate the copy like the image, False where not higher."""


def grey(image: Tensor, generator: torch.Generator) -> Tensor:
    """A greyscale copy."""
    luma = torch.tensor(LUMA)[:, None, None]
    return (image * luma).sum(0, keepdim=True).expand_as(image)


def mirrored(image: Tensor, generator: torch.Generator) -> Tensor:
    """The mirror image."""
    return image.flip(-1)


def letterboxed(image: Tensor, generator: torch.Generator) -> Tensor:
    """Black or white bars over 3–15 % of the height or width on both sides."""
    share = 0.03 + 0.12 * float(torch.rand((), generator=generator))
    bar = max(1, round(share * image.shape[-1]))
    value = float(below(2, generator))
    copy = image.clone()
    rows = copy.mT if below(2, generator) else copy  # a view
    rows[:, :bar] = value
    rows[:, -bar:] = value
    return copy


def recompressed(image: Tensor, generator: torch.Generator) -> Tensor:
    """A JPEG copy of quality 60–95."""
    return jpeg(image[None], 60 + below(36, generator))[0]


def gridded(image: Tensor, generator: torch.Generator) -> Tensor:
    """A random or checkered tile of 2, 4 or 8 px repeated over the image, ±1–6 levels of 255."""
    period = (2, 4, 8)[below(3, generator)]
    tile = torch.randn(1, period, period, generator=generator).sign()
    if below(2, generator):
        half = torch.arange(period) // (period // 2)
        tile = ((half[:, None] + half[None]) % 2 * 2.0 - 1)[None]
    if below(3, generator) == 0:
        tile = tile * torch.randn(3, 1, 1, generator=generator).clamp(-1, 1)
    height, width = image.shape[-2:]
    pattern = tile.repeat(1, -(-height // period), -(-width // period))[:, :height, :width]
    return image + (1 + 5 * float(torch.rand((), generator=generator))) / 255 * pattern


def chroma_noised(image: Tensor, generator: torch.Generator) -> Tensor:
    """Colour noise of no brightness, σ .005–.05, of a grain of 1–4 px."""
    grain = 1 + below(4, generator)
    height, width = image.shape[-2:]
    coarse = torch.randn(1, 3, -(-height // grain), -(-width // grain), generator=generator)
    noise = functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    noise = noise - grey(noise, generator)
    sigma = 0.005 * 10 ** float(torch.rand((), generator=generator))
    return image + sigma * noise / noise.std()


def noised(image: Tensor, generator: torch.Generator) -> Tensor:
    """Faint noise, σ .002–.02, white or slightly smooth, as a diffusion sampler leaves it."""
    noise = torch.randn(image.shape, generator=generator)
    if below(2, generator):
        noise = gaussian_blur(noise[None], 0.4 + float(torch.rand((), generator=generator)))[0]
    sigma = 0.002 * 10 ** float(torch.rand((), generator=generator))
    return image + sigma * noise / noise.std()


ALIKE: tuple[Operator, ...] = (grey, grey, mirrored, letterboxed)
"""Copies that people rate like the image."""

NOT_HIGHER: tuple[Operator, ...] = (
    gridded,
    gridded,
    gridded,
    chroma_noised,
    chroma_noised,
    noised,
    recompressed,
    recompressed,
)
"""Copies that people rate no higher than the image."""


def draw_pairs(
    pristine: PhotoPool, sets: PhotoPool, count: int, size: int, *, generator: torch.Generator
) -> Pairs:
    """``count`` pairs of crops: clean, blurred, distorted, degraded or restored; a third are grey.

    Args:
        pristine: clean photos, sides ≥ ``size``.
        sets: restored sets (:data:`~zoomiqa_core.proxy.batches.VERSIONS` side by side).
        count: pairs.
        size: side of a crop in pixels.
        generator: CPU generator.
    """
    images, copies, alike = [], [], []
    for _ in range(count):
        kind = below(4, generator)
        if kind == 0:
            tiles = sets.tiles(size, len(VERSIONS), generator=generator)
            image = tiles[below(len(VERSIONS), generator)]
        else:
            image = pristine.crops(1, size, generator=generator)[0][0]
        if kind == 1:
            sigma = 0.6 + 3.4 * float(torch.rand((), generator=generator)) ** 2
            image = gaussian_blur(image[None], sigma)[0]
        if kind == 2:
            name = SEEN[below(len(SEEN), generator)]
            image = distort(image[None], name, 1 + below(5, generator), generator=generator)[0]
        same = below(len(ALIKE) + len(NOT_HIGHER), generator) < len(ALIKE)
        operators = ALIKE if same else NOT_HIGHER
        operator = operators[below(len(operators), generator)]
        if operator is not grey and below(3, generator) == 0:
            image = grey(image, generator)
        images.append(image)
        copies.append(operator(image, generator).clamp(0, 1))
        alike.append(same)
    return Pairs(torch.stack(images), torch.stack(copies), torch.tensor(alike))


def pair_loss(ratings: Tensor, of_copies: Tensor, alike: Tensor, *, margin: float = 0.02) -> Tensor:
    """Smooth L1 (β = .25 rating units) of what a copy gains that it should not.

    An alike copy must have the image's rating, the others one that is lower by ``margin`` or more.
    The image's own rating takes no gradient: it is learned from people.

    Args:
        ratings: (N,) of the images.
        of_copies: (N,) of their copies.
        alike: (N,) bool.
        margin: in rating units.
    """
    gain = of_copies - ratings.detach()
    gain = torch.where(alike, gain, (gain + margin).clamp_min(0))
    return functional.smooth_l1_loss(gain, torch.zeros_like(gain), beta=0.25)
