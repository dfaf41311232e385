"""Random crops of training photos, undamaged and damaged: what numbers are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.damaged_photos import SIDE, damage_generator
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.images.sources import find_images, read_image

UNDAMAGED, MIXED = "undamaged", "mixed"
OTHERS = ("blur", "noise_jpeg", "x2", "blur_noise", "x4")


@dataclass(frozen=True)
class Crop:
    """A crop of a training photo, damaged or not."""

    kind: str
    """A preset's name, or ``"undamaged"``."""
    clean: Tensor
    """(3, SIDE, SIDE) in [0, 1]."""
    image: Tensor
    """(3, SIDE, SIDE) in [0, 1]."""


def kind_of(number: int) -> str:
    """What happens to crop ``number``: of five, two undamaged, two mixed, one of another preset."""
    place = number % 5
    if place == 4:
        return OTHERS[number // 5 % len(OTHERS)]
    return UNDAMAGED if place % 2 == 0 else MIXED


def crops(photos: Path, count: int, seed: int, kind: Callable[[int], str]) -> Iterator[Crop]:
    """Random crops of ``count`` photos in an order drawn from ``seed``."""
    paths = find_images([photos])
    if count > len(paths):
        raise ValueError(f"{count} crops need as many photos; {photos} holds {len(paths)}")
    order = np.random.default_rng(seed).permutation(len(paths))
    for number in range(count):
        photo = int(order[number])
        generator = damage_generator(seed, photo)
        pixels = read_image(paths[photo]).pixels
        top, left = (
            int(torch.randint(size - SIDE + 1, (), generator=generator))
            for size in pixels.shape[-2:]
        )
        clean = pixels[:, top : top + SIDE, left : left + SIDE].contiguous()
        image, chosen = clean, kind(number)
        if chosen != UNDAMAGED:
            image = degrade(clean[None], chosen, generator=generator).images[0]
        yield Crop(chosen, clean, image)
