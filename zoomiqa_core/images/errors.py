"""What can be wrong with an image: one named error for each fault, and the sizes accepted."""

from __future__ import annotations

from dataclasses import dataclass


class ImageError(ValueError):
    """An image that cannot be used; ``code`` names why, the message says what to do.

    >>> from zoomiqa_core import read_image
    >>> try:
    ...     read_image("missing.jpg")
    ... except ImageError as error:
    ...     print(error.code)
    missing
    """

    code = "image_error"


class MissingImageError(ImageError):
    """There is nothing at the path."""

    code = "missing"


class DirectoryImageError(ImageError):
    """The path is a folder."""

    code = "directory"


class EmptyImageError(ImageError):
    """The file has no bytes."""

    code = "empty"


class UnreadableImageError(ImageError):
    """The file exists but the system does not let it be read."""

    code = "unreadable"


class UnknownFormatError(ImageError):
    """The content is in no format, or in no colour model, that is read here."""

    code = "unknown_format"


class TruncatedImageError(ImageError):
    """The file is incomplete or damaged: not every pixel can be decoded."""

    code = "truncated"


class TooLargeError(ImageError):
    """The image exceeds :class:`ImageLimits`."""

    code = "too_large"


class TooSmallError(ImageError):
    """The image is smaller than :class:`ImageLimits` asks."""

    code = "too_small"


class BadTypeError(ImageError, TypeError):
    """The object, or the dtype of its values, is not one that is read here."""

    code = "bad_type"


class BadShapeError(ImageError):
    """The array or tensor has the wrong layout."""

    code = "bad_shape"


class BadValuesError(ImageError):
    """Pixel values are out of range."""

    code = "bad_values"


class NotFiniteError(BadValuesError):
    """Pixel values are NaN or infinite."""

    code = "not_finite"


class ClosedImageError(ImageError):
    """The file behind a PIL image was closed before its pixels were read."""

    code = "closed"


class UnsupportedColourError(ImageError):
    """The colour encoding is known and cannot be converted to sRGB here, as that of HDR."""

    code = "unsupported_colour"


class ConstantImageError(ImageError):
    """The image is one flat colour: there is nothing to judge."""

    code = "constant"


@dataclass(frozen=True)
class ImageLimits:
    """Sizes accepted, checked on the header before any pixel is decoded.

    >>> ImageLimits(max_pixels=200_000_000).check(16320, 12240, "photo.jpg")
    >>> ImageLimits().check(16320, 12240, "photo.jpg")
    Traceback (most recent call last):
    zoomiqa_core.images.errors.TooLargeError: photo.jpg: 16320×12240 pixels; the limits are ...
    """

    max_pixels: int = 64_000_000
    """Most pixels (width · height); a decoded pixel takes 12 bytes."""
    max_side: int = 32_768
    """Longest side, in pixels."""
    min_side: int = 1
    """Shortest side, in pixels."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_side <= self.max_side or self.max_pixels < 1:
            raise ValueError(
                "expected 1 <= min_side <= max_side and max_pixels >= 1, got "
                f"min_side={self.min_side}, max_side={self.max_side}, max_pixels={self.max_pixels}"
            )

    def check(self, width: int, height: int, name: str) -> None:
        """Raise :class:`TooLargeError` or :class:`TooSmallError` for a size out of bounds."""
        if width * height > self.max_pixels or max(width, height) > self.max_side:
            raise TooLargeError(
                f"{name}: {width}×{height} pixels; the limits are {self.max_pixels:,} pixels and "
                f"{self.max_side:,} a side. Downscale it, or pass "
                "limits=ImageLimits(max_pixels=…, max_side=…); on the command line "
                "--max-megapixels."
            )
        if min(width, height) < self.min_side:
            raise TooSmallError(
                f"{name}: {width}×{height} pixels; each side must have {self.min_side} or more. "
                "Give a larger image."
            )
