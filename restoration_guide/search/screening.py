"""What disqualifies a candidate before anything judges it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from restoration_guide.fidelity.colour import is_grey, without_colour
from restoration_guide.search.selection import OK, Row

if TYPE_CHECKING:
    from restoration_guide.restorers.base import Candidate

RANGE_TOLERANCE = 1e-3
"""Overshoot of [0, 1] that is clamped; a quarter of an 8-bit step."""
FLAT_RANGE = 2 / 255
"""An image whose channels each span less than this is one flat colour."""


def screen(image: Tensor, source: Tensor) -> tuple[str, str]:
    """Status and detail of a candidate's pixels.

    Args:
        image: the candidate, should be (3, H, W) float in [0, 1].
        source: (3, H, W), the input.

    Returns:
        ``("ok", "")``, or a named reason and the figures behind it.
    """
    if image.shape != source.shape:
        return "wrong_size", f"shape {tuple(image.shape)}, expected {tuple(source.shape)}"
    broken = int((~torch.isfinite(image)).sum())
    if broken:
        return "not_finite", f"{broken} of {image.numel()} values are NaN or infinite"
    low, high = float(image.min()), float(image.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        return "out_of_range", f"values span {low:.3g} to {high:.3g}, expected 0 to 1"
    if is_flat(image) and not is_flat(source):
        colour = ", ".join(f"{value:.2f}" for value in image.mean(dim=(1, 2)).tolist())
        return "constant", f"one flat colour, RGB ({colour}), where the input has structure"
    return OK, ""


def matched_colour(candidate: Candidate, grey: bool) -> Candidate:
    """A candidate without colour, and a note of it, where the input is greyscale.

    >>> from restoration_guide.restorers.base import Candidate
    >>> tinted = Candidate(0, 0, {}, torch.rand(3, 8, 8), seconds=0.1)
    >>> matched_colour(tinted, grey=True).notes
    ('colour taken out: the input is greyscale',)
    """
    if not grey or is_grey(candidate.image):
        return candidate
    notes = (*candidate.notes, "colour taken out: the input is greyscale")
    return replace(candidate, image=without_colour(candidate.image), notes=notes)


def screened(candidate: Candidate, source: Tensor) -> Row:
    """A candidate's row with its status, before it is measured and judged."""
    status, detail = screen(candidate.image.detach().float().cpu(), source)
    if status != OK:
        detail = "; ".join((detail, *candidate.notes))
    return Row(
        candidate.index,
        status=status,
        detail=detail,
        seed=candidate.seed,
        settings=candidate.settings_dict,
        seconds=candidate.seconds,
        nfe=candidate.nfe,
    )


def is_flat(image: Tensor) -> bool:
    """Whether every channel of (3, H, W) spans less than :data:`FLAT_RANGE`."""
    flat = image.flatten(1)
    return bool((flat.amax(1) - flat.amin(1) < FLAT_RANGE).all())
