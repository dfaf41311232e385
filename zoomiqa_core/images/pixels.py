"""From PIL images, arrays and tensors of any mode to RGB float32 in [0, 1].

These functions do the work of :mod:`zoomiqa_core.images.sources`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zoomiqa_core.images.colour import Convert, convert_profile, convert_tags, read_cicp
from zoomiqa_core.images.decoded import DecodedImage, read_exif
from zoomiqa_core.images.errors import (
    BadShapeError,
    BadTypeError,
    BadValuesError,
    ClosedImageError,
    ImageError,
    ImageLimits,
    NotFiniteError,
    TooLargeError,
    TruncatedImageError,
    UnknownFormatError,
    UnreadableImageError,
)
from zoomiqa_core.images.pillow import low_bytes

_INTEGER_WHITE = {torch.uint8: 255, torch.uint16: 65535}

RANGE_TOLERANCE = 1e-3
"""Overshoot of [0, 1] that is clamped, a quarter of an 8-bit step: resizing overshoots by rounding,
and half precision by more."""


@contextmanager
def decoding_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises about the file ``name`` into an :class:`ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnknownFormatError(
            f"{name}: not a raster image that is read here, or its header is damaged; "
            "convert it to PNG or JPEG"
        ) from error
    except PermissionError as error:
        raise UnreadableImageError(f"{name}: {error.strerror}; check who may read it") from error
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(
            f"{name}: {error or 'not enough memory to decode it'}; downscale the image"
        ) from error
    # Damaged files make Pillow's decoders raise nearly anything: OSError, SyntaxError, EOFError,
    # ValueError, struct.error, zlib.error, IndexError, …
    except Exception as error:
        raise TruncatedImageError(
            f"{name}: incomplete or damaged ({error}); fetch or export it again"
        ) from error


def from_pil(image: Image.Image, name: str, limits: ImageLimits) -> DecodedImage:
    """Decode the current frame of a PIL image of any mode, upright."""
    _check_open(image, name)
    limits.check(*image.size, name)
    notes: list[str] = []
    with decoding_errors(name):
        cicp = read_cicp(image, name)
        convert, colour_note = convert_tags(image, cicp)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            current = f"number {image.tell() + 1}" if image.tell() else "first"
            notes.append(f"{current} of {frames} frames")
        # The raw mode is known only until the pixels are loaded.
        is_16_bit = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
        low = low_bytes(image) if is_16_bit else None
        image.load()
        exif, turn, exif_notes = read_exif(image)
        notes += exif_notes
        if cicp is None:
            image, profile_note = convert_profile(image)
            colour_note = profile_note or colour_note
            low = None if profile_note else low
        if turn is not None:
            image = image.transpose(turn)
            low = None if low is None else low.transpose(turn)
        if colour_note is not None:
            notes.append(colour_note)
        if image.mode == "CMYK":
            notes.append("CMYK converted without a colour profile")
        if low is not None and "transparency" not in image.info:
            array = np.array(image).astype(np.uint16) << 8 | np.array(low)
        else:
            if image.mode in ("RGB", "RGBA") and is_16_bit:
                notes.append("16-bit colour read at 8 bits")
            array = _channels(image, is_16_bit, name)
    decoded = _to_rgb(torch.from_numpy(array), name, convert)
    return replace(decoded, notes=(*notes, *decoded.notes), exif=exif)


def _check_open(image: Image.Image, name: str) -> None:
    """Raise :class:`ClosedImageError` for an image whose file was closed before it was read."""
    file: Any = getattr(image, "fp", None)
    closed = bool(getattr(image, "tile", ())) and (file is None or file.closed)
    try:
        _ = image.im
    except ValueError:
        closed = True
    except (AssertionError, AttributeError):
        pass  # not read yet
    if closed:
        raise ClosedImageError(
            f"{name}: this PIL image was closed before its pixels were read; call image.load() "
            "before closing it, or give the path"
        )


def from_array(array: np.ndarray, limits: ImageLimits) -> DecodedImage:
    """Convert (H, W) or (H, W, 1–4): uint8, uint16, or floating point in [0, 1]."""
    check_array(array)
    limits.check(array.shape[1], array.shape[0], "array")
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return _to_rgb(torch.from_numpy(native), "array")


def from_tensor(tensor: Tensor, limits: ImageLimits) -> DecodedImage:
    """Convert (3, H, W), grey (1, H, W) or (H, W), or a batch of one of these.

    uint8, uint16, or floating point in [0, 1].
    """
    check_tensor(tensor)
    image = tensor[0] if tensor.ndim == 4 else tensor
    image = image[None] if image.ndim == 2 else image
    limits.check(image.shape[2], image.shape[1], "tensor")
    return _to_rgb(image.detach().cpu().permute(1, 2, 0), "tensor")


def check_array(array: np.ndarray) -> None:
    """Refuse the layout or dtype of an array that is no image; the values are not looked at.

    Raises:
        BadShapeError, BadTypeError: see :func:`from_array`.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        fix = "use array.transpose(1, 2, 0)" if channels_first else "pass images one by one"
        raise BadShapeError(
            f"array: expected shape (H, W) or (H, W, 1 to 4), got {array.shape}; {fix}"
        )
    if array.dtype.kind != "f" and array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise _bad_dtype("array", str(array.dtype))


def check_tensor(tensor: Tensor) -> None:
    """Refuse the layout or dtype of a tensor that is no image; the values are not looked at.

    Raises:
        BadShapeError, BadTypeError: see :func:`from_tensor`.
    """
    shape = tensor.shape[1:] if tensor.ndim == 4 and tensor.shape[0] == 1 else tensor.shape
    if len(shape) != 2 and (len(shape) != 3 or shape[0] not in (1, 3)):
        if len(shape) == 3 and shape[2] in (1, 3):
            fix = "use .permute(2, 0, 1)"
        elif len(shape) == 3:
            fix = "give 1 or 3 channels: tensor[:3] drops alpha"
        else:
            fix = "pass images one by one"
        raise BadShapeError(
            f"tensor: expected shape (3, H, W) or (1, 3, H, W), got {tuple(tensor.shape)}; {fix}"
        )
    if not tensor.is_floating_point() and tensor.dtype not in _INTEGER_WHITE:
        raise _bad_dtype("tensor", str(tensor.dtype))


def without_batch(tensor: Tensor) -> Tensor:
    """(3, H, W) as it is, (1, 3, H, W) without its first dimension.

    Raises:
        BadShapeError: Any other shape.
    """
    image = tensor[0] if tensor.ndim == 4 and tensor.shape[0] == 1 else tensor
    if image.ndim == 3 and image.shape[0] == 3:
        return image
    channels_last = image.ndim == 3 and image.shape[2] == 3
    fix = "use .permute(2, 0, 1)" if channels_last else "expand grey to 3; pass images one by one"
    raise BadShapeError(
        f"tensor: expected shape (3, H, W) or (1, 3, H, W), got {tuple(tensor.shape)}; {fix}"
    )


def _channels(image: Image.Image, is_16_bit: bool, name: str) -> np.ndarray:
    """The pixels as (H, W) or (H, W, C) without loss of depth, alpha last where there is any."""
    if image.mode == "F":
        return np.array(image)
    if image.mode.startswith("I"):
        levels = np.array(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise BadValuesError(
                f"{name}: integers from {levels.min()} to {levels.max()}; expected 16-bit levels, "
                "0 to 65535. Rescale them."
            )
        key = image.info.get("transparency")
        levels = levels.astype(np.uint16)
        if not isinstance(key, int):
            return levels
        return np.stack([levels, np.where(levels == key, 0, 65535).astype(np.uint16)], axis=2)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    key = image.info.get("transparency")
    if image.mode == "RGB" and is_16_bit and isinstance(key, tuple):
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in key)  # as the pixels were
    return np.array(image.convert("RGBA"))


def _to_rgb(values: Tensor, name: str, convert: Convert | None = None) -> DecodedImage:
    """(H, W) or (H, W, 1–4) levels → (3, H, W) in new memory, alpha composited over white."""
    white = _INTEGER_WHITE.get(values.dtype)
    overshoots = white is None and check_range(values, name)
    levels = values.unsqueeze(2) if values.ndim == 2 else values
    # (H, W, C) → (C, H, W)
    planes = levels.permute(2, 0, 1).to(
        torch.float32, memory_format=torch.contiguous_format, copy=True
    )
    if white is not None:
        planes.div_(white)
    elif overshoots:
        planes.clamp_(0, 1)
    count = planes.shape[0]
    colour = planes[: count - 1] if count in (2, 4) else planes
    if convert is not None:
        colour = convert(colour)
    notes: tuple[str, ...] = ()
    alpha = None
    if count in (2, 4) and planes[count - 1].min() < 1:
        alpha = planes[count - 1 :].clone()
        colour = colour * alpha + (1 - alpha)
        notes = ("alpha composited over white",)
    pixels = colour.contiguous() if colour.shape[0] == 3 else colour.repeat(3, 1, 1)
    return DecodedImage(pixels, notes, alpha=alpha)


def check_range(values: Tensor, name: str) -> bool:
    """Whether floating-point values leave [0, 1] by no more than :data:`RANGE_TOLERANCE`.

    Raises:
        NotFiniteError: NaN or infinite values.
        BadValuesError: values further outside [0, 1].
    """
    low, high = (bound.item() for bound in values.detach().aminmax())
    if low >= 0 and high <= 1:
        return False
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int((~values.isfinite()).sum())
        raise NotFiniteError(f"{name}: {count} values are NaN or infinite; fix what produced them")
    if is_in_range(low, high):
        return True
    raise out_of_range(values, low, high, name)


def is_in_range(low: float, high: float) -> bool:
    """Whether a smallest and a largest value lie in [0, 1], give or take ``RANGE_TOLERANCE``."""
    return low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE


def out_of_range(values: Tensor, low: float, high: float, name: str) -> BadValuesError:
    """The error for values from ``low`` to ``high``, with the likely fix."""
    return BadValuesError(
        f"{name}: values from {low:.9g} to {high:.9g}, expected [0, 1]; "
        + _range_advice(values.detach().double(), low, high)
    )


def _range_advice(values: Tensor, low: float, high: float) -> str:
    if low < 0:
        return "use (x + 1) / 2" if low >= -1.01 and high <= 1.01 else "rescale or clamp them"
    whole = bool((values == values.round()).all())
    for white in (255, 65535):
        if 2 < high <= white and (whole or values.median().item() > white / 100):
            return f"divide by {white}"
    if high > 2:
        return "if this is linear HDR light, tone-map it to sRGB; else rescale the values"
    return "rescale or clamp them"


def _bad_dtype(name: str, dtype: str) -> BadTypeError:
    return BadTypeError(
        f"{name}: values of type {dtype}; expected uint8, uint16, or floating point in [0, 1]"
    )
