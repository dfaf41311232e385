"""JPEG and JPEG 2000 by Pillow's encoders, and conversion to 8-bit images and back."""

import functools
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

KADID_SIZE = (384, 512)
"""Height and width of KADID-10k's images."""


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Encode and decode each image of (B, 3, H, W) as JPEG at ``quality`` 1–95 (libjpeg, 4:2:0).

    >>> photo = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    >>> [round(float((jpeg(photo, q) - photo).abs().mean()), 2) for q in (95, 5)]
    [0.0, 0.02]
    """
    return _round_trip(images, "JPEG", quality=quality)


def jpeg2000(images: Tensor, ratio: float) -> Tensor:
    """Encode and decode each image of (B, 3, H, W) as JPEG 2000 at ``ratio``:1 of a 512×384 image.

    OpenJPEG's irreversible wavelet with the multi-component transform. A stream has 300–400 bytes
    of overhead: a quarter of a 512×384 image at 400:1, more than all of a 192×192 one. Departure:
    the ratio sets the bytes per pixel *above* the overhead, to those of KADID's 512×384 images, so
    that a level is as severe at any size.
    """
    height, width = images.shape[-2:]
    target_bytes = KADID_SIZE[0] * KADID_SIZE[1] * 3 / ratio
    payload = max(target_bytes - _empty_stream_bytes(*KADID_SIZE), 0.0)
    payload *= height * width / (KADID_SIZE[0] * KADID_SIZE[1])
    size_ratio = height * width * 3 / (_empty_stream_bytes(height, width) + payload)
    return _round_trip(images, "JPEG2000", **_jpeg2000_options(height, width, size_ratio))


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [0, 1] as 8-bit RGB Pillow images, rounded half to even.

    >>> to_pil(torch.full((1, 3, 8, 16), 0.5))[0].getpixel((0, 0))
    (128, 128, 128)
    """
    pixels = (images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in pixels]


def from_pil(images: Sequence[Image.Image]) -> Tensor:
    """RGB Pillow images of one size as (B, 3, H, W) float32 in [0, 1] on the CPU.

    >>> from_pil([Image.new("RGB", (16, 8), "white")]).shape
    torch.Size([1, 3, 8, 16])
    """
    from torchvision.transforms.v2.functional import pil_to_tensor

    return torch.stack([pil_to_tensor(image) for image in images]).float() / 255.0


def _round_trip(images: Tensor, format: str, **options: object) -> Tensor:
    decoded = []
    for image in to_pil(images):
        buffer = io.BytesIO()
        image.save(buffer, format=format, **options)
        decoded.append(Image.open(buffer).convert("RGB"))
    return from_pil(decoded).to(images)


def _jpeg2000_options(height: int, width: int, ratio: float) -> dict[str, object]:
    """Pillow's options; sides under 32 px get fewer wavelet levels, or the encoder refuses."""
    return {
        "quality_mode": "rates",
        "quality_layers": [ratio],
        "num_resolutions": min(6, min(height, width).bit_length()),
        "irreversible": True,
        "mct": 1,
    }


@functools.lru_cache(maxsize=256)
def _empty_stream_bytes(height: int, width: int) -> int:
    """Bytes of a JPEG 2000 stream that holds a flat image: headers and empty packets."""
    buffer = io.BytesIO()
    flat = Image.new("RGB", (width, height), (128, 128, 128))
    flat.save(buffer, format="JPEG2000", **_jpeg2000_options(height, width, 1000.0))
    return buffer.tell()
