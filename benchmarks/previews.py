"""Do previews rank as the candidates they become? Rank correlations of ratings on the way.

SRCC at a share of the steps: rank correlation of the previews after the first evaluation that
reaches it with the finished candidates, over the candidates of more than one step; "drift" adds to
every preview how much the same candidate's rating rises on the other photos.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from restoration_guide.restorers.base import Candidate, Preview, Restorer
from restoration_guide.search.selection import Selection
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap, srcc
from zoomiqa_core.scorer import Scorer

SHARES = (0.2, 0.3, 0.5)
"""Shares of the steps at which previews are held against what they become."""


class Recorder:
    """A restorer that keeps what an observer would see, and ends nothing."""

    def __init__(self, restorer: Restorer) -> None:
        self.inner = restorer
        self.name, self.plan, self.limits = restorer.name, restorer.plan, restorer.limits
        self.previews: list[Preview] = []

    def restore(
        self, image: Tensor, *, n: int, seed: int = 0, batch_size: int = 1, observer: object = None
    ) -> Iterator[Candidate]:
        self.previews = []
        return self.inner.restore(
            image, n=n, seed=seed, batch_size=batch_size, observer=self._record
        )

    def _record(self, previews: Sequence[Preview]) -> Collection[int]:
        self.previews += previews
        return [preview.index for preview in previews]


@dataclass(frozen=True)
class Progress:
    """Ratings of one photo's candidates on their way."""

    previews: dict[tuple[int, int], float]
    """By index and step."""
    steps: dict[int, int]
    """Steps of the candidates that have previews."""
    finished: dict[int, float]
    """By index."""

    def at(self, share: float) -> dict[int, float]:
        """Rating by index after the first evaluation that reaches the share; finished ones' own."""
        reached = {index: math.ceil(share * steps - 1e-9) for index, steps in self.steps.items()}
        return {
            index: self.previews.get((index, step), self.finished[index])
            for index, step in reached.items()
        }


def progress_of(whole: Selection, previews: Sequence[Preview], scorer: Scorer) -> Progress:
    """Ratings of a full search's candidates, previews and finished."""
    judged = scorer.assess([preview.image for preview in previews])
    return Progress(
        {
            (p.index, p.step): judgement.rating
            for p, judgement in zip(previews, judged, strict=True)
        },
        {preview.index: preview.steps for preview in previews},
        {int(r.index): r.rating for r in whole.rows if r.index != "input"},
    )


def rank_correlations(photos: Sequence[Progress]) -> dict[str, Estimate]:
    """SRCC of previews with what they become, as they are and with the others' drift added."""
    result = {}
    for share in SHARES:
        plain, drifted = [], []
        for place, progress in enumerate(photos):
            others = [other for k, other in enumerate(photos) if k != place]
            shown = progress.at(share)
            final = [progress.finished[index] for index in shown]
            drift = {
                index: float(np.mean([o.finished[index] - o.at(share)[index] for o in others]))
                for index in shown
                if others
            }
            plain.append(srcc(list(shown.values()), final))
            drifted.append(srcc([value + drift.get(i, 0.0) for i, value in shown.items()], final))
        result[f"SRCC at {share:.0%}"] = bootstrap(np.nanmean, plain)
        result[f"SRCC at {share:.0%}, drift"] = bootstrap(np.nanmean, drifted)
    return result
