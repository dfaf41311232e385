"""Photos kept in memory for training: decoded once, cropped at random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from zoomiqa_core.images.sources import read_image
from zoomiqa_core.runs.random import below


class PhotoPool:
    """Photos kept in memory as 8-bit tensors.

    >>> from zoomiqa_core.images.sources import save_png
    >>> pool = PhotoPool([save_png(torch.rand(3, 80, 96), "photo.png")], min_side=64)
    >>> crops, indices = pool.crops(2, 64, generator=torch.Generator().manual_seed(0))
    >>> crops.shape, indices, pool.sizes
    (torch.Size([2, 3, 64, 64]), [0, 0], [(80, 96)])

    Args:
        paths: image files.
        min_side: smallest side that can be cropped, pixels.
        skip_small: leave smaller photos out of ``paths`` instead of raising.

    Raises:
        ValueError: no photo, or a photo smaller than ``min_side``.
    """

    def __init__(
        self, paths: Iterable[str | Path], *, min_side: int, skip_small: bool = False
    ) -> None:
        self.paths: list[Path] = []
        self._photos: list[Tensor] = []
        found = [Path(path) for path in paths]
        with ThreadPoolExecutor() as readers:  # decoding releases the interpreter lock
            for path, photo in zip(found, readers.map(read_8_bit, found), strict=True):
                if min(photo.shape[-2:]) < min_side:
                    if skip_small:
                        continue
                    size = tuple(photo.shape[-2:])
                    raise ValueError(f"{path} is {size}; crops need {min_side} px")
                self.paths.append(path)
                # a copy: the original lies between the reader's temporaries and fragments memory
                self._photos.append(photo.clone())
        if not self.paths:
            raise ValueError("no photos to train on; is the folder right?")

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every photo."""
        return [(photo.shape[-2], photo.shape[-1]) for photo in self._photos]

    def crop(self, index: int, size: int, *, generator: torch.Generator) -> Tensor:
        """A random (3, size, size) crop of one photo in [0, 1], mirrored half the time."""
        photo = self._photos[index]
        height, width = photo.shape[-2:]
        top = below(height - size + 1, generator)
        left = below(width - size + 1, generator)
        crop = photo[:, top : top + size, left : left + size].float() / 255
        return crop.flip(-1) if below(2, generator) else crop

    def crops(
        self,
        count: int,
        size: int,
        *,
        among: Sequence[int] | None = None,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[int]]:
        """``count`` crops of photos drawn with replacement: (count, 3, size, size), indices.

        ``among`` restricts the draw to some of the photos.
        """
        among = range(len(self)) if among is None else among
        indices = [among[below(len(among), generator)] for _ in range(count)]
        return torch.stack([self.crop(i, size, generator=generator) for i in indices]), indices

    def tiles(self, size: int, count: int, *, generator: torch.Generator) -> Tensor:
        """The same random crop of each of the ``count`` tiles of a random photo.

        The photo is a row of square tiles, H × count·H px. Returns (count, 3, size, size) in
        [0, 1], all mirrored half the time.

        Raises:
            ValueError: the photo is not such a row of tiles.
        """
        index = below(len(self), generator)
        photo = self._photos[index]
        height, width = photo.shape[-2:]
        if width != count * height:
            raise ValueError(
                f"{self.paths[index]} is {width}×{height} px; a row of {count} square tiles "
                f"would be {count * height}×{height}"
            )
        top = below(height - size + 1, generator)
        left = below(height - size + 1, generator)
        tiles = photo.unflatten(-1, (count, height)).permute(2, 0, 1, 3)
        tiles = tiles[..., top : top + size, left : left + size].float() / 255
        return tiles.flip(-1) if below(2, generator) else tiles


def read_8_bit(path: Path) -> Tensor:
    """(3, H, W) uint8 of an image file: a quarter of the memory of float32."""
    return (read_image(path).pixels * 255).round().to(torch.uint8)
