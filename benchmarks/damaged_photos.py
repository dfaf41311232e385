"""The photos that restoration is measured on: clean crops, each damaged in its own way.

A photo's number is its place in the sorted folder. The number, the seed and the preset fix the
damage, so every script that is given one folder and one seed tests the same damaged photos. They
are cropped in the middle; where more crops than photos are asked for, further ones come from the
corners.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.images.sources import find_images, read_image

SIDE = 256
"""Height and width of the crops in pixels."""
CORNERS = ("top left", "top right", "bottom right", "bottom left")
"""Where further crops are taken, in this order."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A crop of one clean photo."""

    number: int
    """Place of its file in the sorted folder, from 0; further crops count on from there."""
    name: str
    """File name; with the corner, where the crop is not the middle."""
    clean: Tensor
    """(3, SIDE, SIDE) float32 in [0, 1]."""


def read_photos(folder: str | os.PathLike[str], count: int | None = None) -> list[Photo]:
    """Photos of a folder: all, or ``count`` of them spread evenly over it.

    Raises:
        ValueError: ``count`` is below 1, or a photo is too small.
        ImageError: the folder holds no image, or a file is none.
    """
    if count is not None and count < 1:
        raise ValueError(f"count is a number of photos, at least 1; got {count}")
    numbered = list(enumerate(find_images([folder])))
    if count is not None:
        numbered = numbered[:: max(len(numbered) // count, 1)][:count]
    return [
        Photo(number, path.name, centre_crop(read_image(path).pixels, SIDE, SIDE))
        for number, path in numbered
    ]


def read_crops(folder: str | os.PathLike[str], count: int) -> list[Photo]:
    """``count`` crops: those of :func:`read_photos`, and where photos run out, their corners.

    All top left corners first, and so on clockwise; of the last round as many as are missing,
    spread evenly. Corner and middle overlap in photos below twice the crop's side.

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
        raise ValueError(f"{len(paths)} photos give {len(photos)} crops; {count} were asked for")
    return photos


def _corner(image: Tensor, corner: str) -> Tensor:
    """(3, SIDE, SIDE) of (3, H, W) in one of :data:`CORNERS`."""
    top = 0 if "top" in corner else image.shape[-2] - SIDE
    left = 0 if "left" in corner else image.shape[-1] - SIDE
    return image[..., top : top + SIDE, left : left + SIDE]


def centre_crop(image: Tensor, height: int, width: int) -> Tensor:
    """The middle (..., height, width) of (..., H, W); an odd margin is larger below and right.

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
    """(3, SIDE, SIDE) in [0, 1]: the photo damaged by a preset of ``degradations.PRESETS``."""
    generator = damage_generator(seed, photo.number)
    return degrade(photo.clean[None], preset, generator=generator).images[0]


def damage_generator(seed: int, number: int) -> torch.Generator:
    """CPU generator of one photo's damage under ``seed``.

    Its stream is unrelated to every candidate's (``restorers.candidate_generator``), which may have
    the same seed and number: otherwise a restorer could draw the very noise it is to remove.
    """
    sequence = np.random.SeedSequence([seed, number], spawn_key=(1,))  # candidates have no key
    # torch seeds are signed 64-bit numbers
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)
