"""Samples of supervised fine-tuning: the rounds of records, without their thought, or corrupted.

Samples from one record:

- its replies as they are, each in its own context;
- its rating at once, without a thought, as ``mode="expected"`` reads it;
- a reply whose adjectives are of another degree, and are not trained themselves: what follows has
  to be right in spite of them, so the rating is read off the image;
- the model's own reply with the true rating, whose digits alone are trained (on-policy correction).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from zoomiqa_core.data.gr_iqa.conversation import Outline, outline, region_outline
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord
from zoomiqa_core.data.teacher.facts import written
from zoomiqa_core.data.teacher.wording import other_adjectives
from zoomiqa_core.runs.random import derived_seed
from zoomiqa_core.zoom_iqa.answer import END_OF_THOUGHT, format_answer
from zoomiqa_core.zoom_iqa.crop import CropBox
from zoomiqa_core.zoom_iqa.prompts import Prompts
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS, Crop, messages, read_turn
from zoomiqa_core.zoom_iqa.reasoning import START_OF_THOUGHT

Kind = Literal["round", "region", "rating", "own"]
_WORD = re.compile(r"[A-Za-z]+")
_RATING = re.compile(r'"rating": *([0-9]+(?:\.[0-9]+)?)')


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of sample.

    >>> Mixture(without_thought=0.5).corrupted
    0.3
    """

    without_thought: float = 0.4
    """Share of samples that answer at once."""
    corrupted: float = 0.3
    """Share of the other samples with corrupted adjectives."""
    regions: bool = True
    """Also learn replies about single regions."""

    def __post_init__(self) -> None:
        if not (0 <= self.without_thought < 1 and 0 <= self.corrupted <= 1):
            raise ValueError(
                "expected 0 ≤ without_thought < 1 and 0 ≤ corrupted ≤ 1, got "
                f"{self.without_thought} and {self.corrupted}"
            )


class Sample(NamedTuple):
    """One reply to learn."""

    record: GRIQARecord
    kind: Kind
    number: int = 1
    """Of the round, from 1; of the region, from 0."""
    corruption: int | None = None
    """Seed of the corrupted adjectives; None leaves them as they are."""
    said: tuple[str, ...] = ()
    """The model's own replies up to that round, of the kind ``own``."""

    @property
    def views(self) -> int:
        """Number of images in the chat."""
        first = self.number == 1 and self.kind in ("round", "own")
        return 1 if first or self.kind == "rating" else 2

    @property
    def length(self) -> int:
        """A number that grows with the length of the chat: samples with the same have about one."""
        return 2 * self.views + (self.kind != "rating")


def samples_of(
    records: Sequence[GRIQARecord], prompts: Prompts, mixture: Mixture, *, seed: int = 0
) -> list[Sample]:
    """All samples of some records, in order.

    Args:
        records: those without rounds are the first to answer at once.
        prompts: regions are left out if they have no text for them.
        mixture: shares.
        seed: chooses what is corrupted, and the records that answer at once if not all do.
    """
    spoken: list[Sample] = []
    for record in records:
        spoken += [Sample(record, "round", n + 1) for n in range(len(record.rounds))]
        if mixture.regions and prompts.region:
            spoken += [Sample(record, "region", n) for n in range(len(record.regions))]
    generator = torch.Generator().manual_seed(seed)
    corrupted = torch.rand(len(spoken), generator=generator) < mixture.corrupted
    spoken = [
        sample._replace(corruption=derived_seed(seed, n)) if corrupt else sample
        for n, (sample, corrupt) in enumerate(zip(spoken, corrupted.tolist(), strict=True))
    ]
    return spoken + _silent(records, len(spoken), mixture.without_thought, generator)


def corrected(
    records: Sequence[GRIQARecord],
    replies: Mapping[str, Sequence[str]],
    without_thought: float,
    *,
    seed: int = 0,
) -> list[Sample]:
    """Samples of on-policy correction, and ratings at once.

    Args:
        records: with their ratings.
        replies: the model's own, by ``image_id``, round by round; a record may have none.
        without_thought: share of samples that answer at once. If no reply is usable, as many do as
            there were replies of one round.
        seed: chooses the records that answer at once if not all do.
    """
    own = [
        Sample(record, "own", n, said=tuple(replies[record.image_id][:n]))
        for record in records
        for n in range(1, len(replies.get(record.image_id, ())) + 1)
    ]
    generator = torch.Generator().manual_seed(seed)
    return own + _silent(records, len(own) or len(records), without_thought, generator)


def _silent(
    records: Sequence[GRIQARecord], spoken: int, share: float, generator: torch.Generator
) -> list[Sample]:
    """So many ratings at once that they are this share of all samples."""
    order = torch.randperm(len(records), generator=generator).tolist()
    order.sort(key=lambda n: len(records[n].rounds) > 0)  # those without rounds come first
    count = round(spoken * share / (1 - share))
    return [Sample(records[order[n % len(order)]], "rating") for n in range(count)]


def outline_of(
    sample: Sample, prompts: Prompts, size: tuple[int, int]
) -> tuple[Outline, tuple[tuple[int, int], ...]]:
    """The chat of a sample without pixels, and the character ranges of its reply not trained.

    Args:
        sample: of :func:`samples_of`.
        prompts: texts the model is trained on.
        size: (width, height) of the image.
    """
    record = sample.record
    if sample.kind == "rating":
        chat = messages(prompts, record.question)
        return Outline([*chat, _said(rating_alone(record.mos))], (None,)), ()
    if sample.kind == "own":
        return _own(sample, prompts, size)
    make = outline if sample.kind == "round" else region_outline
    chat = make(record, prompts, sample.number, size)
    if sample.corruption is None:
        return chat, ()
    generator = torch.Generator().manual_seed(sample.corruption)
    turns, ranges = [], ()
    for turn in chat.messages:
        if turn["role"] == "assistant":
            text, ranges = corrupt(turn["content"][0]["text"], generator)
            turn = _said(text)
        turns.append(turn)
    return Outline(turns, chat.crops), ranges


def with_rating(reply: str, rating: float) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A reply with another rating, and the character ranges around it, which are not trained.

    >>> text, ranges = with_rating('Soft.</think><answer>{"rating": 2.50, "tool": "final"}', 3.5)
    >>> text, [text[a:b] for a, b in ranges]  # what is left is trained
    ('Soft.</think><answer>{"rating": 3.50, "tool": "final"}',
     ['Soft.</think><answer>{"rating": ', ', "tool": "final"}'])

    Raises:
        ValueError: the reply has no rating.
    """
    found = list(_RATING.finditer(reply))
    if not found:
        raise ValueError(f"expected a reply with an answer, got {reply[-60:]!r}")
    begin, end = found[-1].span(1)
    digits = f"{written(rating):.2f}"
    text = reply[:begin] + digits + reply[end:]
    after = begin + len(digits)
    return text, ((0, begin), (after, len(text) + 100))  # the end token too


def rating_alone(rating: float) -> str:
    """The reply that gives a rating without a thought.

    >>> print(rating_alone(3.5))
    <think>
    </think>
    <answer>{"bbox_2d": [0, 0, 0, 0], "rating": 3.50, "tool": "final"}</answer>
    """
    return f"{START_OF_THOUGHT}\n{END_OF_THOUGHT}\n{format_answer(written(rating))}"


def corrupt(
    text: str, generator: torch.Generator, share: float = 0.5
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Replace adjectives of degree in a thought by others of another degree.

    >>> text, places = corrupt("A poor photo.</think> poor", torch.Generator().manual_seed(0), 1.0)
    >>> text[2:-21] not in ("poor", "weak"), text.endswith(" photo.</think> poor"), len(places)
    (True, True, 1)

    Args:
        text: a reply.
        generator: chooses what is replaced, and by what.
        share: of the adjectives.

    Returns:
        The text, and the character ranges (start, end) of the replacements in it.
    """
    thought, end, answer = text.partition(END_OF_THOUGHT)
    made, ranges, last = "", [], 0
    for match in _WORD.finditer(thought):
        options = other_adjectives(match[0].lower())
        if not options or float(torch.rand((), generator=generator)) >= share:
            continue
        word = options[int(torch.randint(len(options), (), generator=generator))]
        word = word.capitalize() if match[0][0].isupper() else word
        made += thought[last : match.start()]
        ranges.append((len(made), len(made) + len(word)))
        made += word
        last = match.end()
    return made + thought[last:] + end + answer, tuple(ranges)


def _own(
    sample: Sample, prompts: Prompts, size: tuple[int, int]
) -> tuple[Outline, tuple[tuple[int, int], ...]]:
    """The model's own chat with the true rating; a request to zoom keeps the record's guess."""
    record, previous = sample.record, sample.said[-2] if sample.number > 1 else None
    turn = read_turn(sample.said[-1], size, number=sample.number).round
    guess = record.provenance.get("blind", record.mos)
    truth = guess if turn.tool == "crop" and sample.number < MAX_ROUNDS else record.mos
    text, ranges = with_rating(sample.said[-1], truth)
    crops: tuple[CropBox | None, ...] = (None,)
    if previous is not None:
        step = read_turn(previous, size, number=sample.number - 1).step
        if not isinstance(step, Crop):
            raise ValueError(f"{record.image}: round {sample.number - 1} asks for no crop")
        crops = (None, step.box)
    return Outline([*messages(prompts, record.question, previous), _said(text)], crops), ranges


def _said(text: str) -> dict[str, object]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
