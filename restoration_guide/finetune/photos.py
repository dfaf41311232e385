"""Training data for fine-tuning: photos degraded on the fly, or pairs of degraded and clean."""

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
    """Interface of training data: a random crop of each of some photos."""

    def __len__(self) -> int: ...

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """A random square crop of ``size`` px of each of these photos."""
        ...


class DegradedPhotos:
    """Clean photos whose crops are degraded by random presets.

    >>> from zoomiqa_core.images.sources import save_png
    >>> path = save_png(torch.rand(3, 64, 80), "photo.png")
    >>> photos = DegradedPhotos([path], {"mixed": 0.8, "none": 0.2}, min_side=48)
    >>> batch = photos.pick([0, 0], 48, generator=torch.Generator().manual_seed(0))
    >>> batch.degraded.shape, batch.truth.shape
    (torch.Size([2, 3, 48, 48]), torch.Size([2, 3, 48, 48]))

    Args:
        paths: image files, sides ≥ ``min_side``.
        presets: share of each preset of ``zoomiqa_core.data.damage.restoration``; with "none", a
            crop is not degraded.
        min_side: size of the largest crop.
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
    """Pairs of degraded and clean photos.

    >>> from zoomiqa_core.images.sources import save_png
    >>> for side in ("degraded", "clean"):
    ...     Path("pairs", side).mkdir(parents=True)
    ...     _ = save_png(torch.rand(3, 64, 80), f"pairs/{side}/photo.png")
    >>> pairs = PairedPhotos("pairs", min_side=48)
    >>> len(pairs), training_batch(pairs, 2, 48, generator=torch.Generator()).truth.shape
    (1, torch.Size([2, 3, 48, 48]))

    Args:
        folder: contains ``degraded/`` and ``clean/``; the images of a pair have the same name.
        min_side: size of the largest crop.

    Raises:
        ValueError: the names differ, or the sizes of a pair.
    """

    def __init__(self, folder: str | Path, *, min_side: int) -> None:
        sides = [find_images([Path(folder, side)]) for side in ("degraded", "clean")]
        names = [[path.stem for path in side] for side in sides]
        if names[0] != names[1]:
            odd = sorted(set(names[0]) ^ set(names[1]))[:3]
            raise ValueError(
                f"{folder}: the images of a pair must have the same name; without partner: {odd}"
            )
        self.pools = [PhotoPool(side, min_side=min_side) for side in sides]
        for path, degraded, clean in zip(sides[0], *(p.sizes for p in self.pools), strict=True):
            if degraded != clean:
                raise ValueError(
                    f"{path}: both images of a pair must have the same size; "
                    f"got {degraded} degraded and {clean} clean (height, width)"
                )

    def __len__(self) -> int:
        return len(self.pools[0])

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """The same random crop of both images of each pair."""
        sides = []
        state = generator.get_state()
        for pool in self.pools:
            generator.set_state(state)  # so that both images get the same crop
            sides.append(torch.stack([pool.crop(i, size, generator=generator) for i in indices]))
        return Batch(*sides)


def training_batch(photos: Photos, count: int, size: int, *, generator: torch.Generator) -> Batch:
    """``count`` random crops of photos drawn with replacement (example: :class:`PairedPhotos`)."""
    indices = torch.randint(len(photos), (count,), generator=generator).tolist()
    return photos.pick(indices, size, generator=generator)


def held_out_batch(photos: Photos, count: int, size: int, *, seed: int) -> Batch:
    """``count`` crops of the photos in turn, the same for the same seed.

    >>> from zoomiqa_core.images.sources import save_png
    >>> path = save_png(torch.rand(3, 64, 80), "photo.png")
    >>> photos = DegradedPhotos([path], {"mixed": 1.0}, min_side=48)
    >>> first, again = (held_out_batch(photos, 2, 48, seed=0) for _ in range(2))
    >>> torch.equal(first.degraded, again.degraded)
    True
    """
    indices = [number % len(photos) for number in range(count)]
    return photos.pick(indices, size, generator=torch.Generator().manual_seed(seed))


def split_photos(paths: Sequence[Path], every: int = 3) -> tuple[list[Path], list[Path]]:
    """Split photos into training and held-out ones: the first of every ``every`` is held out.

    >>> training, held_out = split_photos([Path(f"{n}.png") for n in range(5)])
    >>> [path.name for path in held_out]
    ['0.png', '3.png']

    Raises:
        ValueError: fewer than ``every`` photos.
    """
    if len(paths) < every:
        raise ValueError(
            f"expected at least {every} photos, to hold one of {every} out; got {len(paths)}. Give "
            "more photos or a folder of held-out ones"
        )
    return [p for i, p in enumerate(paths) if i % every], list(paths[::every])


def _damaged(image: Tensor, preset: str, generator: torch.Generator) -> Tensor:
    return image if preset == "none" else degrade(image, preset, generator=generator).images
