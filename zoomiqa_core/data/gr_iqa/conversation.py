"""Training chats of a record: the messages and images of inference, and the target reply.

Chats are built by :mod:`zoomiqa_core.zoom_iqa.protocol` and crops by
:mod:`zoomiqa_core.zoom_iqa.crop`, from the answer as written, so training and inference are alike.

Only the last turn is a target. In later rounds the chat also contains the previous reply as an
assistant turn, without its image: a loss on that turn would teach the model to describe an image
that it does not see.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, reply_text
from zoomiqa_core.zoom_iqa.answer import format_answer, parse_answer, replace_answer
from zoomiqa_core.zoom_iqa.crop import CropBox, crop_image, region_box
from zoomiqa_core.zoom_iqa.prompts import Prompts
from zoomiqa_core.zoom_iqa.protocol import Crop, Message, messages, next_step


class Outline(NamedTuple):
    """A chat that ends with the target reply, without pixels."""

    messages: list[Message]
    crops: tuple[CropBox | None, ...]
    """The views in the order in which the messages refer to them; None is the whole image."""


class Conversation(NamedTuple):
    """A chat that ends with the target reply."""

    messages: list[Message]
    images: list[Image.Image]
    """In the order in which the messages refer to them."""


def conversation(
    record: GRIQARecord, prompts: Prompts, round_number: int, image: Image.Image
) -> Conversation:
    """The training chat of one round.

    >>> from zoomiqa_core.data.gr_iqa.rationale import GRIQARound
    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> only = GRIQARound("Sharp.", "Clear detail.", "", "Good.", 4.25, "final")
    >>> record = GRIQARecord("a.png", "How good is it?", (only,), mos=4.2, image_id="a")
    >>> chat, images = conversation(record, BUILTIN, 1, Image.new("RGB", (64, 48)))
    >>> [turn["role"] for turn in chat], len(images)
    (['user', 'assistant'], 1)

    Args:
        record: with that round.
        prompts: texts the model is trained on.
        round_number: from 1.
        image: of the record, RGB, in its original size
            (:func:`zoomiqa_core.data.gr_iqa.records.read_picture`).

    Returns:
        Round 1: one image. Later rounds: the image and the crop that the round before asked for.

    Raises:
        ValueError: the record has no such round.
    """
    return _with_pixels(outline(record, prompts, round_number, image.size), image)


def outline(
    record: GRIQARecord, prompts: Prompts, round_number: int, size: tuple[int, int]
) -> Outline:
    """:func:`conversation` without pixels, for an image of ``size`` (width, height)."""
    if not 1 <= round_number <= len(record.rounds):
        raise ValueError(
            f"{record.image} has {len(record.rounds)} rounds, so no round {round_number}"
        )
    reply = reply_text(record.rounds[round_number - 1], round_number)
    if round_number == 1:
        return _chat(messages(prompts, record.question), reply, None)
    previous = reply_text(record.rounds[round_number - 2], round_number - 1)
    step = next_step(parse_answer(previous), size, number=round_number - 1, max_rounds=round_number)
    if not isinstance(step, Crop):
        raise ValueError(f"{record.image}: round {round_number - 1} asks for no crop")
    return _chat(messages(prompts, record.question, previous), reply, None, step.box)


def region_conversation(
    record: GRIQARecord, prompts: Prompts, index: int, image: Image.Image
) -> Conversation:
    """The training chat that asks for the rating of one region of a record.

    As :meth:`zoomiqa_core.zoom_iqa.chain.Chain.of_region` asks: the reply of round 1, its
    answer replaced by a request for exactly that region.

    Args:
        record: with regions.
        prompts: texts with a ``region`` instruction.
        index: of the region.
        image: of the record, RGB, in its original size.

    Raises:
        ValueError: the prompts have no ``region`` instruction.
        IndexError: the record has no such region.
    """
    return _with_pixels(region_outline(record, prompts, index, image.size), image)


def region_outline(
    record: GRIQARecord, prompts: Prompts, index: int, size: tuple[int, int]
) -> Outline:
    """:func:`region_conversation` without pixels, for an image of ``size`` (width, height)."""
    if prompts.region is None:
        raise ValueError(
            f"the prompts {prompts.name!r} cannot ask for a region's rating: give them a text "
            "`region`"
        )
    region, first = record.regions[index], record.rounds[0]
    answer = format_answer(first.rating, region.bbox)
    previous = replace_answer(reply_text(first), answer)
    chat = messages(prompts, record.question, previous, region=True)
    return _chat(chat, reply_text(region.reply, 2), None, region_box(region.bbox, *size))


def _chat(chat: list[Message], reply: str, *crops: CropBox | None) -> Outline:
    turn = {"role": "assistant", "content": [{"type": "text", "text": reply}]}
    return Outline([*chat, turn], crops)


def _with_pixels(outlined: Outline, image: Image.Image) -> Conversation:
    views = [image if box is None else crop_image(image, box) for box in outlined.crops]
    return Conversation(outlined.messages, views)
