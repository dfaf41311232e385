"""From tensors to pictures: PIL images, and the bytes of PNG, JPEG, WebP and TIFF files."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from zoomiqa_core.images.colour import srgb_profile
from zoomiqa_core.images.errors import BadShapeError, BadValuesError
from zoomiqa_core.images.pixels import without_batch

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Suffix → format of the pictures that are written."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}
"""TIFF is not compressed: Pillow cannot write EXIF into one that is."""


def format_of(path: str | os.PathLike[str]) -> str:
    """The format of a picture by the suffix of its path.

    >>> format_of("restored.JPG")
    'JPEG'

    Raises:
        ValueError: none that is written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"{os.fspath(path)}: expected a name that ends in {', '.join(FORMATS)}, got "
            f"{suffix or 'no suffix'!r}"
        )
    return FORMATS[suffix]


def to_pil(image: Tensor) -> Image.Image:
    """Convert (3, H, W) or (1, 3, H, W) in [0, 1] to an 8-bit RGB image.

    Values outside [0, 1] are clamped; halves round to even, as :func:`torch.round` does.

    >>> import torch
    >>> to_pil(torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1)).getpixel((0, 0))
    (255, 128, 0)

    Raises:
        BadShapeError: Another layout.
        BadValuesError: NaN or infinite values.
    """
    return Image.fromarray(_levels(_finite(image), np.uint8))


def encode(
    image: Tensor, fmt: str, *, alpha: Tensor | None = None, exif: bytes = b"", bits: int = 8
) -> bytes:
    r"""The bytes of a picture file with an sRGB profile; the same pixels give the same bytes.

    Args:
        image: (3, H, W) or (1, 3, H, W) in [0, 1]; with ``alpha`` as it looks over white.
        fmt: one of :data:`FORMATS`; a JPEG file is opaque, it leaves ``alpha`` out.
        alpha: (1, H, W) in [0, 1].
        exif: as in ``DecodedImage.exif``.
        bits: per channel, 8 or, of a PNG, 16.

    >>> import torch
    >>> encode(torch.rand(3, 4, 6), "PNG", bits=16)[:4]
    b'\x89PNG'

    Raises:
        BadShapeError: another layout, or an ``alpha`` of another size.
        BadValuesError: NaN or infinite values.
        ValueError: other ``bits``.
    """
    if bits not in (8, 16) or (bits == 16 and fmt != "PNG"):
        raise ValueError(
            f"expected 8 bits per channel, or 16 of a PNG; got {bits} of a {fmt}: name a .png file "
            "for 16 bits"
        )
    pixels = _finite(image)
    if alpha is not None and alpha.shape[1:] != pixels.shape[1:]:
        raise BadShapeError(
            f"alpha: expected (1, {pixels.shape[1]}, {pixels.shape[2]}) as the image, got "
            f"{tuple(alpha.shape)}"
        )
    levels = _levels(pixels, np.uint8 if bits == 8 else np.uint16, None if fmt == "JPEG" else alpha)
    if bits == 16:
        return _png_of_16_bits(levels, exif)
    buffer = io.BytesIO()
    more = dict(_OPTIONS.get(fmt, {}))
    if exif:
        more["exif"] = _as_tags(exif) if fmt == "TIFF" else exif
    Image.fromarray(levels).save(buffer, fmt, icc_profile=srgb_profile(), **more)
    return buffer.getvalue()


def _finite(image: Tensor) -> Tensor:
    pixels = without_batch(image).detach().float().cpu()
    if not pixels.isfinite().all():
        raise BadValuesError("tensor: some values are NaN or infinite, expected [0, 1]")
    return pixels.clamp(0, 1)


def _levels(pixels: Tensor, dtype: type, alpha: Tensor | None = None) -> np.ndarray:
    """(H, W, 3) or, with alpha, (H, W, 4) integer levels of (3, H, W) in [0, 1]."""
    white = np.iinfo(dtype).max
    planes = pixels.mul(white).round().permute(1, 2, 0)
    if alpha is None:
        return np.ascontiguousarray(planes.numpy().astype(dtype))
    # colour · alpha + (1 − alpha) is the pixel over white; where nothing shows it stays white
    colour = ((pixels - 1) / alpha.clamp(min=1e-6) + 1).clamp(0, 1)
    planes = [plane.mul(white).round() for plane in (*colour, *alpha)]
    return np.stack([plane.numpy() for plane in planes], 2).astype(dtype)


def _as_tags(data: bytes) -> Image.Exif:
    """EXIF for a TIFF file, with texts as bytes: Pillow reads Latin-1 and would write ASCII."""
    exif = Image.Exif()
    exif.load(data)
    for tag, value in list(exif.items()):
        if isinstance(value, str):
            exif[tag] = value.encode("latin-1")
    return exif


def _png_of_16_bits(levels: np.ndarray, exif: bytes) -> bytes:
    """A PNG file of (H, W, 3 or 4) uint16 levels; Pillow writes 8 bits of colour only."""
    height, width, channels = levels.shape
    rows = levels.astype(">u2").view(np.uint8).reshape(height, -1)
    stored = np.empty((height, rows.shape[1] + 1), np.uint8)
    stored[:, 0] = 1  # filter "sub": each byte minus that of the pixel to the left
    stored[:, 1:] = rows
    stored[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
    header = struct.pack(">IIBBBBB", width, height, 16, 6 if channels == 4 else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"iCCP", b"sRGB\0\0" + zlib.compress(srgb_profile()))]
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(stored.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
        for tag, data in chunks
    )
