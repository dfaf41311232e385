"""ComfyUI's images as ours, and ours as ComfyUI's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from restoration_guide.search.screening import RANGE_TOLERANCE
from zoomiqa_core.images.sources import read_image, to_pil


class Picture(NamedTuple):
    """One image of a batch."""

    pixels: Tensor
    """(3, H, W) float32 in [0, 1] on the CPU; NaN and infinite values stay."""
    notes: tuple[str, ...] = ()
    """What was changed to read it."""


def read_batches(batches: Tensor | Sequence[Tensor]) -> list[Picture]:
    """The images of one batch, or of a list of batches of different sizes.

    As when ComfyUI saves an image, values outside [0, 1], which resampling makes, are clipped.
    Alpha is composited over white.

    >>> clipped, = read_batches(torch.full((1, 4, 6, 3), 1.2))
    >>> tuple(clipped.pixels.shape), clipped.notes
    ((3, 4, 6), ('clipped to [0, 1], from 1.2 to 1.2',))

    Args:
        batches: (B, H, W, C) floating point, C = 1, 3 or 4.

    Raises:
        ValueError: an image of another shape, or no image.
    """
    batches = [batches] if isinstance(batches, Tensor) else list(batches)
    found = []
    for batch in batches:
        if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4):
            raise ValueError(
                "expected images of shape (batch, height, width, channels) with 1, 3 or 4 "
                f"channels, got {tuple(batch.shape)}"
            )
        found += [_read(image.detach().float().cpu().movedim(-1, 0)) for image in batch]
    if not found:
        raise ValueError("the batch is empty: expected one image at least")
    return found


def to_batch(images: Sequence[Tensor]) -> Tensor:
    """(3, H, W) images of one size as (B, H, W, 3).

    >>> to_batch([torch.rand(3, 4, 6)]).shape
    torch.Size([1, 4, 6, 3])
    """
    return torch.stack([image.movedim(0, -1).contiguous() for image in images])


def captioned(image: Tensor, text: str) -> Tensor:
    """(H', W, 3): the image with a line of text below it, for a node's preview.

    >>> captioned(torch.rand(3, 60, 80), "3.42").shape
    torch.Size([80, 80, 3])
    """
    photo = to_pil(image.nan_to_num(0, 0, 0))
    strip = max(20, photo.width // 20)
    canvas = Image.new("RGB", (photo.width, photo.height + strip), "black")
    canvas.paste(photo, (0, 0))
    font = ImageFont.load_default(size=0.7 * strip)
    place = (strip // 4, photo.height + strip // 2)
    ImageDraw.Draw(canvas).text(place, text, fill="white", font=font, anchor="lm")
    return read_image(canvas).pixels.movedim(0, -1)


def _read(image: Tensor) -> Picture:
    notes = []
    if len(image) == 4:
        image, alpha = image[:3], image[3:].clamp(0, 1)
        if bool((alpha < 1).any()):
            image = image * alpha + (1 - alpha)
            notes.append("alpha composited over white")
    image = image.expand(3, -1, -1)
    low, high = float(image.min()), float(image.max())
    if torch.isfinite(image).all():
        if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
            notes.append(f"clipped to [0, 1], from {low:.3g} to {high:.3g}")
        image = image.clamp(0, 1)
    return Picture(image, tuple(notes))
