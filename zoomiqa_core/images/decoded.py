"""What is known of an image once it is read: its pixels, and what an output of it should keep."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ExifTags, Image
from torch import Tensor

_KEPT_TAGS = frozenset(
    {
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.XResolution,
        ExifTags.Base.YResolution,
        ExifTags.Base.ResolutionUnit,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.HostComputer,
        ExifTags.Base.Rating,
        ExifTags.Base.Copyright,
        ExifTags.Base.XPTitle,
        ExifTags.Base.XPComment,
        ExifTags.Base.XPAuthor,
        ExifTags.Base.XPKeywords,
        ExifTags.Base.XPSubject,
    }
)
"""Of the first directory: in a TIFF file the others say how its own pixels are stored."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (tag 0x0112) → the operation that makes the image upright."""

_SWAPS_SIDES = tuple(_UPRIGHT[value] for value in (5, 6, 7, 8))
_LONGEST_EXIF = 65_000
"""Bytes; a JPEG file holds 65,533."""


@dataclass(frozen=True)
class DecodedImage:
    """An image inside the boundary.

    >>> import torch
    >>> from zoomiqa_core import read_image
    >>> image = read_image(torch.rand(4, 6))
    >>> tuple(image.pixels.shape), image.alpha, image.exif
    ((3, 4, 6), None, b'')
    """

    pixels: Tensor
    """RGB, (3, H, W), float32 in [0, 1], on the CPU, detached, sharing memory with no source."""
    notes: tuple[str, ...] = ()
    """What was decided while reading, e.g. ``"alpha composited over white"``."""
    name: str = ""
    """The path as given; empty for an object that has none."""
    alpha: Tensor | None = None
    """(1, H, W) float32 in [0, 1], over which ``pixels`` are composited; None where opaque."""
    exif: bytes = b""
    """EXIF that fits the upright sRGB pixels: no orientation, no thumbnail, the size as it is."""


def read_exif(image: Image.Image) -> tuple[bytes, Image.Transpose | None, list[str]]:
    """EXIF for outputs, what makes the image upright, and notes.

    >>> read_exif(Image.new("L", (4, 4)))
    (b'', None, [])
    """
    try:
        exif = image.getexif()
        turn = _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
        width, height = image.size[::-1] if turn in _SWAPS_SIDES else image.size
        return upright_exif(exif, (width, height)), turn, []
    except Exception:  # damaged metadata does not make the pixels wrong
        return b"", None, ["EXIF unreadable, orientation not applied"]


def upright_exif(exif: Image.Exif, size: tuple[int, int]) -> bytes:
    """EXIF for an upright sRGB copy of the image it was read from.

    Args:
        exif: as read.
        size: width and height of the upright image.

    Returns:
        The bytes that Pillow writes; empty without any tag, or when it is longer than 65,000 bytes
        even without the camera's own notes.

    >>> exif = Image.Exif()
    >>> exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "Leica", 6
    >>> kept = Image.Exif()
    >>> kept.load(upright_exif(exif, (6, 4)))
    >>> dict(kept)
    {271: 'Leica'}
    """
    kept = Image.Exif()
    for tag in _KEPT_TAGS & exif.keys():
        value = exif[tag]
        # Pillow reads text as Latin-1 and would write ASCII: so the bytes stay as they were
        kept[tag] = value.encode("latin-1", "replace") if isinstance(value, str) else value
    photo = dict(exif.get_ifd(ExifTags.IFD.Exif))
    photo.pop(ExifTags.IFD.Interop, None)  # names the colour space of the old pixels
    now = {
        ExifTags.Base.ColorSpace: 1,  # sRGB
        ExifTags.Base.ExifImageWidth: size[0],
        ExifTags.Base.ExifImageHeight: size[1],
    }
    photo |= {tag: value for tag, value in now.items() if tag in photo}
    for directory, tags in (
        (ExifTags.IFD.Exif, photo),
        (ExifTags.IFD.GPSInfo, dict(exif.get_ifd(ExifTags.IFD.GPSInfo))),
    ):
        if tags:
            kept[directory] = tags
    data = kept.tobytes() if len(kept) else b""
    if len(data) > _LONGEST_EXIF and photo.pop(ExifTags.Base.MakerNote, None):
        data = kept.tobytes()
    return data if len(data) <= _LONGEST_EXIF else b""
