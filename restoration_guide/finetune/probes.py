"""Statistics of an image beside its rating: where over-optimised images give way.

Only the pattern of two pixels is also a term of rewards (``grid``), as a mean instead of a median.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)


def luma(images: Tensor) -> Tensor:
    """BT.601 luma of (B, 3, H, W): (B, 1, H, W)."""
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def sharpness(images: Tensor) -> Tensor:
    """Mean absolute step of the luma between neighbours, (B,): rises with over-sharpening."""
    grey = luma(images)
    steps = grey.diff(dim=-1).abs().mean((1, 2, 3)), grey.diff(dim=-2).abs().mean((1, 2, 3))
    return (steps[0] + steps[1]) / 2


def high_frequency(images: Tensor) -> Tensor:
    """RMS of the luma's spectrum above half the Nyquist frequency, (B,), pixel values."""
    grey = luma(images)
    spectrum = torch.fft.rfft2(grey, norm="ortho").abs().square()
    rows = torch.fft.fftfreq(grey.shape[-2], device=grey.device).abs()
    columns = torch.fft.rfftfreq(grey.shape[-1], device=grey.device)
    high = (torch.maximum(rows[:, None], columns[None, :]) > 0.25).to(grey.dtype)
    twice = torch.where((columns == 0) | (columns == 0.5), 1.0, 2.0)  # rfft keeps one half
    energy = (spectrum * high * twice).sum((1, 2, 3)) / grey[0].numel()
    return energy.sqrt()


def gridding(images: Tensor) -> Tensor:
    """Strength of a pattern that repeats every two pixels, (B,), pixel values.

    Networks that end in a pixel-shuffle leave one when they are pushed. The luma less its 3 × 3
    mean is folded onto the 2 × 2 pixels of a period; RMS over them of the median over the image, in
    which texture cancels and a pattern does not.
    """
    grey = luma(images)
    detail = grey - functional.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
    height, width = (side // 2 for side in detail.shape[-2:])
    detail = detail[..., : 2 * height, : 2 * width]
    phases = functional.pixel_unshuffle(detail, 2).flatten(2)  # (B, 4, height · width)
    return phases.median(2).values.square().mean(1).sqrt()


def colour_distance(images: Tensor, others: Tensor) -> Tensor:
    """RMS difference of the two images' mean colours, (B,), pixel values."""
    return (images - others).mean((2, 3)).square().mean(1).sqrt()


def departures(images: Tensor, natural: Tensor) -> dict[str, Tensor]:
    """How far each statistic is from that of a natural version of the same image, (B,) each.

    Args:
        images: (B, 3, H, W) in [0, 1].
        natural: the clean photo; or, where there is none, what the untuned restorer made.

    Returns:
        ``sharpness`` and ``high_frequency``, |ln(ratio)|; ``colour``, a distance of pixel values;
        and ``gridding`` as it is. Lower is better, 0 is natural.
    """
    found = {}
    for name, probe in {"sharpness": sharpness, "high_frequency": high_frequency}.items():
        ratio = (probe(images) + 1e-4) / (probe(natural) + 1e-4)  # a flat image has none of it
        found[name] = ratio.log().abs()
    return {**found, "colour": colour_distance(images, natural), "gridding": gridding(images)}
