"""Image statistics that reveal over-optimisation: sharpness, frequencies, edges, colour, grids.

Independent of any judge, and of the reward.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
EDGE = 0.06
"""Difference of two neighbours' luma, in pixel values, that counts as an edge."""
COLOUR_LEVELS = 8
"""Levels of each channel in the histogram of :func:`colour_entropy`."""


def luma(images: Tensor) -> Tensor:
    """BT.601 luma of (B, 3, H, W): (B, 1, H, W).

    >>> luma(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)).item()  # green
    0.5870000123977661
    """
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def sharpness(images: Tensor) -> Tensor:
    """Mean absolute difference of the luma between neighbours, (B,): rises with over-sharpening.

    >>> ramp = torch.linspace(0, 1, 5).expand(1, 3, 5, 5)
    >>> sharpness(ramp)  # 1/4 across, 0 down
    tensor([0.1250])
    """
    grey = luma(images)
    steps = grey.diff(dim=-1).abs().mean((1, 2, 3)), grey.diff(dim=-2).abs().mean((1, 2, 3))
    return (steps[0] + steps[1]) / 2


def high_frequency(images: Tensor) -> Tensor:
    """RMS of the luma's spectrum above half the Nyquist frequency, (B,), in pixel values.

    >>> stripes = torch.tensor([0.4, 0.6]).repeat(8).expand(1, 3, 16, 16)
    >>> high_frequency(torch.cat([stripes, stripes.mean().expand_as(stripes)]))
    tensor([0.1000, 0.0000])
    """
    grey = luma(images)
    spectrum = torch.fft.rfft2(grey, norm="ortho").abs().square()
    rows = torch.fft.fftfreq(grey.shape[-2], device=grey.device).abs()
    columns = torch.fft.rfftfreq(grey.shape[-1], device=grey.device)
    high = (torch.maximum(rows[:, None], columns[None, :]) > 0.25).to(grey.dtype)
    twice = torch.where((columns == 0) | (columns == 0.5), 1.0, 2.0)  # rfft keeps one half
    energy = (spectrum * high * twice).sum((1, 2, 3)) / grey[0].numel()
    return energy.sqrt()


def gridding(images: Tensor) -> Tensor:
    """Strength of checkerboard artefacts of period 2, (B,), in pixel values.

    Over-optimised networks that end in a pixel-shuffle produce them. The RMS, over the 2 × 2 pixels
    of a period, of the median over the image of the luma minus its 3 × 3 mean: texture cancels out
    in the median, a regular pattern does not.

    >>> checkers = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    >>> grid = 0.5 + 0.02 * (checkers - 0.5).expand(1, 3, 16, 16)
    >>> gridding(torch.cat([grid, torch.full_like(grid, 0.5)]))
    tensor([0.0089, 0.0000])
    """
    grey = luma(images)
    detail = grey - functional.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
    height, width = (side // 2 for side in detail.shape[-2:])
    detail = detail[..., : 2 * height, : 2 * width]
    phases = functional.pixel_unshuffle(detail, 2).flatten(2)  # (B, 4, height · width)
    return phases.median(2).values.square().mean(1).sqrt()


def colour_distance(images: Tensor, others: Tensor) -> Tensor:
    """RMS difference of the two images' mean colours, (B,), in pixel values.

    >>> colour_distance(torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.4))
    tensor([0.1000])
    """
    return (images - others).mean((2, 3)).square().mean(1).sqrt()


def departures(images: Tensor, natural: Tensor) -> dict[str, Tensor]:
    """Distance of each statistic from that of a natural version of the same image, (B,) each.

    >>> photo = torch.rand(1, 3, 32, 32) * 0.5
    >>> moved = departures(photo + 0.1, photo)
    >>> {name: round(value.item(), 2) for name, value in moved.items() if name != "gridding"}
    {'sharpness': 0.0, 'high_frequency': 0.0, 'colour': 0.1}

    Args:
        images: (B, 3, H, W) in [0, 1].
        natural: the clean photos; without them, the untuned restorer's outputs.

    Returns:
        ``sharpness`` and ``high_frequency``: |ln(ratio)|; ``colour``: :func:`colour_distance`;
        ``gridding``: that of ``images``. Lower is better, 0 is natural.
    """
    ratios = {}
    for name, probe in {"sharpness": sharpness, "high_frequency": high_frequency}.items():
        ratio = (probe(images) + 1e-4) / (probe(natural) + 1e-4)  # finite for flat images
        ratios[name] = ratio.log().abs()
    return {**ratios, "colour": colour_distance(images, natural), "gridding": gridding(images)}


def edge_density(images: Tensor) -> Tensor:
    """Share of neighbouring pixels whose luma differs by more than ``EDGE``, (B,).

    >>> square = torch.zeros(1, 3, 8, 8)
    >>> square[..., 4:] = 1.0  # 8 of the 56 horizontal differences, none of the 56 vertical ones
    >>> edge_density(square)
    tensor([0.0714])
    """
    grey = luma(images)
    edges = [(grey.diff(dim=axis).abs() > EDGE).float().mean((1, 2, 3)) for axis in (-1, -2)]
    return (edges[0] + edges[1]) / 2


def colour_entropy(images: Tensor) -> Tensor:
    """Entropy of the colours of 8 × 8 × 8 levels, (B,), in bits; 0 for one colour, at most 9.

    >>> half = torch.zeros(1, 3, 4, 4)
    >>> half[..., 2:] = 1.0
    >>> colour_entropy(torch.cat([half, torch.full_like(half, 0.5)]))
    tensor([1., 0.])
    """
    levels = (images.clamp(0, 1) * COLOUR_LEVELS).long().clamp(max=COLOUR_LEVELS - 1)
    colours = (levels * levels.new_tensor([COLOUR_LEVELS**2, COLOUR_LEVELS, 1]).view(3, 1, 1)).sum(
        1
    )
    found = []
    for each in colours:
        share = torch.bincount(each.flatten(), minlength=COLOUR_LEVELS**3) / each.numel()
        found.append(torch.special.entr(share).sum() / math.log(2))
    return torch.stack(found)


def statistics(images: Tensor) -> dict[str, Tensor]:
    """Statistics whose *signed* changes say what training does to the images, (B,) each.

    >>> flat = statistics(torch.full((1, 3, 8, 8), 0.5))
    >>> {name: round(value.item(), 2) for name, value in flat.items()}  # doctest: +ELLIPSIS
    {'sharpness': -9.21, 'high_frequency': -9.21, 'edge_density': -6.91, ...}

    Returns:
        ``sharpness``, ``high_frequency`` and ``edge_density``: their logarithms (finite for flat
        images); ``colour_entropy`` in bits; ``brightness``: mean luma; ``saturation``: mean
        standard deviation of a pixel's three channels.
    """
    return {
        "sharpness": (sharpness(images) + 1e-4).log(),
        "high_frequency": (high_frequency(images) + 1e-4).log(),
        "edge_density": (edge_density(images) + 1e-3).log(),
        "colour_entropy": colour_entropy(images),
        "brightness": luma(images).mean((1, 2, 3)),
        "saturation": images.std(1).mean((1, 2)),
    }
