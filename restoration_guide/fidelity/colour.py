"""Pictures without colour: tell whether an RGB image is greyscale, and take colour out."""

from __future__ import annotations

import torch
from torch import Tensor

GREY_SPREAD = 2 / 255
"""Largest difference between R, G and B of a greyscale image: two 8-bit steps, because JPEG and
colour management round each channel by itself."""


def is_grey(image: Tensor) -> bool:
    """Whether an RGB image is greyscale.

    Args:
        image: (3, H, W) in [0, 1].

    >>> is_grey(torch.rand(1, 8, 8).expand(3, 8, 8)), is_grey(torch.rand(3, 8, 8))
    (True, False)
    """
    return bool((image.amax(0) - image.amin(0)).max() <= GREY_SPREAD)


def without_colour(image: Tensor) -> Tensor:
    """The image's luma (Rec. 601) in all three channels.

    Args:
        image: (3, H, W) in [0, 1]; NaN stays NaN.

    >>> without_colour(torch.tensor([1.0, 0.0, 0.0])[:, None, None]).flatten()
    tensor([0.2990, 0.2990, 0.2990])
    """
    weights = image.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    return (weights * image).sum(0, keepdim=True).expand_as(image).contiguous()


def added_colour(images: Tensor, degraded: Tensor) -> Tensor:
    """How much colour a restoration adds to a greyscale input.

    Args:
        images: (B, 3, H, W) in [0, 1].
        degraded: (B, 3, H, W) in [0, 1], the inputs.

    Returns:
        (B,) 99th percentile over the pixels of the difference between the largest and the smallest
        channel, in pixel values of [0, 1]; NaN where the input has colour.

    >>> grey = torch.full((1, 3, 8, 8), 0.5)
    >>> added_colour(grey + torch.tensor([0.1, 0, 0])[:, None, None], grey)
    tensor([0.1000])
    """
    spread = (images.amax(1) - images.amin(1)).flatten(1)
    rank = max(1, round(0.99 * spread.shape[1]))  # torch.quantile refuses more than 2^24 values
    found = spread.kthvalue(rank, dim=1).values
    grey = torch.tensor([is_grey(image) for image in degraded], device=found.device)
    return found.masked_fill(~grey, torch.nan)
