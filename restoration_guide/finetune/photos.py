"""Batches for fine-tuning: clean photos degraded on the fly, or pairs of degraded and clean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from restoration_guide.finetune.methods import Batch
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import find_images


class Photos(Protocol):
    """Where batches come from."""

    def __len__(self) -> int: ...

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """A random crop of ``size`` px of each of these photos; the same for the same state."""
        ...


class DegradedPhotos:
    """Clean photos, each crop damaged by a preset drawn at random.

    Args:
        paths: image files, sides ≥ ``min_side``.
        presets: share of each preset of ``zoomiqa_core.data.damage.restoration``; "none" leaves a
            crop as it is.
        min_side: largest crop that will be asked for.
    """

    def __init__(
        self, paths: Sequence[Path], presets: Mapping[str, float], *, min_side: int
    ) -> None:
        self.pool = PhotoPool(paths, min_side=min_side)
        self.presets = dict(presets)

    def __len__(self) -> int:
        return len(self.pool)

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """Crops and their damaged versions."""
        clean = torch.stack([self.pool.crop(i, size, generator=generator) for i in indices])
        names, shares = list(self.presets), torch.tensor(list(self.presets.values()))
        drawn = torch.multinomial(shares, len(clean), replacement=True, generator=generator)
        damaged = [
            _damaged(image[None], names[k], generator)
            for image, k in zip(clean, drawn.tolist(), strict=True)
        ]
        return Batch(torch.cat(damaged), clean)


class PairedPhotos:
    """Degraded photos with their clean versions.

    Args:
        folder: holds ``degraded/`` and ``clean/``; the images of a pair share their name.
        min_side: largest crop that will be asked for.

    Raises:
        ValueError: the names differ, or the sizes of a pair.
    """

    def __init__(self, folder: str | Path, *, min_side: int) -> None:
        sides = [find_images([Path(folder, side)]) for side in ("degraded", "clean")]
        names = [[path.stem for path in side] for side in sides]
        if names[0] != names[1]:
            odd = sorted(set(names[0]) ^ set(names[1]))[:3]
            raise ValueError(f"{folder}: the images of a pair share a name; without partner: {odd}")
        self.pools = [PhotoPool(side, min_side=min_side) for side in sides]
        for path, degraded, clean in zip(sides[0], *(p.sizes for p in self.pools), strict=True):
            if degraded != clean:
                raise ValueError(
                    f"{path}: a pair must have one size, so that both sides are cut at one place; "
                    f"got {degraded} degraded and {clean} clean (height, width)"
                )

    def __len__(self) -> int:
        return len(self.pools[0])

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """The same crop of both sides of each pair."""
        sides = []
        state = generator.get_state()
        for pool in self.pools:
            generator.set_state(state)  # both sides are cropped by the same draws
            sides.append(torch.stack([pool.crop(i, size, generator=generator) for i in indices]))
        return Batch(*sides)


def training_batch(photos: Photos, count: int, size: int, *, generator: torch.Generator) -> Batch:
    """``count`` random crops of photos drawn with replacement."""
    indices = torch.randint(len(photos), (count,), generator=generator).tolist()
    return photos.pick(indices, size, generator=generator)


def held_out_batch(photos: Photos, count: int, size: int, *, seed: int) -> Batch:
    """``count`` fixed crops, in turn from every photo."""
    indices = [number % len(photos) for number in range(count)]
    return photos.pick(indices, size, generator=torch.Generator().manual_seed(seed))


def split_photos(paths: Sequence[Path], every: int = 3) -> tuple[list[Path], list[Path]]:
    """Training and held-out photos of one folder: every third is held out.

    Raises:
        ValueError: fewer than ``every`` photos.
    """
    if len(paths) < every:
        raise ValueError(
            f"{len(paths)} photos are too few to hold some out; give at least {every}, or a "
            "folder of held-out ones"
        )
    return [p for i, p in enumerate(paths) if i % every], list(paths[::every])


def _damaged(image: Tensor, preset: str, generator: torch.Generator) -> Tensor:
    return image if preset == "none" else degrade(image, preset, generator=generator).images
