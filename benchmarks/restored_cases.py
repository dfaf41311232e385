"""Photos with their damaged version and all their candidates, kept on disk.

Restoring is what takes time. With the pixels kept, studying a rule of choice takes seconds, and a
killed run goes on where it was. One safetensors file per case, in a folder per seed.

Case i shows a random 256 x 256 crop of the i-th photo of the folder, in an order drawn from the
seed. Kinds take turns: of every five cases two are undamaged, two ``mixed`` and one is of another
preset.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.damaged_photos import SIDE, damage_generator
from restoration_guide.restorers.base import Restorer
from zoomiqa_core.data.degradations import degrade
from zoomiqa_core.files import atomic_path
from zoomiqa_core.images import find_images, read_image

UNDAMAGED = "undamaged"
OTHERS = ("blur", "noise_jpeg", "x2", "blur_noise", "x4")


@dataclass(frozen=True, eq=False)
class Case:
    """One damaged crop, what it was, and what was made of it."""

    name: str
    """File name of the photo."""
    kind: str
    """A preset's name, or ``"undamaged"``."""
    clean: Tensor
    """(3, SIDE, SIDE) float32 in [0, 1]."""
    damaged: Tensor
    """(3, SIDE, SIDE) float32 in [0, 1], the restorer's input."""
    candidates: Tensor
    """(n, 3, SIDE, SIDE) float32 in [0, 1]; kept in half precision."""


def kind_of(number: int) -> str:
    """What happens to the photo of case ``number``."""
    return {0: UNDAMAGED, 1: "mixed", 2: UNDAMAGED, 3: "mixed"}.get(
        number % 5, OTHERS[number // 5 % len(OTHERS)]
    )


def restored_cases(
    photos: str | os.PathLike[str],
    folder: Path,
    restorer: Restorer,
    *,
    count: int,
    n: int,
    seed: int,
) -> Iterator[Case]:
    """The first ``count`` cases, read from ``folder`` or made and written there.

    Raises:
        ValueError: there are fewer photos than cases.
    """
    paths = find_images([photos])
    if count > len(paths):
        raise ValueError(f"{count} cases need as many photos; {photos} holds {len(paths)}.")
    order = np.random.default_rng(seed).permutation(len(paths))
    for number in range(count):
        path, kind = paths[order[number]], kind_of(number)
        file = folder / f"seed-{seed}" / f"{number:03d}.safetensors"
        if file.exists():
            stored = load_file(file)
        else:
            stored = _make(path, kind, restorer, n, seed, int(order[number]))
            with atomic_path(file) as temporary:
                save_file(stored, temporary)
        clean, damaged = (stored[key].float() / 255 for key in ("clean", "damaged"))
        yield Case(path.name, kind, clean, damaged, stored["candidates"][:n].float())


def _make(
    path: Path, kind: str, restorer: Restorer, n: int, seed: int, number: int
) -> dict[str, Tensor]:
    generator = damage_generator(seed, number)
    clean = _random_crop(read_image(path).pixels, generator)
    damaged = clean
    if kind != UNDAMAGED:
        damaged = degrade(clean[None], kind, generator=generator).images[0]
    made = list(restorer.restore(damaged[None], n=n, seed=seed))
    made.sort(key=lambda candidate: candidate.index)
    return {
        "clean": clean.mul(255).round().to(torch.uint8),
        "damaged": damaged.mul(255).round().to(torch.uint8),
        "candidates": torch.stack([candidate.image for candidate in made]).half(),
    }


def _random_crop(image: Tensor, generator: torch.Generator) -> Tensor:
    """(3, SIDE, SIDE) of (3, H, W), anywhere."""
    top, left = (
        int(torch.randint(size - SIDE + 1, (), generator=generator)) for size in image.shape[-2:]
    )
    return image[:, top : top + SIDE, left : left + SIDE].contiguous()
