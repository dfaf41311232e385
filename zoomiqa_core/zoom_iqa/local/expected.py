"""The expected rating of a local model, from one forward pass and no reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.zoom_iqa.local.prefix import Prefix, extend, fork, select_rows
from zoomiqa_core.zoom_iqa.rating_digits import (
    BEGINNING,
    MIN_DIGIT_MASS,
    WHOLE_PARTS,
    digits_to_assessment,
    rating_place,
)


class RatingPrefix(NamedTuple):
    """The start of a reply, as tokens."""

    ids: tuple[int, ...]
    """Up to the rating."""
    digits: tuple[int, ...]
    """Token of each digit, 0–9."""
    point: int
    """Token of the decimal point."""


def rating_prefix(tokenizer: Any) -> RatingPrefix:
    """Tokenise the start of the reply and the digits that may follow it.

    Raises:
        ValueError: the tokenizer merges digits with their neighbours, so there is no distribution
            over single digits.
    """

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    whole = [ids_of(f"{BEGINNING}{digit}.{digit}") for digit in range(10)]
    ids, points = whole[0][:-3], {tuple(tokens[-2:-1]) for tokens in whole}
    digits = [tokens[-1] for tokens in whole]
    alike = all(tokens[:-3] == ids and tokens[-3] == tokens[-1] for tokens in whole)
    if not alike or len(points) != 1 or len(set(digits)) != 10:
        raise ValueError(
            'mode="expected" needs a tokenizer with every digit as a token of its own, as those '
            'of Qwen have; use mode="rounds"'
        )
    return RatingPrefix(tuple(ids), tuple(digits), whole[0][-2])


def rating_token(tokenizer: Any, ids: Sequence[int], prefix: RatingPrefix) -> int | None:
    """Index of the token with the integer part of a reply's rating; None when there is none."""

    def decoded(count: int) -> str:
        return tokenizer.decode(
            ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    place = rating_place(decoded(len(ids)))
    if place is None:
        return None
    low, high = 0, len(ids)
    while low < high:  # the first token after `place` characters
        middle = (low + high) // 2
        low, high = (middle + 1, high) if len(decoded(middle)) < place else (low, middle)
    written = list(ids[low : low + 3])
    plain = len(written) == 3 and written[0] in prefix.digits and written[2] in prefix.digits
    return low if low and plain and written[1] == prefix.point else None


@torch.inference_mode()
def written_rating(
    state: Prefix,
    row: int,
    start: int,
    ids: Sequence[int],
    place: int,
    prefix: RatingPrefix,
    min_digit_mass: float = MIN_DIGIT_MASS,
) -> float | None:
    """Mean of the rating over the digits that could have been written in a reply.

    Args:
        state: the row has processed the reply, at least up to the rating; not changed.
        row: of the batch.
        start: where the reply starts in the row.
        ids: of the reply.
        place: index in ``ids`` of the rating's integer part.
        prefix: of the model's tokenizer.
        min_digit_mass: None is returned when the digits 1–5 have less probability.
    """
    copies = fork(state, row, start + place - 1, len(WHOLE_PARTS))
    steps = [[ids[place - 1], prefix.digits[digit], prefix.point] for digit in WHOLE_PARTS]
    after = extend(copies, torch.tensor(steps)).softmax(-1)[:, :, list(prefix.digits)]
    after = after.cpu().double()
    found = digits_to_assessment(after[0, 0, 1 : len(WHOLE_PARTS) + 1], after[:, 2], min_digit_mass)
    return found.rating if found.valid else None


@torch.inference_mode()
def expected_rating(
    state: Prefix, prefix: RatingPrefix, *, min_digit_mass: float = MIN_DIGIT_MASS
) -> list[Assessment]:
    """Mean and standard deviation of the rating's distribution, for every row of the batch.

    >>> import zoomiqa_core as zi
    >>> from PIL import Image
    >>> from zoomiqa_core.zoom_iqa.chain import Chain
    >>> from zoomiqa_core.zoom_iqa.local.prefix import read_prompts
    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> vlm = zi.load_scorer("tiny").backend
    >>> reply = rating_prefix(vlm.processor.tokenizer)
    >>> chain = Chain(Image.new("RGB", (64, 64)), BUILTIN, "How good is this photo?")
    >>> prompt = vlm.encoder.encode(chain.request, {}, beginning=reply.ids)
    >>> state = read_prompts(vlm.family, [prompt])
    >>> (assessment,) = expected_rating(state, reply)
    >>> assessment.valid, 1 <= assessment.rating <= 5
    (True, True)

    Args:
        state: processed prompts that end with ``prefix.ids``; modified.
        prefix: of the model's tokenizer.
        min_digit_mass: see :func:`~zoomiqa_core.zoom_iqa.rating_digits.digits_to_assessment`.
    """
    # fp64 on the CPU: MPS has none.
    first = state.logits.softmax(-1)[:, list(prefix.digits)].cpu().double()  # (B, 10)
    whole = len(WHOLE_PARTS)
    batch = len(first)
    select_rows(state, [row for row in range(batch) for _ in WHOLE_PARTS])
    steps = torch.tensor([[prefix.digits[d], prefix.point] for d in WHOLE_PARTS]).repeat(batch, 1)
    after = extend(state, steps)[:, -1].softmax(-1)[:, list(prefix.digits)]
    second = after.cpu().double().view(batch, whole, 10)
    return [
        digits_to_assessment(first[row, 1 : whole + 1], second[row], min_digit_mass)
        for row in range(batch)
    ]
