"""The chat API of OpenAI-compatible servers as pure functions: requests, replies, errors.

The network is used by :mod:`zoomiqa_core.zoom_iqa.served.client`.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.protocol import Message
from zoomiqa_core.zoom_iqa.sampling import Sampling
from zoomiqa_core.zoom_iqa.served.errors import ServerError

SEED_BITS = 31
"""Number of bits of a request's seed that are sent: servers accept signed 64-bit, signed 32-bit or
unsigned 32-bit seeds, and all of them accept 31 bits."""
PNG_LEVEL = 1
"""PNG compression of the images, 0–9, always lossless; on a local network a higher level costs more
time than it saves."""
TOP_LOGPROBS = 20
"""Number of likely tokens whose probability is requested; OpenAI and vLLM allow 20 by default."""


class Completion(NamedTuple):
    """A server's reply."""

    text: str
    tokens: int
    """Number of generated tokens by the server's count; 0 when it gives none."""


def reduced(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """The image, reduced to at most ``max_pixels`` (bicubic); a smaller one is returned as it is.

    >>> reduced(Image.new("RGB", (4000, 3000)), 1_003_520).size
    (1156, 867)
    """
    width, height = image.size
    if max_pixels is None or width * height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (width * height))
    # An extreme aspect, whose shorter side stays at one pixel: the longer one is bounded as well.
    size = max(1, min(int(width * scale), max_pixels)), max(1, min(int(height * scale), max_pixels))
    return image.resize(size, Image.Resampling.BICUBIC)


def data_url(image: Image.Image) -> str:
    """The image as a PNG data URL (lossless)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def chat_body(request: Request, urls: Sequence[str], model: str, sampling: Sampling) -> bytes:
    """JSON body of a request for a reply.

    Args:
        request: messages, images and seed.
        urls: data URLs of its images, in order.
        model: served name.
        sampling: ``top_k`` and ``repetition_penalty`` are not part of OpenAI's API; they are sent
            only when they have an effect (not 0, not 1).
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages(request.messages, urls),
        "temperature": 0 if request.greedy else sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": request.seed & ((1 << SEED_BITS) - 1),
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    return json.dumps(body).encode("ascii")


def next_token_body(request: Request, urls: Sequence[str], model: str, beginning: str) -> bytes:
    """JSON body of a request for the probabilities of the token after a started reply.

    ``continue_final_message`` is a field of vLLM and SGLang, not of OpenAI's API.

    Args:
        request: messages and images.
        urls: data URLs of its images, in order.
        model: served name.
        beginning: start of the reply.
    """
    begun = {"role": "assistant", "content": [{"type": "text", "text": beginning}]}
    body: dict[str, Any] = {
        "model": model,
        "messages": [*_messages(request.messages, urls), begun],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "temperature": 0,
        "max_tokens": 2,  # some chat templates strip the final space, which is then the first
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
    }
    return json.dumps(body).encode("ascii")


def read_next_token(body: bytes) -> dict[str, float]:
    """Probabilities of the most likely tokens, by their text without surrounding space.

    They are those of the first token that is not blank.

    Raises:
        ServerError: ``bad_response``, for anything but a completion with log-probabilities.

    >>> tops = [{"token": "3", "logprob": -0.5}, {"token": "4", "logprob": -1.0}]
    >>> logprobs = {"content": [{"token": "3", "top_logprobs": tops}]}
    >>> read_next_token(json.dumps({"choices": [{"logprobs": logprobs}]}).encode())
    {'3': 0.6065306597126334, '4': 0.36787944117144233}
    """
    logprobs = _first_choice(_record(body)).get("logprobs")
    positions = logprobs.get("content") if isinstance(logprobs, dict) else None
    probabilities: dict[str, float] = {}
    try:
        position = next(p for p in positions or () if p["token"].strip())
        for token in position["top_logprobs"]:
            text, probability = str(token["token"]).strip(), math.exp(float(token["logprob"]))
            probabilities[text] = probabilities.get(text, 0.0) + probability
    except (StopIteration, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise _bad(
            'mode="expected" needs log-probabilities (logprobs, top_logprobs and '
            "continue_final_message of the chat API, as vLLM has them), and the reply has none; "
            'use mode="rounds"'
        ) from None
    return probabilities


def read_completion(body: bytes) -> Completion:
    """The text of the first choice of a completion.

    Raises:
        ServerError: ``bad_response``, for anything but a completion with text.

    >>> read_completion(b'{"choices": [{"message": {"content": "Sharp."}}]}')
    Completion(text='Sharp.', tokens=0)
    """
    record = _record(body)
    message = _first_choice(record).get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise _bad(f"expected a message with text as its content, got {_kind(text)}")
    if not _is_unicode(text):
        raise _bad("the text holds lone surrogates, which are no characters")
    usage = record.get("usage")
    tokens: Any = usage.get("completion_tokens") if isinstance(usage, dict) else None
    counted = type(tokens) is int and tokens >= 0  # True is an int as well
    return Completion(text, tokens if counted else 0)


def _messages(messages: Sequence[Message], urls: Sequence[str]) -> list[Message]:
    """The messages in the form of the API, with the URLs in place of the images."""
    remaining = iter(urls)

    def converted(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "image":
            return {"type": "image_url", "image_url": {"url": next(remaining)}}
        return part

    return [{**message, "content": [*map(converted, message["content"])]} for message in messages]


def _record(body: bytes) -> dict[str, Any]:
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested too deep
        raise _bad(f"expected JSON, got {len(body)} bytes of something else") from error
    if not isinstance(record, dict):
        raise _bad(f"expected a JSON object, got {_kind(record)}")
    return record


def _first_choice(record: dict[str, Any]) -> dict[str, Any]:
    choices = record.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _bad(f"expected a list of choices, got {_kind(choices)}")
    return choices[0] if isinstance(choices[0], dict) else {}


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    if value is None:
        return "none"
    name = type(value).__name__
    return f"an empty {name}" if value in ([], {}, "") else f"a {name}"


def _bad(message: str) -> ServerError:
    return ServerError("bad_response", message)
