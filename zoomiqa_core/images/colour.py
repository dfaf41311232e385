"""Colour profiles and colour tags of files, converted to sRGB.

ICC profiles are applied by Pillow's ImageCms (relative colorimetric, black point compensation);
PNG's cHRM and gAMA chunks and cICP codes (ITU-T H.273; PNG chunk, AVIF and HEIF box, ICC tag) by
matrix and transfer function. A profile within two levels of sRGB leaves the pixels as they are.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from zoomiqa_core.images.errors import UnsupportedColourError

Convert = Callable[[Tensor], Tensor]
"""(1 or 3, H, W) encoded colour in [0, 1] → the same in sRGB."""

TOLERANCE = 2
"""8-bit levels; a profile that changes no colour by more is sRGB."""

_WHITE = (0.3127, 0.3290)  # D65
_SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # xy of red, green and blue
_PRIMARIES = {
    1: _SRGB,
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""cICP colour primaries → xy, all with a D65 white."""
_PRIMARY_NAMES = {5: "BT.470 BG", 6: "BT.601", 9: "BT.2020", 12: "Display P3"}
_EXPONENTS = {1: None, 6: None, 13: None, 14: None, 15: None, 4: 2.2, 5: 2.8, 8: 1.0}
"""cICP transfer characteristics → exponent to linear light; None is sRGB's curve, which browsers
use for BT.709 too."""
_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}


@functools.cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB to embed in outputs; the same bytes every time.

    >>> srgb_profile()[36:40]
    b'acsp'
    """
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]  # without the time of creation


def read_cicp(image: Image.Image, name: str) -> tuple[int, int] | None:
    """cICP primaries and transfer of a PIL image whose pixels are not loaded yet.

    Raises:
        UnsupportedColourError: the transfer is that of HDR, PQ or HLG.
    """
    codes = _codes_in_profile(image.info.get("icc_profile") or b"")
    file: Any = getattr(image, "fp", None)
    if file is not None and getattr(image, "tile", ()):
        position = file.tell()
        file.seek(0)
        if image.format == "PNG":
            codes = _codes_in_png(file) or codes
        elif image.format in ("AVIF", "HEIF"):
            codes = _codes_in_boxes(file.read(65536)) or codes
        file.seek(position)
    if codes is not None and codes[1] in _HDR:
        raise UnsupportedColourError(
            f"{name}: HDR colour, transfer function {_HDR[codes[1]]}; tone-map it to sRGB first"
        )
    return codes


def convert_profile(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Apply the embedded ICC profile of an 8-bit image of any mode.

    Returns:
        The image, in RGB or RGBA where it was converted, and a note of what was done; the image
        itself and None when it has no profile or its profile is sRGB.
    """
    data = image.info.get("icc_profile")
    if not data:
        return image, None
    if image.mode == "F" or image.mode.startswith("I"):
        return image, f"colour profile not applied to mode {image.mode}"
    try:
        space, description = _describe(data)
        colour, alpha = _without_alpha(image)
        colour = colour if colour.mode == "CMYK" or space != "RGB" else colour.convert("RGB")
        if {"L": "GRAY", "CMYK": "CMYK", "RGB": "RGB"}.get(colour.mode) != space:
            return image, f"colour profile for {space} ignored on an image of mode {image.mode}"
        transform = _transform(data, colour.mode)
        if transform is None:
            return image, None
        converted = ImageCms.applyTransform(colour, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image, "colour profile unreadable, values taken as sRGB"
    if converted is None:  # only where it converts in place
        return image, None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, f"colour converted from {description} to sRGB"


def convert_tags(
    image: Image.Image, cicp: tuple[int, int] | None
) -> tuple[Convert | None, str | None]:
    """The conversion that cICP codes, or PNG's gAMA and cHRM chunks, ask for, and a note.

    Of these cICP counts before a profile, a profile before the others, and PNG's sRGB chunk
    before gAMA and cHRM.
    """
    if cicp is not None:
        primaries, transfer = cicp
        if primaries not in _PRIMARIES or transfer not in _EXPONENTS:
            return None, f"colour codes {primaries}/{transfer} unknown, values taken as sRGB"
        if primaries == 1 and _EXPONENTS[transfer] is None:
            return None, None
        convert = _conversion(_PRIMARIES[primaries], _WHITE, _EXPONENTS[transfer])
        source = _PRIMARY_NAMES.get(primaries, f"transfer {transfer}")
        return convert, f"colour converted from {source} to sRGB"
    info = image.info
    if image.format != "PNG" or info.get("icc_profile") or "srgb" in info:
        return None, None
    gamma, chromaticity = info.get("gamma"), info.get("chromaticity")
    exponent = None if not gamma or abs(gamma * 2.2 - 1) < 0.05 else 1 / gamma
    white, primaries = _WHITE, _SRGB
    # a chromaticity of zeros is no colour space
    if chromaticity is not None and min(chromaticity[1::2]) > 0:
        white, primaries = chromaticity[:2], chromaticity[2:]
    apart = max(abs(a - b) for a, b in zip((*white, *primaries), (*_WHITE, *_SRGB), strict=True))
    if exponent is None and apart < 0.01:
        return None, None
    tags = [f"gamma {gamma:.4g}"] if exponent is not None else []
    tags += ["PNG chromaticities"] if apart >= 0.01 else []
    convert = _conversion(primaries if apart >= 0.01 else _SRGB, white, exponent)
    return convert, f"colour converted from {' and '.join(tags)} to sRGB"


def _conversion(
    primaries: tuple[float, ...], white: tuple[float, ...], exponent: float | None
) -> Convert:
    matrix = torch.from_numpy(
        np.linalg.inv(_to_xyz(_SRGB, _WHITE)) @ _adapt(white) @ _to_xyz(primaries, white)
    ).float()

    def convert(colour: Tensor) -> Tensor:
        if exponent is None:
            linear = torch.where(
                colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4
            )
        else:
            linear = colour**exponent
        if len(colour) == 3:
            linear = torch.einsum("ij,jhw->ihw", matrix, linear).clamp(0, 1)
        return torch.where(
            linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
        ).clamp(0, 1)

    return convert


def _to_xyz(primaries: tuple[float, ...], white: tuple[float, ...]) -> np.ndarray:
    """Matrix from linear RGB to XYZ for xy chromaticities of the primaries and of white."""
    columns = np.stack([_xyz(*primaries[i : i + 2]) for i in (0, 2, 4)], 1)
    return columns * np.linalg.solve(columns, _xyz(*white))


def _adapt(white: tuple[float, ...]) -> np.ndarray:
    """Bradford chromatic adaptation from a white to D65."""
    cone = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    scale = (cone @ _xyz(*_WHITE)) / (cone @ _xyz(*white))
    return np.linalg.inv(cone) @ (scale[:, None] * cone)


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _describe(data: bytes) -> tuple[str, str]:
    profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(data))
    description = ImageCms.getProfileDescription(profile).strip()
    return profile.profile.xcolor_space.strip(), description or "an unnamed profile"


@functools.lru_cache(maxsize=16)
def _transform(data: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None when that changes nothing."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(data)),
        ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 6, 3)
    probe = Image.fromarray(colours if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    changed = ImageCms.applyTransform(probe, transform)
    difference = np.asarray(changed, np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    return None if np.abs(difference).max() <= TOLERANCE else transform


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colour of an image as L, RGB or CMYK, and its alpha."""
    if image.mode == "CMYK":
        return image, None
    grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB"), None
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    return rgba.getchannel("R") if grey else rgba.convert("RGB"), alpha


def _codes_in_png(file: Any) -> tuple[int, int] | None:
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, tag = struct.unpack(">I4s", header)
        if tag == b"cICP" and length == 4:
            codes = file.read(4)
            return codes[0], codes[1]
        if tag in (b"IDAT", b"IEND"):
            return None
        file.seek(length + 4, io.SEEK_CUR)
    return None


def _codes_in_boxes(head: bytes) -> tuple[int, int] | None:
    start = head.find(b"colrnclx")
    if start < 0 or len(head) < start + 12:
        return None
    primaries, transfer = struct.unpack(">HH", head[start + 8 : start + 12])
    return None if 2 in (primaries, transfer) else (primaries, transfer)  # 2: unspecified


def _codes_in_profile(data: bytes) -> tuple[int, int] | None:
    """The ``cicp`` tag of an ICC profile, of which only HDR matters: the profile says the rest."""
    count = int.from_bytes(data[128:132], "big")
    for entry in range(132, 132 + 12 * min(count, 100), 12):
        if data[entry : entry + 4] == b"cicp":
            start = int.from_bytes(data[entry + 4 : entry + 8], "big") + 8
            codes = data[start : start + 2]
            return (codes[0], codes[1]) if len(codes) == 2 and codes[1] in _HDR else None
    return None
