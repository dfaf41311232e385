"""Training data for fine-tuning: photos degraded on the fly, or pairs of degraded and clean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.finetune.methods import Batch
from restoration_guide.finetune.photo_files import PhotoFiles
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.restoration.model import on_grid
from zoomiqa_core.runs.random import below


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
        scale: side of the clean crop over that of the degraded one, which is shrunk at the end.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        presets: Mapping[str, float],
        *,
        min_side: int,
        scale: int = 1,
    ) -> None:
        self.files = PhotoFiles(paths, min_side=min_side)
        self.presets, self.scale = dict(presets), scale

    def __len__(self) -> int:
        return len(self.files)

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """Crops and their damaged versions."""
        clean = torch.stack([self.files.crop(i, size, generator=generator) for i in indices])
        names, shares = list(self.presets), torch.tensor(list(self.presets.values()))
        drawn = torch.multinomial(shares, len(clean), replacement=True, generator=generator)
        damaged = torch.cat(
            [
                _damaged(image[None], names[k], generator)
                for image, k in zip(clean, drawn.tolist(), strict=True)
            ]
        )
        return Batch(functional.avg_pool2d(damaged, self.scale), clean)


class PairedPhotos:
    """Pairs of degraded and clean photos, of one size or of sizes that differ by a whole factor.

    >>> from zoomiqa_core.images.sources import save_png
    >>> for side in (32, 64):
    ...     name = "LR2" if side == 32 else "HR"
    ...     _ = save_png(torch.rand(3, side, side), Path(f"pairs/Canon_001_{name}.png"))
    >>> from restoration_guide.finetune.pairs import find_pairs
    >>> pairs = PairedPhotos(find_pairs("pairs", "realsr"), min_side=48, enlarge=False)
    >>> batch = training_batch(pairs, 2, 48, generator=torch.Generator().manual_seed(0))
    >>> pairs.factor, batch.degraded.shape, batch.truth.shape
    (2, torch.Size([2, 3, 24, 24]), torch.Size([2, 3, 48, 48]))

    Args:
        pairs: (degraded, clean) files, of :func:`.pairs.find_pairs`.
        min_side: size of the largest crop of the clean photos.
        enlarge: enlarge degraded crops to the clean ones' size (bicubic), for restorers that keep
            the size of their input.

    Raises:
        ValueError: sizes of a pair that differ by no whole factor, or by another than the others'.
    """

    def __init__(
        self, pairs: Sequence[tuple[Path, Path]], *, min_side: int, enlarge: bool = True
    ) -> None:
        self.clean = PhotoFiles([clean for _, clean in pairs], min_side=min_side)
        self.degraded = PhotoFiles([degraded for degraded, _ in pairs], min_side=1)
        self.enlarge, self.factor = enlarge, 0
        sizes = zip(self.degraded.sizes, self.clean.sizes, strict=True)
        for (path, _), (low, high) in zip(pairs, sizes, strict=True):
            factor = high[0] // low[0]
            self.factor = self.factor or factor
            if factor < 1 or (low[0] * factor, low[1] * factor) != high or factor != self.factor:
                raise ValueError(
                    f"{path}: expected a clean photo as large as the degraded one, or larger by "
                    f"one whole factor in all pairs (here {self.factor}); got {low} degraded and "
                    f"{high} clean (height, width)"
                )

    def __len__(self) -> int:
        return len(self.clean)

    def pick(self, indices: Sequence[int], size: int, *, generator: torch.Generator) -> Batch:
        """The same random crop of both images of each pair.

        Args:
            indices: of the pairs.
            size: side of the clean crop, a multiple of the factor.
            generator: draws places and mirroring.
        """
        if size % self.factor:
            raise ValueError(f"crops of {size} px are no multiple of the factor {self.factor}")
        degraded, clean = [], []
        for index in indices:
            height, width = self.degraded.sizes[index]
            low = size // self.factor
            top, left = below(height - low + 1, generator), below(width - low + 1, generator)
            mirror = below(2, generator)
            places = [(top, left, low), (top * self.factor, left * self.factor, size)]
            for files, crops, place in zip(
                (self.degraded, self.clean), (degraded, clean), places, strict=True
            ):
                crop = files.window(index, *place)
                crops.append(crop.flip(-1) if mirror else crop)
        truth, given = torch.stack(clean), torch.stack(degraded)
        return Batch(on_grid(given, truth) if self.enlarge else given, truth)


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
