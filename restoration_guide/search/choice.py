"""Which image to keep: a pure function of the table of judgements.

1. Which candidates may replace the input? Those that are probably better: the lower bound of their
   gain, ``gain − k · gain_std``, is above ``min_gain``, where k belongs to ``min_probability``.
   Candidates below it have no influence on which of the others is chosen.
2. Which of these? By ``select``: the highest lower bound of the gain, the highest rating, the one
   nearest to the mean of the better ones, or the highest value of the caller's own function.

The gain is what the judge says of candidate against input
(:func:`~restoration_guide.search.judging.gain_of`). Images without an input, such as samples of a
text-to-image model, are compared by their ratings alone: :func:`choose_rated`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restoration_guide.search.judging import gain_of
from restoration_guide.search.selection import OK, Index, Row

RULES = ("gain", "rating", "consensus")


@dataclass(frozen=True)
class ChoiceRule:
    """How a candidate, or the input, is chosen.

    >>> rows = [Row("input", 3.0, 0.2), Row(0, 3.6, 0.5), Row(1, 3.5, 0.1)]
    >>> rows = with_gains(rows)
    >>> choose(rows, ChoiceRule()).index, choose(rows, ChoiceRule(select="rating")).index
    (1, 0)
    >>> choose(rows, ChoiceRule(select=lambda row: -row.index)).index
    0
    """

    select: Any = "gain"
    """``"gain"``: the highest lower bound of the gain over the input. ``"rating"``: the highest
    rating. ``"consensus"``: nearest to the mean of all better candidates, the safest where the
    judge cannot tell them apart. A function of a :class:`Row`: its highest value."""
    min_probability: float = 0.6
    """Probability with which a candidate must be better than the input to replace it, in
    [0.5, 1); 0.5 takes the judge at its word."""
    min_gain: float = 0.0
    """Rating points by which it must be better."""

    def __post_init__(self) -> None:
        if not (callable(self.select) or self.select in RULES):
            known = ", ".join(map(repr, RULES))
            raise ValueError(f"select is {known} or a function of a row; got {self.select!r}.")
        if not 0.5 <= self.min_probability < 1:
            raise ValueError(
                f"min_probability lies in [0.5, 1), 0.5 for no doubt; got {self.min_probability}."
            )
        if not 0 <= self.min_gain < math.inf:
            raise ValueError(f"min_gain is a finite number ≥ 0; got {self.min_gain}.")

    @property
    def confidence(self) -> float:
        """k of the lower bound ``gain − k · gain_std``: the normal quantile of the probability."""
        return NormalDist().inv_cdf(self.min_probability)

    def lower_gain(self, row: Row) -> float:
        """Lower bound of a row's gain; NaN without a gain."""
        return row.gain - self.confidence * row.gain_std

    def value(self, row: Row) -> float:
        """What the choice among better candidates maximises."""
        select = self.select
        if not isinstance(select, str):
            return float(select(row))
        if select == "consensus":
            return -row.consensus_distance
        return row.rating if select == "rating" else self.lower_gain(row)


class Choice(NamedTuple):
    """The chosen row and the reason.

    >>> choose(with_gains([Row("input", 3.0, 0.2), Row(0, 3.4, 0.2)]), ChoiceRule()).index
    0
    """

    index: Index
    reason: str


def with_gains(rows: Sequence[Row]) -> list[Row]:
    """The rows with their gain over the input, where the judge has not given one itself.

    >>> with_gains([Row("input", 3.0, 0.2), Row(0, 3.5, 0.1)])[1].gain
    0.5

    Raises:
        ValueError: no row is the input.
    """
    source = _input_of(rows)
    return [row if row.index == "input" else _with_gain(row, source) for row in rows]


def choose(rows: Sequence[Row], rule: ChoiceRule) -> Choice:
    """Choose a candidate or the input.

    >>> rows = [Row("input", 2.8, 0.2), Row(0, 3.1, 0.2), Row(1, 3.6, 0.2)]
    >>> choose(with_gains(rows), ChoiceRule())
    Choice(index=1, reason='candidate 1 is best: gain +0.80 ± 0.20 over the input')
    >>> choose(with_gains(rows), ChoiceRule(min_gain=1)).index
    'input'

    Where a second judge has rated the input and finalists, its highest rating wins among those it
    rates more than ``min_gain`` above the input; where it failed on the input or on every finalist,
    the first judge's choice stands and the reason says so.

    Args:
        rows: the input (index ``"input"``) and the candidates, with gains; only status ``"ok"`` can
            win.
        rule: the numbers.

    Returns:
        The winner; ties go to the higher rating, then to the lowest index. The input when no
        candidate is left, when none is probably better, or when the input itself has no valid
        judgement: what cannot be compared cannot be shown to be better.

    Raises:
        ValueError: no row is the input.
    """
    source = _input_of(rows)
    order = contenders(rows, rule)
    if not order:
        return Choice("input", f"input kept: {_why_kept(rows, source, rule)}")
    shown = [row for row in order if row.second_rating is not None]
    if shown:
        return _second_choice(source, order[0], shown, rule)
    best = order[0]
    figures = f"gain {best.gain:+.2f} ± {best.gain_std:.2f} over the input"
    return Choice(best.index, f"candidate {best.index} is best: {figures}{_by(order, rule)}")


def choose_rated(rows: Sequence[Row], rule: ChoiceRule) -> Choice:
    """Choose among images that have no input.

    ``select="gain"`` takes the highest lower bound of the rating, ``"rating"`` the highest rating,
    and a function its highest value.

    >>> rows = [Row(0, 3.6, 0.5), Row(1, 3.55, 0.1), Row(2, status="unreadable")]
    >>> choose_rated(rows, ChoiceRule())
    Choice(index=1, reason='candidate 1 is best of 2: rating 3.55 ± 0.10')
    >>> choose_rated(rows, ChoiceRule(select="rating")).index
    0

    Raises:
        NoCandidateError: none can be chosen.
    """
    order = ranked(rows, rule)
    if not order:
        raise NoCandidateError(f"nothing to choose from, {_skipped_in_words(rows)}")
    best = order[0]
    judged = [row for row in order if math.isfinite(row.second_rating or math.nan)]
    if judged:
        best = max(judged, key=lambda row: (row.second_rating, -order.index(row)))
        return Choice(
            best.index,
            f"candidate {best.index} is best of {len(judged)} finalists: rating "
            f"{best.second_rating:.2f} by the second judge",
        )
    figures = f"rating {best.rating:.2f} ± {best.rating_std:.2f}"
    return Choice(best.index, f"candidate {best.index} is best of {len(order)}: {figures}")


class NoCandidateError(RuntimeError):
    """No image could be chosen, and there is no input to keep; the message counts the reasons.

    >>> choose_rated([Row(0, status="unreadable")], ChoiceRule())
    Traceback (most recent call last):
    restoration_guide.search.choice.NoCandidateError: nothing to choose from, all 1 were skipped ...
    """


def ranked(rows: Sequence[Row], rule: ChoiceRule) -> list[Row]:
    """Every row that can be used, best first.

    First the candidates that may replace the input, in the rule's order, then the input, then the
    others by their lower bound. Without an input, all by the rule.

    >>> rows = [Row("input", 3.0, 0.1), Row(0, 2.5, 0.1), Row(1, 3.5, 0.1), Row(2, 3.9, 0.1)]
    >>> [row.index for row in ranked(with_gains(rows), ChoiceRule())]
    [2, 1, 'input', 0]
    """
    usable = [row for row in rows if row.status == OK and row.index != "input"]
    source = next((row for row in rows if row.index == "input"), None)
    if source is None:
        return _sorted(usable, lambda row: _value_alone(row, rule))
    first = contenders(rows, rule)
    others = [row for row in usable if row not in first]
    return [*first, source, *_sorted(others, rule.lower_gain)]


def contenders(rows: Sequence[Row], rule: ChoiceRule) -> list[Row]:
    """The candidates that may replace the input, in the rule's order.

    Raises:
        ValueError: no row is the input.
    """
    return _sorted(_better(rows, rule), rule.value)


def finalists(rows: Sequence[Row], rule: ChoiceRule, count: int) -> list[Row]:
    """The best rated of the candidates that may replace the input, for a second judge.

    Raises:
        ValueError: no row is the input.
    """
    best = sorted(contenders(rows, rule), key=lambda row: (-row.rating, int(row.index)))
    return best[:count]


def _sorted(rows: Sequence[Row], value: Callable[[Row], float]) -> list[Row]:
    """By value, then rating, the highest first, then by index."""

    def key(row: Row) -> tuple[float, float, int]:
        found = value(row)
        return (math.inf if math.isnan(found) else -found, -row.rating, int(row.index))

    return sorted(rows, key=key)


def _value_alone(row: Row, rule: ChoiceRule) -> float:
    """What the choice without an input maximises."""
    if rule.select == "gain":
        return row.rating - rule.confidence * row.rating_std
    return rule.value(row)


def _with_gain(row: Row, source: Row) -> Row:
    gain, std = gain_of(source, row)
    return replace(row, gain=gain, gain_std=std)


def _better(rows: Sequence[Row], rule: ChoiceRule) -> list[Row]:
    """Usable candidates that are probably better than the input."""
    if _input_of(rows).status != OK:
        return []
    return [
        row
        for row in rows
        if row.index != "input" and row.status == OK and rule.lower_gain(row) > rule.min_gain
    ]


def with_consensus(
    rows: Sequence[Row], image: Callable[[Index], Tensor], rule: ChoiceRule
) -> list[Row]:
    """The rows, the better candidates with their distance to the mean of these.

    Candidates are samples of what the clean photo may be, and the sample nearest to their mean has
    the least expected squared distance to it (minimum Bayes risk: Kumar & Byrne, *Minimum
    Bayes-Risk Decoding*, HLT-NAACL 2004).

    Args:
        rows: of the input and the candidates, with gains.
        image: (3, H, W) in [0, 1] of a usable candidate.
        rule: which candidates are better.

    Raises:
        ValueError: no row is the input.
    """
    better = _better(rows, rule)
    distances = consensus_distances([image(row.index) for row in better])
    known = {row.index: distance for row, distance in zip(better, distances, strict=True)}
    return [replace(row, consensus_distance=known.get(row.index, math.nan)) for row in rows]


def consensus_distances(images: Sequence[Tensor]) -> list[float]:
    """RMS distance of each image to the mean of all, in pixel values.

    >>> consensus_distances([torch.full((3, 2, 2), value) for value in (0.0, 0.25, 0.5)])
    [0.25, 0.0, 0.25]

    Args:
        images: (3, H, W) of one shape in [0, 1].
    """
    if not images:
        return []
    mean = torch.zeros_like(images[0], dtype=torch.float32)
    for image in images:
        mean += image / len(images)
    return [float((image - mean).square().mean().sqrt()) for image in images]


def _input_of(rows: Sequence[Row]) -> Row:
    source = next((row for row in rows if row.index == "input"), None)
    if source is None:
        raise ValueError("the choice needs the row of the input (index 'input') among its rows.")
    return source


def _by(order: Sequence[Row], rule: ChoiceRule) -> str:
    """By which rule one of several better candidates was chosen, unless it is the default."""
    if rule.select == "gain" or len(order) == 1:
        return ""
    how = {"rating": "the highest rated", "consensus": "the nearest to their mean"}
    return f", and of the {len(order)} better ones {how.get(rule.select, 'the first by select')}"


def _why_kept(rows: Sequence[Row], source: Row, rule: ChoiceRule) -> str:
    candidates = [row for row in rows if row.index != "input"]
    usable = [row for row in candidates if row.status == OK]
    if not usable:
        return f"no candidate to choose from, {_skipped_in_words(candidates)}"
    if source.status != OK:
        return (
            f"it could not be judged ({source.detail}), so no candidate can be shown to be better"
        )
    best = max(usable, key=lambda row: (rule.lower_gain(row), -int(row.index)))
    over = f" by more than {rule.min_gain:g}" if rule.min_gain else ""
    return (
        f"the best candidate ({best.index}) has a gain of {best.gain:+.2f} ± {best.gain_std:.2f}, "
        f"and a probability of {rule.min_probability:.0%} to be better{over} is asked for"
    )


def _skipped_in_words(candidates: Sequence[Row]) -> str:
    counts = sorted(Counter(row.status for row in candidates).items())
    skipped = ", ".join(f"{count} {status}" for status, count in counts)
    return f"all {len(candidates)} were skipped ({skipped})" if counts else "none was finished"


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
