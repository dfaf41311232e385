"""The best image of a batch, with or without the input that all were restored from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from zoomiqa_core.scorer import Scorer

from .judging import rate
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
        images: candidates.
        source: (3, H, W), what they were restored from.

    Raises:
        ValueError: without an input, no image can be judged.
    """
    if source is None:
        rated = rate(scorer, images)
        ranked = sorted(
            (i for i, rating in enumerate(rated.ratings) if rating == rating),
            key=lambda i: -rated.ratings[i],
        )
        if not ranked:
            raise ValueError(f"no image could be judged: {rated.report}")
        best = ranked[0]
        reason = f"image {best} is best: rated {rated.words[best]}"
        return Picked(images[best].pixels, best, reason, f"{reason}\n{rated.report}")
    from restoration_guide.restorers import load_restorer
    from restoration_guide.search.best_of_n import BestOfN

    finished = iter(images)

    def existing(image, generator):
        return next(finished).pixels

    selection = BestOfN(load_restorer(existing), scorer, len(images))(source)
    index = -1 if selection.choice == "input" else int(selection.choice)
    lines = [selection.reason]
    for row, image in zip(selection.rows[1:], images, strict=True):
        figures = f"{row.rating:.2f}, gain {row.gain:+.2f} ± {row.gain_std:.2f}"
        words = row.detail and f"{row.status}: {row.detail}"
        lines.append(f"image {row.index}: {'; '.join((words or figures, *image.notes))}")
    return Picked(selection.best, index, selection.reason, "\n".join(lines))
