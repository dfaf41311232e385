"""A server's answers with replies that are computed, not learned.

A reply depends on everything that is asked (texts, exact pixels, seed) and on nothing else. So two
ways of asking that give the same assessment have asked the same.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.protocol import Message
from zoomiqa_core.zoom_iqa.served.chat_completions import SEED_BITS

PREFIX = "data:image/png;base64,"
TOKENS = 7
"""What the server counts of every reply."""


def scripted_reply(messages: Sequence[Message], images: Sequence[Image.Image], seed: int) -> str:
    """What the judge replies: half of the time it wants to look closer, sometimes it fails."""
    asked = hashlib.sha256(json.dumps(messages, sort_keys=True).encode())
    for image in images:
        asked.update(f"{image.mode}{image.size}".encode() + image.tobytes())
    asked.update(str(seed % 2**SEED_BITS).encode())
    chance = random.Random(asked.digest())
    if chance.random() < 0.1:
        return "Image Quality Summary: I cannot decide.</think>"
    rating = chance.uniform(1, 5)
    x, y = chance.uniform(0, 0.4), chance.uniform(0, 0.4)
    bbox = (x, y, x + 0.5, y + 0.5) if chance.random() < 0.5 else None
    thought = f"Directions for Improvement: Crisp detail {chance.randrange(1000)}.</think>"
    return f"{thought}\n{format_answer(rating, bbox)}"


def answer_chat(body: dict[str, Any]) -> dict[str, Any]:
    """What a server with the scripted judge answers to the body of a request."""
    if body.get("logprobs"):  # it has none
        return {"choices": [{"message": {"role": "assistant", "content": "3"}}]}
    images: list[Image.Image] = []
    messages = [
        {**message, "content": [_placed(part, images) for part in message["content"]]}
        for message in body["messages"]
    ]
    text = scripted_reply(messages, images, body["seed"])
    message = {"role": "assistant", "content": text}
    return {
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"completion_tokens": TOKENS},
    }


def sent_images(body: dict[str, Any]) -> Iterator[Image.Image]:
    """The images of a request's body, in order."""
    for message in body["messages"]:
        for part in message["content"]:
            if part["type"] == "image_url":
                yield _decoded(part["image_url"]["url"])


def _placed(part: dict[str, Any], images: list[Image.Image]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return part
    images.append(_decoded(part["image_url"]["url"]))
    return {"type": "image"}


def _decoded(url: str) -> Image.Image:
    if not url.startswith(PREFIX):
        raise ValueError(f"expected a PNG data URL, got {url[:40]!r}")
    image = Image.open(io.BytesIO(base64.b64decode(url[len(PREFIX) :], validate=True)))
    image.load()
    return image
