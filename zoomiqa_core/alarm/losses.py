"""What teaches the alarm: the differences within a family, and less so the level."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def difference_loss(rating: Tensor, target: Tensor, size: int) -> Tensor:
    """Smooth L1 (β = .1 rating) of the differences of all pairs in each family.

    The alarm is asked which of two versions of one photo is better and by how much; what it thinks
    of the photo itself cancels.

    Args:
        rating, target: (families · size,).
        size: versions in a family.
    """
    found, true = rating.view(-1, size), target.view(-1, size)
    found = found[:, :, None] - found[:, None, :]
    true = true[:, :, None] - true[:, None, :]
    return functional.smooth_l1_loss(found, true, beta=0.1) * size / (size - 1)  # no diagonal


def level_loss(rating: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (β = .25 rating) of the ratings themselves."""
    return functional.smooth_l1_loss(rating, target, beta=0.25)
