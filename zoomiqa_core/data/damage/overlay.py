"""Draw text over photos, to train judges that text does not improve an image."""

from __future__ import annotations

import string

import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor

from zoomiqa_core.images.sources import to_batch, to_pil

COLOURS = ("white", "black", "red", "yellow", "royalblue", "limegreen")


def add_text(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Write one line of random letters and digits over each image.

    Size (4–12 % of the height), position, colours, outline and length are random for each image.

    >>> grey = torch.full((2, 3, 96, 128), 0.5)
    >>> written = add_text(grey, generator=torch.Generator().manual_seed(0))
    >>> written.shape, bool((written != grey).any())
    (torch.Size([2, 3, 96, 128]), True)

    Args:
        images: (B, 3, H, W) in [0, 1], H ≥ 64.
        generator: CPU generator.

    Returns:
        (B, 3, H, W), rounded to 8 bits.
    """
    return torch.cat([_written(image, generator) for image in images])


def _written(image: Tensor, generator: torch.Generator) -> Tensor:
    picture = to_pil(image).convert("RGB")
    draw = ImageDraw.Draw(picture)
    size, left, top = torch.rand(3, generator=generator).tolist()
    fill, outline, stroke, length = torch.randint(1_000_000, (4,), generator=generator).tolist()
    font = ImageFont.load_default(size=picture.height * (0.04 + 0.08 * size))
    draw.text(
        (0.6 * left * picture.width, 0.92 * top * picture.height),
        _words(4 + length % 24, generator),
        fill=COLOURS[fill % len(COLOURS)],
        stroke_fill=COLOURS[outline % len(COLOURS)],
        stroke_width=stroke % 3,
        font=font,
    )
    return to_batch(picture)


def _words(length: int, generator: torch.Generator) -> str:
    letters = string.ascii_letters + string.digits + string.punctuation + " " * 12
    indices = torch.randint(len(letters), (length,), generator=generator).tolist()
    return "".join(letters[index] for index in indices)
