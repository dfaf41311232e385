"""What a judge accepts: one image, a batch, or any iterable of images.

Every judge expands and reads its input here, so that all of them treat the same input alike: a
mistake of the caller (type, shape, value range) raises; an image that cannot be read or judged
gives an :class:`Assessment` with ``valid=False`` and the name of the failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.errors import (
    BadShapeError,
    BadTypeError,
    BadValuesError,
    ClosedImageError,
    ConstantImageError,
    ImageError,
    ImageLimits,
    NotFiniteError,
)
from zoomiqa_core.images.sources import (
    DEFAULT_LIMITS,
    DecodedImage,
    EncodedImage,
    ImageSource,
    check_layout,
    read_image,
    source_name,
)

ImageInput = ImageSource | Iterable[ImageSource]
"""One image, or several: a tensor (B, 3, H, W), an array (B, H, W, C), or any iterable."""

FLAT_RANGE = 2 / 255
"""An image whose channels each span less than this is one flat colour."""

Item = TypeVar("Item")


def is_single_image(images: ImageInput) -> bool:
    """Whether the input is one image; a batch of one is a batch.

    >>> import torch
    >>> [is_single_image(x) for x in ("a.png", torch.rand(3, 8, 8), torch.rand(1, 3, 8, 8), ["a"])]
    [True, True, False, False]
    """
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim in (2, 3)
    return isinstance(images, str | os.PathLike | Image.Image | EncodedImage)


def each_image(images: ImageInput) -> Iterator[ImageSource]:
    """The images of the input, one by one.

    A list, a tuple or a batch is checked as a whole before the first image is given out; an
    iterator is read only as far as it is consumed.

    Raises:
        BadTypeError: something that is no image, or no iterable of images.
        BadShapeError: an array or tensor with another layout.

    >>> [path for path in each_image({"a.png": 1}.keys())]
    ['a.png']
    >>> each_image(3)
    Traceback (most recent call last):
    zoomiqa_core.images.errors.BadTypeError: expected an image ... got int...
    """
    if is_single_image(images):
        check_layout(images)  # pyright: ignore[reportArgumentType]
        return iter((images,))  # pyright: ignore[reportReturnType]
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        if len(images):
            check_layout(images[0])
        return iter(images)
    # a file object yields lines, bytes yield numbers and a table yields its column names
    unsuitable = isinstance(images, bytes | bytearray | Mapping) or hasattr(images, "read")
    if unsuitable or not isinstance(images, Iterable) or getattr(images, "ndim", 1) != 1:
        shape = getattr(images, "shape", None)
        raise BadTypeError(
            "expected an image (path, PIL image, array (H, W, C), tensor (3, H, W)), a batch "
            "(B, 3, H, W) or (B, H, W, C), or an iterable of images, got "
            f"{type(images).__name__}{f' of shape {tuple(shape)}' if shape is not None else ''}; "
            "open bytes and file objects with PIL.Image.open first"
        )
    checked = _checked(images)
    return iter(list(checked)) if isinstance(images, list | tuple) else checked


def in_parts(items: Iterable[Item], length: int) -> Iterator[list[Item]]:
    """Lists of ``length`` items, the last may be shorter; reads no further than it must.

    >>> list(in_parts("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    part: list[Item] = []
    for item in items:
        part.append(item)
        if len(part) == length:
            yield part
            part = []
    if part:
        yield part


def read_to_judge(source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> DecodedImage:
    """Read an image that is to be judged.

    Raises:
        ImageError: it cannot be read (see :func:`~.sources.read_image`), or is one flat colour.
    """
    image = read_image(source, limits=limits)
    if is_flat(image.pixels):
        colour = ", ".join(f"{value:.2f}" for value in image.pixels.mean((1, 2)).tolist())
        raise ConstantImageError(
            f"{image.name or source_name(source)}: one flat colour, RGB ({colour}); there is "
            "nothing to judge. Check what wrote the image."
        )
    return image


def read_or_fail(
    source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS
) -> DecodedImage | Assessment:
    """:func:`read_to_judge`, with the judgement of an image that cannot be judged.

    Raises:
        BadTypeError, BadShapeError, BadValuesError: the caller gave something that is no image,
            or an array or tensor with values outside [0, 1].
        ClosedImageError: a PIL image was closed before its pixels were read.

    >>> read_or_fail("missing.png").error
    'missing'
    """
    try:
        return read_to_judge(source, limits=limits)
    except ImageError as error:
        is_file = isinstance(source, str | os.PathLike | Image.Image | EncodedImage)
        mistake = isinstance(error, BadTypeError | BadShapeError | BadValuesError)
        not_finite = isinstance(error, NotFiniteError)
        if isinstance(error, ClosedImageError) or (mistake and not is_file and not not_finite):
            raise
        return Assessment.failed(error.code, str(error), source_name(source))


def is_flat(pixels: Tensor) -> bool:
    """Whether every channel of (3, H, W) spans less than :data:`FLAT_RANGE`.

    >>> import torch
    >>> is_flat(torch.full((3, 8, 8), 0.5)), is_flat(torch.rand(3, 8, 8))
    (True, False)
    """
    levels = pixels.flatten(1)
    return bool((levels.amax(1) - levels.amin(1) < FLAT_RANGE).all())


def _checked(images: Iterable[ImageSource]) -> Iterator[ImageSource]:
    for index, image in enumerate(images):
        try:
            check_layout(image)
        except ImageError as error:
            raise type(error)(f"images[{index}]: {error}") from None
        yield image
