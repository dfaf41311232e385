"""Do the candidates repair damage, or do they soften an undamaged photo?

Who restores an undamaged photo loses a little of its detail, everywhere in proportion to it. Damage
differs from that: what noise adds and blur takes is large beside the fine detail the image has, and
what JPEG adds lies on a grid of 8 × 8 blocks. So a change that is small and on no grid says that
there was nothing to repair, whatever the judge says. Measured figures stand
at :class:`~restoration_guide.search.choice.ChoiceRule`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from kornia.color import rgb_to_grayscale
from torch import Tensor
from torch.nn import functional

BLOCK = 8
"""Pixels a side of JPEG's blocks."""
MIN_GRID_SIDE = 4 * BLOCK
"""A shorter side has too few blocks to tell a grid from chance."""


class Change(NamedTuple):
    """What the candidates change about the input, as one image: input - mean of the candidates."""

    detail: float
    """Energy of its fine detail, as a share of that of the input, in the quarter of the image where
    that is most: damage may lie in one part alone. Above 1 where it is larger."""
    grid: float
    """How much stronger its steps between pixels are on one line of every eight than on the
    others: 1 is no grid. Inf where a side is too short to tell."""


def measure_change(source: Tensor, candidates: Sequence[Tensor]) -> Change:
    """Compare an input with the mean of its candidates, which is what they agree on.

    Args:
        source: (3, H, W) in [0, 1].
        candidates: at least one of that shape.

    Raises:
        ValueError: no candidate.
    """
    if not candidates:
        raise ValueError("a change needs at least one candidate to compare the input with.")
    mean = torch.zeros_like(source)
    for image in candidates:
        mean += image / len(candidates)
    change, before = rgb_to_grayscale(source - mean), rgb_to_grayscale(source)
    shares = [
        changed / present if present > 0 else (math.inf if changed > 0 else 0.0)
        for changed, present in zip(_fine_energy(change), _fine_energy(before), strict=True)
    ]
    return Change(max(shares), max(_grid(change[0]), _grid(change[0].T)))


def _fine_energy(plane: Tensor) -> list[float]:
    """Mean square, by quarters, of what a mean over 5 × 5 pixels takes away from (1, H, W)."""
    smooth = functional.avg_pool2d(plane[None], 5, 1, 2, count_include_pad=False)[0]
    return functional.adaptive_avg_pool2d((plane - smooth).square(), 2).flatten().tolist()


def _grid(plane: Tensor) -> float:
    """Steps from column to column of (H, W): the strongest of eight phases over the median one."""
    if min(plane.shape) < MIN_GRID_SIDE:
        return math.inf
    steps = plane.diff(dim=1).abs().mean(dim=0)
    phases = torch.stack([steps[phase::BLOCK].mean() for phase in range(BLOCK)])
    strongest, usual = float(phases.max()), float(phases.median())
    return strongest / usual if usual > 0 else (math.inf if strongest > 0 else 1.0)
