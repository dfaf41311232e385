"""What the tokens of a reply are trained towards: weights, and soft labels of the rating's digits.

A hard label says that 3.96 is as far from 4.04 as from 1.00. The soft label of the integer part is
its distribution if the rating is normal around the label, and that of the first decimal is the same
given the integer part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.zoom_iqa.answer import END_OF_THOUGHT
from zoomiqa_core.zoom_iqa.rating_digits import WHOLE_PARTS

_RATING = re.compile(r'"rating": ([1-5])\.([0-9])[0-9]*')


@dataclass(frozen=True)
class TargetSettings:
    """How the tokens of a reply are trained.

    >>> TargetSettings(answer_weight=8.0).rating_spread
    0.2
    """

    answer_weight: float = 5.0
    """Weight of the answer's tokens; those of the thought have 1."""
    rating_spread: float = 0.2
    """Standard deviation of the soft label of the rating's digits; 0 for hard labels."""

    def __post_init__(self) -> None:
        if self.answer_weight <= 0 or self.rating_spread < 0:
            raise ValueError(
                "expected answer_weight > 0 and rating_spread ≥ 0, got "
                f"{self.answer_weight} and {self.rating_spread}"
            )


class ReplyTargets(NamedTuple):
    """Targets of one reply's tokens."""

    weights: list[float]
    """One per token."""
    digits: dict[int, list[float]]
    """Place of a token → probabilities of the digits 0–9."""


def reply_targets(
    pieces: Sequence[str], settings: TargetSettings, ignored: Sequence[Sequence[int]] = ()
) -> ReplyTargets:
    r"""Targets of a reply.

    >>> pieces = ["Soft.", "</think>", "\n", '<answer>{"rating": ', "3", ".", "9", "6", "}"]
    >>> weights, digits = reply_targets(pieces, TargetSettings(), ignored=[(0, 5)])
    >>> weights
    [0.0, 1.0, 1.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    >>> [round(p, 2) for p in digits[4][2:6]]  # 3.96 is about as near to 4 as to 3
    [0.0, 0.58, 0.42, 0.0]

    Args:
        pieces: text of each token.
        settings: weight and spread.
        ignored: character ranges (start, end) that are not trained.
    """
    text = "".join(pieces)
    end = text.rfind(END_OF_THOUGHT)
    answer = text.find("<answer>", max(end, 0))
    answer = len(text) if answer < 0 else answer
    weights, starts, place = [], {}, 0
    for index, piece in enumerate(pieces):
        starts[place] = index
        hidden = any(place < b and a < place + len(piece) for a, b in ignored)
        weights.append(0.0 if hidden else settings.answer_weight if place >= answer else 1.0)
        place += len(piece)
    digits: dict[int, list[float]] = {}
    if settings.rating_spread and (found := _RATING.search(text, answer)):
        soft = soft_digits(float(found[0].partition(" ")[2]), settings.rating_spread)
        for group, target in zip((1, 2), soft, strict=True):
            index = starts.get(found.start(group))
            if index is not None and pieces[index] == found[group]:
                digits[index] = target
    return ReplyTargets(weights, digits)


def soft_digits(rating: float, spread: float) -> tuple[list[float], list[float]]:
    """Probabilities of the digits 0–9 as integer part, and as first decimal given the integer part.

    The rating is normal around its label, and what lies outside the scale counts as its ends.

    >>> whole, decimal = soft_digits(3.5, 0.1)
    >>> round(whole[3], 2), [round(p, 2) for p in decimal[2:8]]
    (1.0, [0.02, 0.14, 0.34, 0.34, 0.14, 0.02])

    Args:
        rating: label, 1–5.
        spread: standard deviation, above 0.
    """

    def below(value: float) -> float:
        if value <= MIN_RATING:
            return 0.0
        return 0.5 * math.erfc((rating - value) / (spread * math.sqrt(2)))

    whole = [0.0] * 10
    for digit in WHOLE_PARTS:
        upper = 1.0 if digit == WHOLE_PARTS[-1] else below(digit + 1)
        whole[digit] = upper - below(digit)
    first = math.floor(rating + 1e-9)
    if first >= MAX_RATING:
        return whole, [1.0] + [0.0] * 9
    edges = [below(first + tenth / 10) for tenth in range(11)]
    decimal = [high - low for low, high in pairwise(edges)]
    return whole, [share / sum(decimal) for share in decimal]


def weighted_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    soft: tuple[Tensor, Tensor],
    digit_ids: Sequence[int],
) -> Tensor:
    """Sum of the tokens' weighted cross entropies, fp32.

    >>> logits, labels = torch.zeros(1, 3, 16), torch.tensor([[-100, 4, 5]])
    >>> none = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 10)
    >>> loss = weighted_loss(logits, labels, torch.tensor([[0.0, 1.0, 2.0]]), none, range(10))
    >>> round(float(loss), 3)  # 3 · log 16
    8.318

    Args:
        logits: (B, T, V).
        labels: (B, T); a label is predicted by the position before it.
        weights: (B, T) of the labels.
        soft: places (n, 2) as row and column of ``labels``, and (n, 10) probabilities of digits
            that replace the labels there.
        digit_ids: tokens of the digits 0–9.
    """
    places, targets = soft
    rows, columns = torch.where(weights[:, 1:] > 0)
    log_probs = logits[rows, columns].float().log_softmax(-1)  # (tokens, V)
    losses = functional.nll_loss(log_probs, labels[rows, columns + 1], reduction="none")
    if len(places):
        index = torch.full(labels.shape, -1, device=labels.device)
        index[places[:, 0], places[:, 1]] = torch.arange(len(places), device=labels.device)
        which = index[rows, columns + 1]
        digits = log_probs[:, torch.tensor(list(digit_ids), device=labels.device)]
        mixed = -(digits * targets.to(digits)[which.clamp(min=0)]).sum(-1)
        losses = torch.where(which >= 0, mixed, losses)
    return (losses * weights[rows, columns + 1]).sum()
