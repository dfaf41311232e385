"""The image boundary: files, PIL images, arrays and tensors in; RGB float32 in [0, 1] out.

Every entry point reads through :func:`read_image`, so that one rule holds everywhere: the right
pixels, or an :class:`ImageError` that names the fault and the fix. What had to be decided on the
way (alpha, frames, profiles) is recorded in :attr:`DecodedImage.notes`.

Embedded colour profiles and colour tags are converted to sRGB (:mod:`~.colour`).
"""

from __future__ import annotations

import io
import os
import stat
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from zoomiqa_core.images.decoded import DecodedImage
from zoomiqa_core.images.encoding import encode, format_of, to_pil
from zoomiqa_core.images.errors import (
    BadShapeError,
    BadTypeError,
    BadValuesError,
    ClosedImageError,
    ConstantImageError,
    DirectoryImageError,
    EmptyImageError,
    ImageError,
    ImageLimits,
    MissingImageError,
    NotFiniteError,
    TooLargeError,
    TooSmallError,
    TruncatedImageError,
    UnknownFormatError,
    UnreadableImageError,
    UnsupportedColourError,
)
from zoomiqa_core.images.folders import SUFFIXES, find_images
from zoomiqa_core.images.pillow import (
    can_read_heif,
    is_heif,
    pillow_settings,
    register_heif,
)
from zoomiqa_core.images.pixels import (
    check_array,
    check_tensor,
    decoding_errors,
    from_array,
    from_pil,
    from_tensor,
)
from zoomiqa_core.runs.files import write_bytes_atomic

__all__ = [
    "DEFAULT_LIMITS",
    "SUFFIXES",
    "BadShapeError",
    "BadTypeError",
    "BadValuesError",
    "ClosedImageError",
    "ConstantImageError",
    "DecodedImage",
    "DirectoryImageError",
    "EmptyImageError",
    "EncodedImage",
    "ImageError",
    "ImageLimits",
    "ImageSource",
    "MissingImageError",
    "NotFiniteError",
    "TooLargeError",
    "TooSmallError",
    "TruncatedImageError",
    "UnknownFormatError",
    "UnreadableImageError",
    "UnsupportedColourError",
    "find_images",
    "read_image",
    "save_image",
    "save_png",
    "source_name",
    "to_batch",
    "to_pil",
]

DEFAULT_LIMITS = ImageLimits()
NO_LIMITS = ImageLimits(max_pixels=sys.maxsize, max_side=sys.maxsize)


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file that are in memory, as in a table or an archive.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (6, 4), "red").save(file, "PNG")
    >>> image = read_image(EncodedImage(file.getvalue(), "shard.tar/red.png"))
    >>> image.name, tuple(image.pixels.shape)
    ('shard.tar/red.png', (3, 4, 6))
    """

    data: bytes = field(repr=False)
    name: str
    """What results and messages call it."""


ImageSource = str | os.PathLike | Image.Image | np.ndarray | Tensor | EncodedImage
"""Whatever :func:`read_image` accepts."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pillow decoders in use. Others stay off: some run programs (EPS) or decode while opening."""


def read_image(source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> DecodedImage:
    """Read one image from any supported source.

    Args:
        source: A path (``~`` is expanded); a PIL image of any mode; the bytes of a file as an
            :class:`EncodedImage`; an array (H, W) or (H, W, 1–4), with alpha as the last of 2 or 4
            channels; a tensor (3, H, W), grey (1, H, W) or (H, W), or a batch of one of these.
            Arrays and tensors are uint8, uint16, or floating point in [0, 1]; an overshoot of at
            most 1e-3 is clamped.
        limits: Sizes accepted, checked before decoding. The default ones guard against files that
            decode to more than memory holds; arrays and tensors, which are in memory, may be
            larger.

    Returns:
        The upright image (EXIF orientation applied). Alpha is composited over white; of an
        animation the current frame is read, the first of a file; 16 bits keep their depth, except
        where a colour profile or a transparent colour is applied (in Pillow, at 8 bits); colours
        are converted to sRGB. All of it is noted.

    Raises:
        ImageError: A subclass whose ``code`` is one of ``missing``, ``directory``, ``empty``,
            ``unreadable``, ``unknown_format``, ``truncated``, ``too_large``, ``too_small``,
            ``bad_type``, ``bad_shape``, ``bad_values``, ``not_finite``, ``closed``,
            ``unsupported_colour``.

    >>> import torch
    >>> image = read_image(torch.full((1, 4, 6), 128, dtype=torch.uint8))
    >>> tuple(image.pixels.shape), round(image.pixels.mean().item(), 3)
    ((3, 4, 6), 0.502)
    >>> Image.new("RGBA", (6, 4), (255, 0, 0, 51)).save("red.png")
    >>> read_image("red.png").notes
    ('alpha composited over white',)
    """
    check_layout(source)
    if isinstance(source, str | os.PathLike):
        return _read_file(source, limits)
    if isinstance(source, EncodedImage):
        return _read_encoded(source, limits)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", ""))
        with pillow_settings(limits):
            return replace(from_pil(source, name or "PIL image", limits), name=name)
    if limits == DEFAULT_LIMITS:
        limits = NO_LIMITS
    if isinstance(source, np.ndarray):
        return from_array(source, limits)
    return from_tensor(source, limits)


def check_layout(source: ImageSource) -> None:
    """Refuse an object that is no image by its type, shape or dtype; nothing is read or decoded.

    Raises:
        BadTypeError, BadShapeError: see :func:`read_image`.
    """
    if isinstance(source, np.ndarray):
        check_array(source)
    elif isinstance(source, Tensor):
        check_tensor(source)
    elif not isinstance(source, str | os.PathLike | Image.Image | EncodedImage):
        raise BadTypeError(
            f"expected a path, PIL image, array or tensor, got {type(source).__name__}; "
            "open bytes and file objects with PIL.Image.open first"
        )


def source_name(source: ImageSource) -> str:
    """What to call a source that could not be read: its path, or the kind of object."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    return source.name if isinstance(source, EncodedImage) else type(source).__name__


def to_batch(source: ImageSource) -> Tensor:
    """The image as (1, 3, H, W) float32 in [0, 1]; reads and raises like :func:`read_image`.

    >>> tuple(to_batch(Image.new("RGB", (6, 4), "red")).shape)
    (1, 3, 4, 6)
    """
    return read_image(source).pixels.unsqueeze(0)


def save_png(image: ImageSource, path: str | os.PathLike[str]) -> Path:
    """Write an 8-bit RGB PNG with an sRGB profile atomically and return its path.

    Same pixels, same bytes: no time or other metadata is stored. A tensor is converted by
    :func:`to_pil` (clamped); any other source is read by :func:`read_image` first.

    >>> save_png(np.zeros((4, 6, 3)), "black.png").name
    'black.png'
    >>> read_image("black.png").pixels.max().item()
    0.0
    """
    tensor = image if isinstance(image, Tensor) else read_image(image).pixels
    return write_bytes_atomic(path, encode(tensor, "PNG"))


def save_image(
    image: Tensor,
    path: str | os.PathLike[str],
    *,
    like: DecodedImage | None = None,
    bits: int = 8,
) -> Path:
    """Write a picture with an sRGB profile atomically and return its path.

    Args:
        image: (3, H, W) or (1, 3, H, W) in [0, 1], clamped.
        path: Its suffix names the format: PNG, JPEG, WebP or TIFF.
        like: The image it was made from, of the same size. Its EXIF goes along, and its alpha
            beside the colour (not into a JPEG, which is opaque).
        bits: Per channel; 16 needs a PNG.

    >>> Image.new("RGBA", (6, 4), (255, 0, 0, 51)).save("red.png")
    >>> red = read_image("red.png")
    >>> copy = save_image(red.pixels, "copy.png", like=red)
    >>> round(read_image(copy).alpha.mean().item(), 3)
    0.2
    >>> save_image(red.pixels, "copy.gif")
    Traceback (most recent call last):
    ValueError: copy.gif: expected a name that ends in .png, .jpg, .jpeg, .webp, .tif, .tiff, ...

    Raises:
        BadShapeError, BadValuesError: See :func:`to_pil`; alpha of another size.
        ValueError: A suffix of no such format, or bits that it does not hold.
    """
    kept = {} if like is None else {"alpha": like.alpha, "exif": like.exif}
    return write_bytes_atomic(path, encode(image, format_of(path), bits=bits, **kept))


def _read_file(source: str | os.PathLike, limits: ImageLimits) -> DecodedImage:
    name = os.fsdecode(source)
    path = os.path.expanduser(name)
    _check_file(path, name)
    with decoding_errors(name), open(path, "rb") as file:
        formats = _decoders(file.read(12), name)
    with decoding_errors(name), pillow_settings(limits), Image.open(path, formats=formats) as image:
        return replace(from_pil(image, name, limits), name=name)


def _read_encoded(source: EncodedImage, limits: ImageLimits) -> DecodedImage:
    name = source.name
    if not source.data:
        raise EmptyImageError(f"{name}: no bytes; fetch or export it again")
    formats, file = _decoders(source.data[:12], name), io.BytesIO(source.data)
    with decoding_errors(name), pillow_settings(limits), Image.open(file, formats=formats) as image:
        return replace(from_pil(image, name, limits), name=name)


def _decoders(head: bytes, name: str) -> list[str]:
    """Pillow's decoders for a file that starts with these 12 bytes."""
    Image.init()
    if is_heif(head):
        if not can_read_heif():
            raise UnknownFormatError(
                f"{name}: a HEIC or HEIF image; pip install pillow-heif, or convert it to PNG or "
                "JPEG"
            )
        register_heif()
    return [decoder for decoder in FORMATS if decoder in Image.OPEN]


def _check_file(path: str, name: str) -> None:
    """Say what is wrong with a path before it is opened (opening a pipe would wait for ever)."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise MissingImageError(f"{name}: no such file; check the path") from error
    except OSError as error:
        raise UnreadableImageError(f"{name}: {error.strerror}; check who may read it") from error
    if stat.S_ISDIR(status.st_mode):
        raise DirectoryImageError(f"{name}: a folder, not an image; name the images inside it")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError(f"{name}: not a regular file; copy the image to a file")
    if status.st_size == 0:
        raise EmptyImageError(f"{name}: the file is empty; fetch or export it again")
