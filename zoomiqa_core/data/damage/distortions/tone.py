"""Brightness and contrast curves, mean shift and intensity quantisation."""

import torch
from torch import Tensor

QUANTISER_ITERATIONS = 30
"""Lloyd iterations of the intensity quantiser, until thresholds move less than 0.1 grey levels."""


def brighten(images: Tensor, amount: float) -> Tensor:
    """Raise the mid-tones of (B, 3, H, W): mid-grey goes to ½ + amount/2.

    KADID's ``imbrighten``: two parts of the curve on RGB, one part of it on CIELAB lightness.

    >>> brighten(torch.full((1, 3, 1, 1), 0.5), 0.4).flatten().round(decimals=1)
    tensor([0.7000, 0.7000, 0.7000])
    """
    from kornia.color import lab_to_rgb, rgb_to_lab

    midpoint = 0.5 + amount / 2.0
    lightness, chroma = rgb_to_lab(images).split((1, 2), dim=1)
    lightness = 100.0 * mid_tone_curve(lightness / 100.0, midpoint)
    by_lightness = lab_to_rgb(torch.cat((lightness, chroma), dim=1))
    return (2.0 * mid_tone_curve(images, midpoint) + by_lightness) / 3.0


def darken(images: Tensor, amount: float) -> Tensor:
    """Lower the mid-tones of (B, 3, H, W): mid-grey goes to ½ − amount/2, on RGB alone.

    >>> darken(torch.full((1, 3, 1, 1), 0.5), 0.4).flatten()
    tensor([0.3000, 0.3000, 0.3000])
    """
    return mid_tone_curve(images, 0.5 - amount / 2.0)


def mean_shift(images: Tensor, offset: float) -> Tensor:
    """Add ``offset`` to every channel of (B, 3, H, W).

    >>> mean_shift(torch.full((1, 3, 1, 1), 0.5), -0.15).flatten()
    tensor([0.3500, 0.3500, 0.3500])
    """
    return images + offset


def contrast_change(images: Tensor, amount: float) -> Tensor:
    """Map (B, 3, H, W) by the spline through (0,0) (.3, ¼−a/4) (.5,.5) (.7, ¾+a/4) (1,1).

    KADID's ``imcontrastc``, MATLAB's not-a-knot spline. Positive amounts raise the contrast,
    negative ones lower it; 0 is a mild rise, because the outer points sit at .3 and .7.
    With five points a not-a-knot spline is one cubic on each side of ½.

    >>> greys = torch.tensor([0.3, 0.5, 0.7]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    >>> contrast_change(greys, 0.4)[0, 0, 0]
    tensor([0.1500, 0.5000, 0.8500])
    """
    from scipy.interpolate import CubicSpline

    heights = (0.0, 0.25 - amount / 4.0, 0.5, 0.75 + amount / 4.0, 1.0)
    pieces = CubicSpline((0.0, 0.3, 0.5, 0.7, 1.0), heights, bc_type="not-a-knot").c.T
    offset = images - 0.5  # both cubics have the same value at ½
    below = _cubic(offset + 0.5, pieces[0])
    above = _cubic(offset, pieces[2])
    return torch.where(offset < 0, below, above).clamp(0.0, 1.0)


def quantise_intensity(images: Tensor, levels: int) -> Tensor:
    """Quantise the intensities of (B, 3, H, W) at ``levels`` Otsu thresholds for R, G and B alike.

    MATLAB's ``multithresh`` searches the thresholds that minimise the within-class variance; here
    Lloyd's iteration on the 256-bin histogram minimises it from the same uniform start. As in
    KADID's ``imnoisequantize`` a class takes the value of the threshold below it, the
    darkest two collapse to 0 and the brightest goes to 1.
    """
    codes = (images * 255.0).round().long().flatten(1)  # (B, 3HW)
    histogram = torch.zeros(codes.shape[0], 256, dtype=torch.float64, device=images.device)
    histogram.scatter_add_(1, codes, torch.ones_like(codes, dtype=torch.float64))
    thresholds = _otsu_thresholds(histogram, levels)  # (B, levels) in grey levels
    values = torch.cat((torch.zeros_like(thresholds[:, :1]), thresholds[:, 1:]), dim=1) / 255.0
    values = torch.cat((values, torch.ones_like(values[:, :1])), dim=1)  # (B, levels + 1)
    grey = torch.arange(256, dtype=torch.float64, device=images.device).expand_as(histogram)
    table = values.gather(1, torch.searchsorted(thresholds, grey.contiguous()))
    return table.gather(1, codes).view_as(images).to(images)


def mid_tone_curve(values: Tensor, midpoint: float) -> Tensor:
    """Parabola through (0, 0), (½, midpoint), (1, 1), clamped: KADID's ``curves`` of one point.

    >>> mid_tone_curve(torch.tensor([0.0, 0.25, 0.5, 1.0]), 0.6)
    tensor([0.0000, 0.3250, 0.6000, 1.0000])
    """
    return (values + 4.0 * (midpoint - 0.5) * values * (1.0 - values)).clamp(0.0, 1.0)


def _cubic(x: Tensor, coefficients: object) -> Tensor:
    a, b, c, d = (float(value) for value in coefficients)  # type: ignore[attr-defined]
    return ((a * x + b) * x + c) * x + d


def _otsu_thresholds(histogram: Tensor, levels: int) -> Tensor:
    """Thresholds (B, levels), ascending, that split (B, 256) counts into ``levels`` + 1 classes."""
    grey = torch.arange(256, dtype=torch.float64, device=histogram.device)
    mass = torch.cat((torch.zeros_like(histogram[:, :1]), histogram.cumsum(1)), dim=1)
    moment = (histogram * grey).cumsum(1)
    moment = torch.cat((torch.zeros_like(moment[:, :1]), moment), dim=1)

    lowest = torch.where(histogram > 0, grey, 255.0).amin(dim=1, keepdim=True)
    highest = torch.where(histogram > 0, grey, 0.0).amax(dim=1, keepdim=True)
    steps = torch.arange(1, levels + 1, dtype=torch.float64, device=grey.device) / (levels + 1)
    thresholds = lowest + steps * (highest - lowest)
    for _ in range(QUANTISER_ITERATIONS):
        cuts = thresholds.floor().long() + 1  # classes are (t_i, t_i+1]; cuts count the bins below
        cuts = torch.cat(
            (torch.zeros_like(cuts[:, :1]), cuts, torch.full_like(cuts[:, :1], 256)), 1
        )
        counts = mass.gather(1, cuts).diff(dim=1)
        sums = moment.gather(1, cuts).diff(dim=1)
        edges = torch.cat((lowest, thresholds, highest), dim=1)
        centres = torch.where(
            counts > 0, sums / counts.clamp(min=1.0), edges.unfold(1, 2, 1).mean(2)
        )
        thresholds = (centres[:, 1:] + centres[:, :-1]) / 2.0
    return thresholds
