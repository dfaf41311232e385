"""Decoded photos of a long list, in groups that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.images.inputs import read_or_fail
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageSource, to_pil

IMAGES_AT_ONCE = 32
"""Maximum number of images that are decoded and judged together."""
PIXELS_AT_ONCE = 2**26
"""A group of images ends with the one that reaches this sum: 200 MB of decoded photos."""


class Photo(NamedTuple):
    """A decoded image, at 8 bits."""

    image: Image.Image
    name: str
    notes: tuple[str, ...]


def decoded_groups(
    sources: Iterable[ImageSource], limits: ImageLimits = DEFAULT_LIMITS
) -> Iterator[list[Photo | Assessment]]:
    """Decode images group by group; an image that cannot be judged is a failed assessment.

    >>> import torch
    >>> (group,) = decoded_groups([torch.rand(3, 8, 12), "missing.png"])
    >>> group[0].image.size, group[1].error
    ((12, 8), 'missing')
    """
    group: list[Photo | Assessment] = []
    pixels = 0
    for source in sources:
        item = _decoded(source, limits)
        group.append(item)
        pixels += item.image.width * item.image.height if isinstance(item, Photo) else 0
        if len(group) == IMAGES_AT_ONCE or pixels >= PIXELS_AT_ONCE:
            yield group
            group, pixels = [], 0
    if group:
        yield group


def _decoded(source: ImageSource, limits: ImageLimits) -> Photo | Assessment:
    decoded = read_or_fail(source, limits=limits)
    if isinstance(decoded, Assessment):
        return decoded
    return Photo(to_pil(decoded.pixels), decoded.name, decoded.notes)
