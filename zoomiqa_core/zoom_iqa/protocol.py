"""The rounds of a Zoom-IQA judgement as pure functions (arXiv 2601.02918).

    round 1   question + image                              → reply: rating, and final or crop
    round k   question, last reply, image + crop            → reply: …

Inference, training roll-outs and the served backend all drive these functions through one state
machine, :class:`zoomiqa_core.zoom_iqa.chain.Chain`, so that they cannot drift apart.

Departures from the released code: any number of rounds; a later round that fails keeps the rating
of an earlier one and says so; no reply raises.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, Assessment, Chains, Round
from zoomiqa_core.zoom_iqa.answer import Answer, AnswerError, parse_answer
from zoomiqa_core.zoom_iqa.crop import CropBox, crop_box
from zoomiqa_core.zoom_iqa.prompts import Prompts
from zoomiqa_core.zoom_iqa.reasoning import parse_reasoning

MAX_ROUNDS = 2
"""Rounds of the released protocol."""

_CONTROL_TOKEN = re.compile(r"<\|\w{1,40}\|>")

Message = dict[str, Any]
"""A turn of a chat, ``{"role": …, "content": [{"type": "text", "text": …} | {"type": "image"}]}``.

The images are given apart, in the order of their places.
"""


@dataclass(frozen=True)
class Final:
    """Nothing more to look at."""


@dataclass(frozen=True)
class Crop:
    """The judge is to see this crop of the original image next."""

    box: CropBox


class Turn(NamedTuple):
    """A reply, read."""

    round: Round
    step: Final | Crop


def messages(
    prompts: Prompts, question: str, previous: str | None = None, *, region: bool = False
) -> list[Message]:
    """The chat that asks for a round.

    Args:
        prompts: the texts.
        question: the user's, or one of ``prompts.questions``.
        previous: the whole reply of the round before; None for round 1.
        region: ask a later round for the rating of the crop alone, not of the whole image.

    Question and reply are data, whoever wrote them: control tokens in them (``<|im_end|>``) become
    blanks, so that they can add no turn and no image.

    Returns:
        Round 1: one turn with one image. Later rounds: the question alone, the previous reply, and
        the instruction with two images, the original and the crop.
    """
    question = _CONTROL_TOKEN.sub(" ", question)
    if previous is None:
        return [_turn("user", prompts.first_text(question), None)]
    instruction = prompts.region if region and prompts.region else prompts.next
    return [
        _turn("user", question),
        _turn("assistant", _CONTROL_TOKEN.sub(" ", previous)),
        _turn("user", instruction, "Original image: ", None, "Cropped Image: ", None),
    ]


def next_step(
    answer: Answer, size: tuple[int, int], *, number: int = 1, max_rounds: int = MAX_ROUNDS
) -> Final | Crop:
    """What follows an answer.

    Args:
        answer: of round ``number``.
        size: (width, height) of the original image, pixels.
        number: of the round, from 1.
        max_rounds: no crop follows the last round.
    """
    if not 1 <= number <= max_rounds:
        raise ValueError(f"expected a round from 1 to {max_rounds}, got {number}")
    if answer.tool == "final" or number == max_rounds:
        return Final()
    return Crop(crop_box(answer.bbox, *size))


def read_turn(
    text: str,
    size: tuple[int, int],
    *,
    number: int = 1,
    max_rounds: int = MAX_ROUNDS,
    repair: bool = False,
) -> Turn:
    """Read the reply of a round; one without a usable answer is a failed round, not an exception.

    Args:
        text: the whole reply.
        size: (width, height) of the original image, pixels.
        number: of the round, from 1. In the last round the rating alone is needed.
        max_rounds: how many there are at most.
        repair: see :func:`zoomiqa_core.zoom_iqa.answer.parse_answer`.
    """
    thought = dataclasses.asdict(parse_reasoning(text))
    try:
        answer = parse_answer(text, last_round=number >= max_rounds, repair=repair)
    except AnswerError as error:
        failed = Round(math.nan, error=error.code, message=error.message, text=text, **thought)
        return Turn(failed, Final())
    step = next_step(answer, size, number=number, max_rounds=max_rounds)
    box = step.box if isinstance(step, Crop) else None
    done = Round(
        answer.rating,
        answer.tool,
        bbox=box.bbox if box else None,
        central_fallback=box is not None and box.central_fallback,
        repaired=answer.repaired,
        text=text,
        **thought,
    )
    return Turn(done, step)


def conclude(rounds: Sequence[Round], *, name: str = "", notes: tuple[str, ...] = ()) -> Assessment:
    """The judgement of one chain of rounds: that of its last usable round, clipped to the scale.

    When a later round failed, the rating is the earlier one's and ``fallback`` names that round.
    When none was usable, the judgement failed with the error of the first. ``rating_std`` is NaN:
    one chain says nothing about its spread.
    """
    if not rounds:
        raise ValueError("expected the rounds of a chain, got none")
    rounds = tuple(rounds)
    usable = [number for number, look in enumerate(rounds, start=1) if look.valid]
    if not usable:
        failed = Assessment.failed(rounds[0].error or "", rounds[0].message, name)
        return dataclasses.replace(failed, notes=notes, chains=Chains(rounds))
    last = rounds[usable[-1] - 1]
    return Assessment(
        min(max(last.rating, MIN_RATING), MAX_RATING),
        math.nan,
        name=name,
        directions=last.directions,
        issues=last.issues,
        notes=notes,
        chains=Chains(rounds, f"round_{usable[-1]}" if usable[-1] < len(rounds) else None),
    )


def _turn(role: str, *parts: str | None) -> Message:
    """Texts, and None where an image stands."""
    content = [{"type": "image"} if p is None else {"type": "text", "text": p} for p in parts]
    return {"role": role, "content": content}
