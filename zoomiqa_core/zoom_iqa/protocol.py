"""The rounds of a Zoom-IQA judgement as pure functions (arXiv 2601.02918).

    round 1   question + image                              → reply: rating, and final or crop
    round k   question, last reply, image + crop            → reply: …

Inference, training roll-outs and the served backend use these functions through the same state
machine, :class:`zoomiqa_core.zoom_iqa.chain.Chain`.

Departures from the released code: any number of rounds; when a later round fails, the rating of an
earlier one is kept and ``fallback`` says so; no reply raises an exception.
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
from zoomiqa_core.zoom_iqa.answer_format import AnswerFormat
from zoomiqa_core.zoom_iqa.crop import CropBox, crop_box
from zoomiqa_core.zoom_iqa.prompts import Prompts
from zoomiqa_core.zoom_iqa.reasoning import parse_reasoning

MAX_ROUNDS = 2
"""Rounds of the released protocol."""

_CONTROL_TOKEN = re.compile(
    r"<\|[^<>|]{1,40}\|>"  # <|im_end|>, <|image_pad|> (Qwen), <|image|>
    r"|</?(?!(?:think|answer)>)[A-Za-z_][\w:-]{0,40}>"  # <image>, <start_of_turn>, <IMG_CONTEXT>
    r"|\[/?(?:INST|IMG|IMG_BREAK|IMG_END)\]"  # Mistral, Pixtral
)
"""Special tokens of the common families; ``<think>`` and ``<answer>`` are part of the protocol."""

Message = dict[str, Any]
"""A turn of a chat, ``{"role": …, "content": [{"type": "text", "text": …} | {"type": "image"}]}``.

The images themselves are passed separately, in the same order.
"""


@dataclass(frozen=True)
class Final:
    """The chain ends after this reply."""


@dataclass(frozen=True)
class Crop:
    """The next round shows this crop of the original image."""

    box: CropBox


class Turn(NamedTuple):
    """A parsed reply, and what follows it."""

    round: Round
    step: Final | Crop


def messages(
    prompts: Prompts, question: str, previous: str | None = None, *, region: bool = False
) -> list[Message]:
    """The chat messages that request the reply of a round.

    Question and previous reply are untrusted: special tokens in them (``<|im_end|>``, ``<image>``)
    are replaced by a space, so that they can add neither turns nor images.

    Args:
        prompts: the texts.
        question: the user's, or one of ``prompts.questions``.
        previous: the whole reply of the previous round; None for round 1.
        region: request the rating of the crop alone, not of the whole image.

    Returns:
        Round 1: one turn with one image. Later rounds: the question, the previous reply, and the
        instruction with two images, the original and the crop.

    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> chat = messages(BUILTIN, "How good?", "Unsure.</think> ...")
    >>> [turn["role"] for turn in chat]
    ['user', 'assistant', 'user']
    >>> messages(BUILTIN, "Sharp? <image>")[0]["content"][0]["text"].splitlines()[-1]
    'Sharp?  '
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
    """Whether an answer ends the chain or requests a crop, and which.

    Args:
        answer: of round ``number``.
        size: (width, height) of the original image, pixels.
        number: of the round, from 1.
        max_rounds: the last round never requests a crop.

    >>> next_step(Answer(2.5, "crop", (0.25, 0.25, 0.75, 0.75)), (400, 300)).box.bbox_px
    (100, 75, 300, 225)
    >>> next_step(Answer(3.5, "final"), (400, 300))
    Final()
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
    answer_format: AnswerFormat | None = None,
) -> Turn:
    """Parse the reply of a round; without a usable answer the round is failed, nothing is raised.

    Args:
        text: the whole reply.
        size: (width, height) of the original image, pixels.
        number: of the round, from 1. The last round needs no more than a rating.
        max_rounds: maximum number of rounds.
        repair: see :func:`zoomiqa_core.zoom_iqa.answer.parse_answer`.
        answer_format: of a judge of one round that follows another protocol.

    >>> turn = read_turn('Noisy.</think><answer>{"rating": 2}</answer>', (400, 300), number=2)
    >>> turn.round.rating, turn.step
    (2.0, Final())
    >>> read_turn("I cannot say.", (400, 300)).round.error
    'missing_answer'
    """
    thought = dataclasses.asdict(parse_reasoning(text))
    try:
        if answer_format is not None:
            answer = Answer(answer_format.read(text), "final")
        else:
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
    """The assessment of one chain: the rating of its last usable round, clipped to 1–5.

    When a later round failed, ``chains.fallback`` names the round whose rating is used. When no
    round is usable, the assessment has the error of the first. ``rating_std`` is NaN.

    >>> a = conclude([Round(2.5, "crop"), Round(math.nan, error="malformed_json")])
    >>> a.rating, a.chains.fallback
    (2.5, 'round_1')
    """
    if not rounds:
        raise ValueError("expected the rounds of a chain, got none")
    rounds = tuple(rounds)
    usable = [number for number, reply in enumerate(rounds, start=1) if reply.valid]
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
    """A message of texts and images; None stands for an image."""
    content = [{"type": "image"} if p is None else {"type": "text", "text": p} for p in parts]
    return {"role": role, "content": content}
