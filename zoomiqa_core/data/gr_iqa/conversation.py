"""Training chats of a record: the very messages and pictures of inference, and the reply to learn.

The chat is built by :mod:`zoomiqa_core.zoom_iqa.protocol` and the crop by
:mod:`zoomiqa_core.zoom_iqa.crop` from the answer as written, so that a model meets in use what it
met in training.

Only the last turn is a target. The chat of a later round holds the reply of the round before as an
assistant's turn too, there without its image: a loss on that turn would teach the model to write
about a picture it does not see.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, reply_text
from zoomiqa_core.zoom_iqa.answer import format_answer, parse_answer, replace_answer
from zoomiqa_core.zoom_iqa.crop import crop_image, region_box
from zoomiqa_core.zoom_iqa.prompts import Prompts
from zoomiqa_core.zoom_iqa.protocol import Crop, Message, messages, next_step


class Conversation(NamedTuple):
    """A chat that ends with the reply to learn."""

    messages: list[Message]
    images: list[Image.Image]
    """In the order of their places in the messages."""


def conversation(
    record: GRIQARecord, prompts: Prompts, round_number: int, image: Image.Image
) -> Conversation:
    """The chat of one round.

    Args:
        record: with that round.
        prompts: the texts the model is trained on.
        round_number: from 1.
        image: of the record, RGB, at its own size
            (:func:`zoomiqa_core.data.gr_iqa.records.read_picture`).

    Returns:
        Round 1: one image. Later rounds: the image and the crop that the round before asked for.

    Raises:
        ValueError: the record has no such round.
    """
    if not 1 <= round_number <= len(record.rounds):
        raise ValueError(
            f"{record.image} has {len(record.rounds)} rounds, so no round {round_number}"
        )
    reply = reply_text(record.rounds[round_number - 1], round_number)
    if round_number == 1:
        return _chat(messages(prompts, record.question), reply, [image])
    previous = reply_text(record.rounds[round_number - 2], round_number - 1)
    step = next_step(
        parse_answer(previous), image.size, number=round_number - 1, max_rounds=round_number
    )
    if not isinstance(step, Crop):
        raise ValueError(f"{record.image}: round {round_number - 1} asks for no crop")
    views = [image, crop_image(image, step.box)]
    return _chat(messages(prompts, record.question, previous), reply, views)


def region_conversation(
    record: GRIQARecord, prompts: Prompts, index: int, image: Image.Image
) -> Conversation:
    """The chat that asks for the rating of one of the record's regions alone.

    As :meth:`zoomiqa_core.zoom_iqa.chain.Chain.of_region` asks: the reply of round 1 with its
    answer replaced by the wish to see the region, which is shown exactly.

    Args:
        record: with regions.
        prompts: the texts; they must have ``region``.
        index: of the region.
        image: of the record, RGB, at its own size.

    Raises:
        ValueError: these prompts ask for no region's rating.
        IndexError: the record has no such region.
    """
    if prompts.region is None:
        raise ValueError(f"the prompts {prompts.name} do not ask for a region's rating")
    region, first = record.regions[index], record.rounds[0]
    wish = format_answer(first.rating, region.bbox)
    previous = replace_answer(reply_text(first), wish)
    views = [image, crop_image(image, region_box(region.bbox, *image.size))]
    chat = messages(prompts, record.question, previous, region=True)
    return _chat(chat, reply_text(region.reply, 2), views)


def _chat(chat: list[Message], reply: str, images: list[Image.Image]) -> Conversation:
    turn = {"role": "assistant", "content": [{"type": "text", "text": reply}]}
    return Conversation([*chat, turn], images)
