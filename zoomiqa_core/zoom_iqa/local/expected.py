"""The rating a model would give at once: a distribution read from one forward pass, without words.

The reply is begun for the model with an empty thought up to the rating, and the probabilities of
what comes next are read: the whole part (1–5), and for each of those the first decimal.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoomiqa_core.assessment import MAX_RATING, Assessment, Chains
from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.local.decoding import Prefix, extend, select_rows

BEGINNING = "<think>\n</think>\n" + format_answer(1.0).partition("1.00")[0]
"""How the reply is begun: up to where the rating stands."""
MIN_DIGIT_MASS = 0.5
"""With less probability on the digits 1–5 the model is not about to answer with a rating."""
WHOLE_PARTS = (1, 2, 3, 4, 5)
_SECOND_DECIMAL = 0.045
"""Mean of the second decimal, which is not read: digits 0–9, equally likely."""


class RatingPrefix(NamedTuple):
    """The beginning of a reply, in tokens."""

    ids: tuple[int, ...]
    """Up to the rating."""
    digits: tuple[int, ...]
    """Token of each digit, 0–9."""
    point: int
    """Token of the decimal point."""


def rating_prefix(tokenizer: Any) -> RatingPrefix:
    """Tokenise the beginning of the reply, and the digits that may follow it.

    Raises:
        ValueError: the tokenizer joins digits with their neighbours, so that no distribution over
            them can be read.
    """

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    whole = [ids_of(f"{BEGINNING}{digit}.{digit}") for digit in range(10)]
    ids, points = whole[0][:-3], {tuple(tokens[-2:-1]) for tokens in whole}
    digits = [tokens[-1] for tokens in whole]
    alike = all(tokens[:-3] == ids and tokens[-3] == tokens[-1] for tokens in whole)
    if not alike or len(points) != 1 or len(set(digits)) != 10:
        raise ValueError(
            "mode='expected' needs a tokenizer that keeps every digit a token of its own, as those "
            "of Qwen do"
        )
    return RatingPrefix(tuple(ids), tuple(digits), whole[0][-2])


@torch.inference_mode()
def expected_rating(
    model: Any, state: Prefix, prefix: RatingPrefix, *, min_digit_mass: float = MIN_DIGIT_MASS
) -> list[Assessment]:
    """Rating and spread of the distribution, for every row of the batch.

    Args:
        model: of the state.
        state: prompts that end with ``prefix.ids``; used up.
        prefix: of the model's tokenizer.
        min_digit_mass: below it a judgement fails with the error ``no_rating``.
    """
    first = state.logits.softmax(-1)[:, list(prefix.digits)]  # (B, 10)
    whole = len(WHOLE_PARTS)
    batch = len(first)
    select_rows(state, [row for row in range(batch) for _ in WHOLE_PARTS])
    steps = torch.tensor([[prefix.digits[d], prefix.point] for d in WHOLE_PARTS]).repeat(batch, 1)
    after = extend(model, state, steps)[:, -1].softmax(-1)[:, list(prefix.digits)]
    second = after.view(batch, whole, 10)
    return [
        _assessment(
            first[row, 1 : whole + 1].double().cpu(), second[row].double().cpu(), min_digit_mass
        )
        for row in range(batch)
    ]


def rating_moments(whole: Tensor, decimal: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a rating with these digits.

    Args:
        whole: (5,) probabilities of 1 … 5 as its whole part; sums to 1.
        decimal: (5, 10) probabilities of its first decimal for each of them; rows sum to 1.
    """
    values = torch.arange(10.0, dtype=whole.dtype) / 10 + _SECOND_DECIMAL
    values = (torch.tensor(WHOLE_PARTS, dtype=whole.dtype)[:, None] + values).clamp(max=MAX_RATING)
    weight = whole[:, None] * decimal
    mean = (weight * values).sum()
    return float(mean), math.sqrt(float((weight * (values - mean).square()).sum()))


def _assessment(whole: Tensor, decimal: Tensor, min_digit_mass: float) -> Assessment:
    mass = float(whole.sum())
    decimals = decimal.sum(-1, keepdim=True)
    if not (math.isfinite(mass) and bool(decimals.isfinite().all())):
        return Assessment.failed("not_finite", "the model's output is not finite")
    if mass < min_digit_mass or mass == 0:
        return Assessment.failed(
            "no_rating",
            f"the model gives the digits 1–5 a probability of {mass:.3g} where the "
            f"rating stands, less than {min_digit_mass:g}: it was not trained to answer so",
        )
    whole = whole / mass
    # Where no digit can follow, the decimal is left open: all alike.
    decimal = torch.where(decimals > 0, decimal / decimals.clamp(min=1e-300), 0.1)
    rating, std = rating_moments(whole, decimal)
    return Assessment(
        rating, std, chains=Chains(distribution=tuple(whole.tolist()), digit_mass=mass)
    )
