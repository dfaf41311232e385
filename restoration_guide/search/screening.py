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


def screen(image: Tensor, source: Tensor | None) -> tuple[str, str]:
    """Status and detail of a candidate's pixels.

    >>> screen(torch.rand(3, 16, 24), torch.rand(3, 8, 12))
    ('wrong_size', "24 × 16 px, expected the input's 12 × 8; resize it to that size first")

    Args:
        image: the candidate, should be (3, H, W) float in [0, 1].
        source: (3, H, W), the input; None where there is none.

    Returns:
        ``("ok", "")``, or a named reason and the figures behind it.
    """
    expected = expected_size(source)
    if image.ndim != 3 or len(image) != 3:
        return "wrong_size", f"shape {tuple(image.shape)}, expected (3, H, W)"
    if expected is not None and image.shape[-2:] != expected:
        size = f"{image.shape[-1]} × {image.shape[-2]} px, expected the input's"
        fix = "resize it to that size first"
        return "wrong_size", f"{size} {expected[1]} × {expected[0]}; {fix}"
    broken = int((~torch.isfinite(image)).sum())
    if broken:
        return "not_finite", f"{broken} of {image.numel()} values are NaN or infinite"
    low, high = float(image.min()), float(image.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        return "out_of_range", f"values span {low:.3g} to {high:.3g}, expected 0 to 1"
    if is_flat(image) and not (source is not None and is_flat(source)):
        colour = ", ".join(f"{value:.2f}" for value in image.mean(dim=(1, 2)).tolist())
        where = "" if source is None else ", where the input has structure"
        return "constant", f"one flat colour, RGB ({colour}){where}"
    return OK, ""


def expected_size(source: Tensor | None) -> tuple[int, int] | None:
    """Height and width of a usable candidate; None where any size will do."""
    return None if source is None else (source.shape[-2], source.shape[-1])


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


def screened(candidate: Candidate, source: Tensor | None) -> Row:
    """A candidate's row with its status, before it is measured and judged."""
    status, detail = screen(candidate.image.detach().float().cpu(), source)
    return Row(
        candidate.index,
        status=status,
        detail="; ".join(filter(None, (detail, *candidate.notes))),
        seed=candidate.seed,
        settings=candidate.settings_dict,
        seconds=candidate.seconds,
        nfe=candidate.nfe,
    )


def is_flat(image: Tensor) -> bool:
    """Whether every channel of (3, H, W) spans less than :data:`FLAT_RANGE`."""
    flat = image.flatten(1)
    return bool((flat.amax(1) - flat.amin(1) < FLAT_RANGE).all())
