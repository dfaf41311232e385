"""The rating that a model would answer without reasoning, from the probabilities of its digits.

The reply is started for the model with an empty thought, up to the rating; what the model would
write there, an integer part of 1–5 and its first decimal, is a distribution over ratings.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from zoomiqa_core.assessment import MAX_RATING, Assessment, Chains
from zoomiqa_core.zoom_iqa.answer import OPEN, format_answer

BEGINNING = "<think>\n</think>\n" + format_answer(1.0).partition("1.00")[0]
"""The start of the reply, up to the rating."""
MIN_DIGIT_MASS = 0.5
"""With less probability on the digits 1–5 the model was not about to write a rating."""
WHOLE_PARTS = (1, 2, 3, 4, 5)
_SECOND_DECIMAL = 0.045
"""Mean of the second decimal, which is not read: digits 0–9, equally likely."""


_RATING = re.compile(r'"rating"\s*:\s*"?([1-5])\.[0-9]')


def rating_place(text: str) -> int | None:
    """Index of the rating's integer part in the last answer of a reply.

    None when there is none, or it is not written as a digit from 1 to 5, a point and decimals.

    >>> text = '</think><answer>{"rating": 3.50, "tool": "final"}</answer>'
    >>> text[rating_place(text):][:4]
    '3.50'
    """
    found = _RATING.search(text, max(text.rfind(OPEN), 0))
    return found.start(1) if found else None


def rating_moments(whole: Tensor, decimal: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a rating with these digits.

    Args:
        whole: (5,) probabilities of 1 … 5 as the integer part; sums to 1.
        decimal: (5, 10) probabilities of the first decimal for each of them; rows sum to 1.

    >>> whole = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.0])
    >>> mean, std = rating_moments(whole, torch.full((5, 10), 0.1))
    >>> round(mean, 2), round(std, 2)
    (3.99, 0.58)
    """
    values = torch.arange(10.0, dtype=whole.dtype) / 10 + _SECOND_DECIMAL
    values = (torch.tensor(WHOLE_PARTS, dtype=whole.dtype)[:, None] + values).clamp(max=MAX_RATING)
    weight = whole[:, None] * decimal
    mean = (weight * values).sum()
    return float(mean), math.sqrt(float((weight * (values - mean).square()).sum()))


def digits_to_assessment(
    whole: Tensor, decimal: Tensor, min_digit_mass: float = MIN_DIGIT_MASS
) -> Assessment:
    """The assessment of a model that gives the digits of a rating these probabilities.

    Args:
        whole: (5,) fp64 probabilities of 1 … 5 as the next token, on the CPU.
        decimal: (5, 10) fp64 probabilities of the digits after ``"1."`` … ``"5."``.
        min_digit_mass: when ``whole`` sums to less, the judgement fails with ``no_rating``.
    """
    mass = float(whole.sum())
    decimals = decimal.sum(-1, keepdim=True)
    if not (math.isfinite(mass) and bool(decimals.isfinite().all())):
        return Assessment.failed("not_finite", "the model's output is not finite")
    if mass < min_digit_mass or mass == 0:
        return Assessment.failed(
            "no_rating",
            f"the digits 1–5 have a probability of {mass:.3g} at the position of the rating, less "
            f'than {min_digit_mass:g}: the model is not trained for mode="expected"',
        )
    whole = whole / mass
    # An integer part after which no digit can follow: all decimals equally likely.
    decimal = torch.where(decimals > 0, decimal / decimals.clamp(min=1e-300), 0.1)
    rating, std = rating_moments(whole, decimal)
    return Assessment(
        rating, std, chains=Chains(distribution=tuple(whole.tolist()), digit_mass=mass)
    )
