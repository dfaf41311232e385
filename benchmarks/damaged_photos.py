"""Test images for restoration: crops of clean photos and their reproducible damage.

The damage depends on the photo's number (its index in the sorted folder), the seed and the preset
only, so scripts with the same folder and seed test the same images. Photos are cropped in the
middle, and in the corners if more crops than photos are requested.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.images.sources import find_images, read_image
from zoomiqa_core.runs.random import derived_generator

SIDE = 256
"""Height and width of the crops in pixels."""
CORNERS = ("top left", "top right", "bottom right", "bottom left")
"""Positions of additional crops, in this order."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A crop of one clean photo."""

    number: int
    """Index of its file in the sorted folder; corner crops have higher numbers."""
    name: str
    """File name, and the corner unless it is the middle crop."""
    clean: Tensor
    """(3, SIDE, SIDE) float32 in [0, 1]."""


def read_photos(folder: str | os.PathLike[str], count: int | None = None) -> list[Photo]:
    """Middle crops of a folder's photos: of all, or of ``count`` spread evenly over it.

    >>> from zoomiqa_core.images.sources import save_png
    >>> for name in "abcd":
    ...     _ = save_png(torch.rand(3, 256, 320), f"{name}.png")
    >>> [(photo.number, photo.name) for photo in read_photos(".", 2)]
    [(0, 'a.png'), (2, 'c.png')]

    Raises:
        ValueError: ``count`` is below 1, or a photo is too small.
        ImageError: the folder holds no image, or a file is none.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    numbered = list(enumerate(find_images([folder])))
    if count is not None:
        numbered = numbered[:: max(len(numbered) // count, 1)][:count]
    return [
        Photo(number, path.name, centre_crop(read_image(path).pixels, SIDE, SIDE))
        for number, path in numbered
    ]


def read_crops(folder: str | os.PathLike[str], count: int) -> list[Photo]:
    """``count`` crops: the middle of every photo, then corners until there are enough.

    First all top left corners, then clockwise; of the last corner only as many as are missing,
    spread evenly over the photos. In photos smaller than twice the crop, crops overlap.

    Raises:
        ValueError: ``count`` is below 1 or above five crops a photo, or a photo is too small.
        ImageError: the folder holds no image, or a file is none.
    """
    paths, photos = find_images([folder]), read_photos(folder, count)
    for turn, corner in enumerate(CORNERS, start=1):
        missing = count - len(photos)
        spread = list(enumerate(paths))[:: max(len(paths) // max(missing, 1), 1)][:missing]
        for number, path in spread:
            name, clean = f"{path.name}, {corner}", _corner(read_image(path).pixels, corner)
            photos.append(Photo(number + turn * len(paths), name, clean))
    if len(photos) < count:
        raise ValueError(f"{len(paths)} photos have {len(photos)} crops, expected {count}")
    return photos


def _corner(image: Tensor, corner: str) -> Tensor:
    """(3, SIDE, SIDE) of (3, H, W) in one of :data:`CORNERS`."""
    top = 0 if "top" in corner else image.shape[-2] - SIDE
    left = 0 if "left" in corner else image.shape[-1] - SIDE
    return image[..., top : top + SIDE, left : left + SIDE]


def centre_crop(image: Tensor, height: int, width: int) -> Tensor:
    """The middle (..., height, width) of (..., H, W); odd margins are larger below and right.

    >>> centre_crop(torch.arange(5).view(1, 1, 5), 1, 2)
    tensor([[[1, 2]]])

    Raises:
        ValueError: the image is smaller.
    """
    margins = image.shape[-2] - height, image.shape[-1] - width
    if min(margins) < 0:
        raise ValueError(
            f"photos must be at least {width} x {height} px; "
            f"got {image.shape[-1]} x {image.shape[-2]}"
        )
    top, left = (margin // 2 for margin in margins)
    return image[..., top : top + height, left : left + width]


def damage(photo: Photo, preset: str, *, seed: int) -> Tensor:
    """Damage a photo by a preset of ``zoomiqa_core.data.damage.restoration``: (3, SIDE, SIDE).

    >>> photo = Photo(0, "a.png", torch.rand(3, SIDE, SIDE))
    >>> torch.equal(damage(photo, "mixed", seed=0), damage(photo, "mixed", seed=0))
    True
    """
    generator = damage_generator(seed, photo.number)
    return degrade(photo.clean[None], preset, generator=generator).images[0]


def damage_generator(seed: int, number: int) -> torch.Generator:
    """CPU generator for the damage of one photo.

    Independent of the generators of candidates (``restorers.candidate_generator``) with the same
    seed and number; otherwise a restorer could draw the noise that it should remove.

    >>> damage_generator(0, 3).initial_seed() == damage_generator(0, 4).initial_seed()
    False
    """
    return derived_generator(seed, number, stream=1)  # candidates have no stream
