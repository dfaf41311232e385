"""Pillow's global settings and plugins while an image is decoded."""

from __future__ import annotations

import importlib.util
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile

from zoomiqa_core.images.errors import ImageLimits

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})

_LITTLE = sys.byteorder == "little"
_lock = threading.Lock()
_active = 0
_before: tuple[bool, int | None] = (False, None)


@contextmanager
def pillow_settings(limits: ImageLimits) -> Iterator[None]:
    """Decode strictly, and up to the size that the caller allows.

    Other libraries set ``ImageFile.LOAD_TRUNCATED_IMAGES``, under which half a file decodes to an
    image with a grey rest; it is off until the last thread has left. Pillow's ceiling of pixels is
    raised where the limits ask for more.
    """
    global _active, _before
    with _lock:
        if _active == 0:
            _before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _active += 1
        if Image.MAX_IMAGE_PIXELS is not None and limits.max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = _before


def low_bytes(image: Image.Image) -> Image.Image | None:
    """The less significant bytes of a file's 16-bit colours, as an 8-bit image.

    Pillow reads the more significant ones alone; told the other order of bytes, it reads these.

    Args:
        image: opened, and not loaded yet.

    Returns:
        None where there are none, or none can be read: ``image`` is all there is.
    """
    file: Any = getattr(image, "fp", None)
    tiles = getattr(image, "tile", ())
    if image.mode not in ("RGB", "RGBA") or image.format not in ("PNG", "TIFF") or file is None:
        return None
    other_order = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if _LITTLE else ";16L"}

    def swapped(tile: Any) -> Any:
        given = (tile.args,) if isinstance(tile.args, str) else tuple(tile.args)
        mode = str(given[0])
        mode = mode[:-4] + other_order.get(mode[-4:], mode[-4:])
        return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *given[1:]))

    turned = [swapped(tile) for tile in tiles]
    if not tiles or any(tile == before for tile, before in zip(turned, tiles, strict=True)):
        return None
    position = file.tell()
    file.seek(0)
    data = io.BytesIO(file.read())
    file.seek(position)
    low: Any = Image.open(data, formats=[image.format])
    low.seek(image.tell())
    low.tile = turned
    low.load()
    return low


def is_heif(head: bytes) -> bool:
    """Whether a file that starts with these 12 bytes is HEIC or HEIF."""
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"hevc", b"mif1")


def can_read_heif() -> bool:
    """Whether a plugin for HEIC is registered with Pillow, or the package pillow-heif is there."""
    return "HEIF" in Image.OPEN or importlib.util.find_spec("pillow_heif") is not None


def register_heif() -> None:
    """Register pillow-heif, unless a plugin is registered already."""
    if "HEIF" not in Image.OPEN:
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
