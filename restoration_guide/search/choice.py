"""Which image to keep: a pure function of the table of judgements.

Three questions, in this order:

1. Is there something to repair? The input stays when its rating may be good already, that is when
   ``rating + confidence · rating_std`` reaches ``good_rating``; and also when what the candidates
   change is too little to be damage (:mod:`restoration_guide.search.changes`).
2. Which candidates are better at all? Those rated more than ``min_gain`` above the input.
3. Which of these? The one nearest to their consensus: the mean of these better candidates, each
   weighted by ``softmax(rating / temperature)``. Candidates are samples of what the clean
   photo may be, and the sample nearest to their mean has the least expected squared distance to it
   (minimum Bayes risk: Kumar & Byrne, *Minimum Bayes-Risk Decoding*, HLT-NAACL 2004; here with
   the judge's opinion as the weight of a sample). Where candidates cannot be told apart, the
   weights are equal and the safest, most central one is kept.

Why not simply the highest rating: a judge that was trained on different photos says whether a photo
is damaged far better than which of two restorations of it is nearer to the truth. On training
photos the bundled judge's rating had a rank correlation of -.20 with the MS-SSIM of a photo's
candidates, nearness in question 3 one of .69: 36 damaged 256² crops, 8
candidates each, seed 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from restoration_guide.search.changes import measure_change
from restoration_guide.search.selection import OK, Index, Row


@dataclass(frozen=True)
class ChoiceRule:
    """Thresholds of the choice between the candidates and the input.

    >>> good = Row("input", rating=4.3, rating_std=0.1)
    >>> ChoiceRule().may_be_good(good), ChoiceRule(good_rating=4.5).may_be_good(good)
    (True, False)

    Measured on random 256² crops of training photos, seed 0. ``confidence`` and ``good_rating``
    leave all but 5 of 200 undamaged crops alone, and 8 % of 400 damaged ones; with
    1 and 4.5 it would be all but 4, and 9.5 %. ``temperature`` and ``min_gain`` win .20 of the
    oracle's headroom in MS-SSIM; a temperature of 0 wins -.74, of inf .12, a ``min_gain`` of .2
    only .04.

    ``min_change`` and ``min_grid`` are measured with the first candidate: of 124 undamaged crops
    that the rating lets through, of 3,544, they keep 72, and 9 of 270 damaged ones; without the
    grid (inf) it would be 19 damaged ones.
    """

    confidence: float = 0.5
    """How many standard deviations of its rating the input's quality may lie above it: doubt
    counts against a change."""
    good_rating: float = 4.2
    """Rating from which an input is left alone; inf restores whatever comes."""
    min_gain: float = 0.0
    """Rating points by which a candidate must be rated above the input."""
    temperature: float = 0.5
    """Rating points by which a candidate must be better to weigh e times as much in what all agree
    on. 0 trusts the judge alone (the highest rating wins), inf the agreement alone."""
    min_change: float = 0.2
    """Share of the input's fine detail that candidates that repair damage change
    (:class:`~restoration_guide.search.changes.Change`). 0 lets them change as little as they like:
    for a restorer of light or colour, which changes no detail."""
    min_grid: float = 1.25
    """From this grid on, what they change is JPEG's blocks, however little it is."""

    def __post_init__(self) -> None:
        if not (0 <= self.confidence < math.inf and 0 <= self.min_gain < math.inf):
            raise ValueError(
                "confidence and min_gain are finite numbers ≥ 0; got "
                f"confidence={self.confidence}, min_gain={self.min_gain}."
            )
        if not self.temperature >= 0:
            raise ValueError(f"temperature is a number ≥ 0; got {self.temperature}.")
        if math.isnan(self.good_rating):
            raise ValueError("good_rating is a rating (1–5), or inf to switch it off; not NaN.")
        if not (self.min_change >= 0 and self.min_grid >= 0):
            raise ValueError(
                "min_change and min_grid are numbers ≥ 0; got "
                f"min_change={self.min_change}, min_grid={self.min_grid}."
            )

    def may_be_good(self, source: Row) -> bool:
        """Whether the input may be good: rating + confidence · std reaches ``good_rating``."""
        return source.rating + self.confidence * source.rating_std >= self.good_rating

    def nothing_repaired(self, source: Row) -> bool:
        """Whether the candidates change too little of the input to have repaired damage."""
        change = source.change
        return (
            change is not None and change.detail < self.min_change and change.grid < self.min_grid
        )


class Choice(NamedTuple):
    """The chosen row and the reason.

    >>> choose([Row("input", 3.0, 0.2), Row(0, 3.4, 0.2)], ChoiceRule()).index
    0
    """

    index: Index
    reason: str


def choose(rows: Sequence[Row], rule: ChoiceRule) -> Choice:
    """Choose a candidate or the input.

    >>> rows = [Row("input", rating=2.8, rating_std=0.2), Row(0, 3.1, 0.2), Row(1, 3.6, 0.2)]
    >>> choose(rows, ChoiceRule())
    Choice(index=1, reason='candidate 1 is best: +0.80 rating points over the input')
    >>> choose(rows, ChoiceRule(min_gain=1)).index
    'input'

    Where a second judge has rated the input and finalists, its highest rating wins among those it
    rates more than ``min_gain`` above the input; where it failed on the input or on every finalist,
    the first judge's choice stands and the reason says so.

    Args:
        rows: the input (index ``"input"``) and the candidates; only status ``"ok"`` can win.
            Candidates without a consensus distance come last, by rating.
        rule: the numbers.

    Returns:
        The winner; ties go to the lowest index. The input when no candidate is left, when it may be
        good already, when the candidates repair nothing, when none is better, or when the input
        itself has no valid judgement: what cannot be compared cannot be shown to be better.

    Raises:
        ValueError: no row is the input.
    """
    source = _input_of(rows)
    order = contenders(rows, rule)
    if not order:
        return Choice("input", f"input kept: {_why_kept(rows, source, rule)}")
    finalists = [row for row in order if row.second_rating is not None]
    if finalists:
        return _second_choice(source, order[0], finalists, rule)
    return Choice(order[0].index, _praise(order, source))


def contenders(rows: Sequence[Row], rule: ChoiceRule) -> list[Row]:
    """The candidates that may replace the input, the nearest to their consensus first.

    Raises:
        ValueError: no row is the input.
    """
    source = _input_of(rows)
    if source.status != OK or rule.may_be_good(source) or rule.nothing_repaired(source):
        return []
    return sorted(_better(rows, source, rule), key=_place)


def finalists(rows: Sequence[Row], rule: ChoiceRule, count: int) -> list[Row]:
    """The best rated of the candidates that may replace the input, for a second judge.

    Raises:
        ValueError: no row is the input.
    """
    best = sorted(contenders(rows, rule), key=lambda row: (-row.rating, int(row.index)))
    return best[:count]


def _better(rows: Sequence[Row], source: Row, rule: ChoiceRule) -> list[Row]:
    """Usable candidates rated above the input by more than the smallest gain."""
    return [
        row
        for row in rows
        if row.index != "input" and row.status == OK and row.rating - source.rating > rule.min_gain
    ]


def with_consensus(
    rows: Sequence[Row], image: Callable[[Index], Tensor], rule: ChoiceRule
) -> list[Row]:
    """The rows, the better candidates with their distance to the consensus of these.

    The input's row gets the change that they make. Candidates that are not better than the input
    have no part in either, so that they cannot change which of the others is chosen.

    Args:
        rows: of the input and the candidates.
        image: (3, H, W) in [0, 1] of a usable candidate, and of the input.
        rule: which candidates are better, and the temperature of :func:`consensus_distances`.

    Raises:
        ValueError: no row is the input.
    """
    better = _better(rows, _input_of(rows), rule)
    images = [image(row.index) for row in better]
    distances = consensus_distances(images, [row.rating for row in better], rule.temperature)
    known = {row.index: distance for row, distance in zip(better, distances, strict=True)}

    def measured(row: Row) -> Row:
        if row.index != "input":
            return replace(row, consensus_distance=known.get(row.index, math.nan))
        return replace(row, change=measure_change(image("input"), images) if images else None)

    return [measured(row) for row in rows]


def consensus_distances(
    images: Sequence[Tensor], ratings: Sequence[float], temperature: float
) -> list[float]:
    """How far each image is from the weighted mean of all.

    Args:
        images: (3, H, W) of one shape in [0, 1].
        ratings: of each image.
        temperature: of the weights ``softmax(rating / temperature)``; at 0 the best share it all.

    Returns:
        RMS distance of each to the weighted mean, in pixel values.
    """
    if not images:
        return []
    scores = torch.tensor(ratings, dtype=torch.float64)
    best = scores == scores.max()
    weights = best / best.sum() if temperature == 0 else torch.softmax(scores / temperature, 0)
    mean = torch.zeros_like(images[0], dtype=torch.float32)
    for weight, image in zip(weights.tolist(), images, strict=True):
        mean += weight * image
    return [float((image - mean).square().mean().sqrt()) for image in images]


def _input_of(rows: Sequence[Row]) -> Row:
    source = next((row for row in rows if row.index == "input"), None)
    if source is None:
        raise ValueError("the choice needs the row of the input (index 'input') among its rows.")
    return source


def _place(row: Row) -> tuple[float, float, int]:
    distance = row.consensus_distance
    return (math.inf if math.isnan(distance) else distance, -row.rating, int(row.index))


def _praise(order: Sequence[Row], source: Row) -> str:
    best = order[0]
    figures = f"{best.rating - source.rating:+.2f} rating points over the input"
    if math.isnan(best.consensus_distance) or len(order) == 1:
        return f"candidate {best.index} is best: {figures}"
    return (
        f"candidate {best.index} is best: {figures}, and of the {len(order)} better ones the "
        "nearest to their consensus"
    )


def _why_kept(rows: Sequence[Row], source: Row, rule: ChoiceRule) -> str:
    candidates = [row for row in rows if row.index != "input"]
    usable = [row for row in candidates if row.status == OK]
    if not usable:
        counts = sorted(Counter(row.status for row in candidates).items())
        skipped = ", ".join(f"{count} {status}" for status, count in counts)
        why = f"all {len(candidates)} were skipped ({skipped})" if counts else "none was finished"
        return f"no candidate to choose from, {why}"
    if source.status != OK:
        return (
            f"it could not be judged ({source.detail}), so no candidate can be shown to be better"
        )
    if rule.may_be_good(source):
        return (
            f"it may be good already, its rating {source.rating:.2f} + {rule.confidence:g} × "
            f"{source.rating_std:.2f} reaches {rule.good_rating:g}"
        )
    if source.change is not None and rule.nothing_repaired(source):
        return (
            f"the candidates change {source.change.detail:.0%} of its fine detail, and on no grid "
            f"of blocks; repairing damage changes {rule.min_change:.0%} or more"
        )
    best = max(usable, key=lambda row: (row.rating, -int(row.index)))
    return (
        f"the best candidate ({best.index}) is rated {best.rating:.2f} against its "
        f"{source.rating:.2f}, and a gain of more than {rule.min_gain:g} is asked for"
    )


def _second_choice(source: Row, first: Row, finalists: Sequence[Row], rule: ChoiceRule) -> Choice:
    judged = [row for row in finalists if math.isfinite(row.second_rating or math.nan)]
    before = source.second_rating
    failures = len(finalists) - len(judged)
    if before is None or not math.isfinite(before) or not judged:
        what = "the input" if judged else f"all {len(finalists)} finalists"
        why = f"by the first judge alone: the second failed on {what}"
        return Choice(first.index, f"candidate {first.index} is best {why}")
    lost = f"; the second judge failed on {failures} of {len(finalists)}" if failures else ""
    best = max(judged, key=lambda row: (row.second_rating, -finalists.index(row)))
    after = best.second_rating or math.nan
    figures = f"{after:.2f} against the input's {before:.2f} by the second judge{lost}"
    if after - before > rule.min_gain:
        return Choice(best.index, f"candidate {best.index} is best of the finalists: {figures}")
    return Choice("input", f"input kept: the best finalist ({best.index}) has {figures}")
