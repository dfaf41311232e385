"""Photos read when they are needed: memory does not grow with their number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.data.photos import read_8_bit
from zoomiqa_core.runs.random import below

CACHE_BYTES = 256 * 2**20
"""Decoded photos that are kept, so that small sets are decoded once."""

TURNED = (5, 6, 7, 8)
"""Orientations of EXIF with height and width exchanged."""


class PhotoFiles:
    """Image files that are decoded when a crop of them is drawn.

    >>> from zoomiqa_core.images.sources import save_png
    >>> photos = PhotoFiles([save_png(torch.rand(3, 80, 96), "photo.png")], min_side=64)
    >>> photos.sizes, photos.crop(0, 64, generator=torch.Generator().manual_seed(0)).shape
    ([(80, 96)], torch.Size([3, 64, 64]))

    Args:
        paths: image files.
        min_side: smallest side that can be cropped, pixels.
        cache_bytes: most memory for decoded photos; the one in use comes on top.

    Raises:
        ValueError: no photo, or a photo smaller than ``min_side``.
    """

    def __init__(
        self, paths: Iterable[str | Path], *, min_side: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        with ThreadPoolExecutor() as readers:
            self.sizes = list(readers.map(image_size, self.paths))
        if not self.paths:
            raise ValueError("no photos to train on; is the folder right?")
        for path, size in zip(self.paths, self.sizes, strict=True):
            if min(size) < min_side:
                raise ValueError(f"{path} is {size}; crops need {min_side} px")

    def __len__(self) -> int:
        return len(self.paths)

    def photo(self, index: int) -> Tensor:
        """(3, H, W) uint8, from the cache or the file."""
        with self._lock:
            found = self._cache.pop(index, None)
            if found is None:
                found = read_8_bit(self.paths[index])
            self._cache[index] = found  # the most recent is last
            while len(self._cache) > 1 and self.cached_bytes > self.cache_bytes:
                self._cache.popitem(last=False)
        return found

    @property
    def cached_bytes(self) -> int:
        """Memory of the decoded photos."""
        return sum(photo.numel() for photo in self._cache.values())

    def window(self, index: int, top: int, left: int, size: int) -> Tensor:
        """(3, size, size) pixels of one photo, in [0, 1]."""
        return self.photo(index)[:, top : top + size, left : left + size].float() / 255

    def crop(self, index: int, size: int, *, generator: torch.Generator) -> Tensor:
        """A random (3, size, size) crop of one photo in [0, 1], mirrored half the time."""
        height, width = self.sizes[index]
        top, left = below(height - size + 1, generator), below(width - size + 1, generator)
        crop = self.window(index, top, left, size)
        return crop.flip(-1) if below(2, generator) else crop


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an upright image, from its header where Pillow reads it.

    >>> from zoomiqa_core.images.sources import save_png
    >>> image_size(save_png(torch.rand(3, 80, 96), "photo.png"))
    (80, 96)
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(274, 1) in TURNED
    except (OSError, Image.DecompressionBombError):  # read_8_bit says what is wrong with a file
        photo = read_8_bit(path)
        return photo.shape[-2], photo.shape[-1]
    return (width, height) if turned else (height, width)
