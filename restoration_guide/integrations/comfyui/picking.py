"""The best image of a batch, with or without the input that all were restored from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from restoration_guide.search.pick import pick_best
from restoration_guide.search.selection import OK, Row
from zoomiqa_core.scorer import Scorer

from .pictures import Picture

AUTO = "auto"
"""Stands for the restoration judge with an input, and for the proxy without one."""


class Picked(NamedTuple):
    """The best image."""

    best: Tensor
    """(3, H, W) in [0, 1]."""
    index: int
    """Its place in the batch, from 0; −1 for the input."""
    reason: str
    report: str


def pick(scorer: Scorer, images: Sequence[Picture], source: Tensor | None = None) -> Picked:
    """Pick.

    >>> import torch, zoomiqa_core as zi
    >>> images = [Picture(torch.zeros(3, 64, 64)), Picture(torch.full((3, 64, 64), torch.nan))]
    >>> picked = pick(zi.load_scorer("restoration"), images, torch.rand(3, 64, 64))
    >>> picked.index, picked.reason
    (-1, 'input kept: no candidate to choose from, all 2 were skipped (1 constant, 1 not_finite)')

    Args:
        scorer: the judge.
        images: candidates, of any sizes; with an input only those of its size can win.
        source: (3, H, W), what they were restored from.

    Raises:
        NoCandidateError: without an input, no image can be judged.
    """
    selection = pick_best(source, [image.pixels for image in images], scorer)
    index = -1 if selection.choice == "input" else selection.choice
    lines = [selection.reason]
    for row in selection.rows:
        if row.index != "input":
            words = (_words(row), *images[row.index].notes)
            lines.append(f"candidate {row.index}: {'; '.join(words)}")
    return Picked(selection.best, index, selection.reason, "\n".join(lines))


def _words(row: Row) -> str:
    if row.status != OK:
        return f"{row.status}: {row.detail}"
    gain = f", gain {row.gain:+.2f} ± {row.gain_std:.2f}" if math.isfinite(row.gain) else ""
    return f"{row.rating:.2f} ± {row.rating_std:.2f}{gain}"
