"""The chat API of OpenAI-compatible servers, as pure functions: request out, reply or error in.

Nothing here touches the network; :mod:`zoomiqa_core.zoom_iqa.served.judge` does.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from PIL import Image

from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.sampling import Sampling

ServerErrorCode = Literal[
    "server_busy",
    "server_error",
    "server_refused",
    "timeout",
    "connection",
    "bad_response",
    "response_too_large",
]

SEED_BITS = 31
"""A request's seed is reduced to its lowest bits: servers take signed 64-, 32- or unsigned 32-bit
numbers, and all of them take these."""
PNG_LEVEL = 1
"""Compression of the images sent, 0–9. Every level is lossless; higher ones cost more time than the
bytes they save, which travel to this machine or its neighbour."""
MAX_WORDS_CHARS = 200
"""How much of a server's own error message is kept."""

_ENCODED = re.compile(r"data:[\w/+.-]*;base64,[A-Za-z0-9+/=_-]*|[A-Za-z0-9+/=_-]{64,}")


class ServerError(Exception):
    """A try that gave no reply; ``code`` names the reason.

    Args:
        code: name of the failure.
        message: in words; holds neither key nor image data.
        again: whether another try may succeed.
        retry_after_s: how long the server asks to wait before it, in seconds.
    """

    def __init__(
        self,
        code: ServerErrorCode,
        message: str,
        *,
        again: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code: ServerErrorCode = code
        self.message = message
        self.again = again
        self.retry_after_s = retry_after_s


class Completion(NamedTuple):
    """A server's reply."""

    text: str
    tokens: int
    """As the server counts them; 0 when it does not say."""


def data_url(image: Image.Image) -> str:
    """The image as a PNG data URL: its exact pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def chat_body(request: Request, urls: Sequence[str], model: str, sampling: Sampling) -> bytes:
    """The JSON body that asks for a completion.

    Args:
        request: what is asked.
        urls: of its images, in order.
        model: the name the server gave it.
        sampling: ``top_k`` and ``repetition_penalty`` are no fields of OpenAI's own; they are sent
            only where they do something (not 0, not 1).
    """
    places = iter(urls)
    messages = [
        {**message, "content": [_part(part, places) for part in message["content"]]}
        for message in request.messages
    ]
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": request.seed & ((1 << SEED_BITS) - 1),
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    return json.dumps(body).encode("ascii")


def read_completion(body: bytes) -> Completion:
    """The text of a completion; the first choice counts.

    Raises:
        ServerError: ``bad_response``, for anything but a completion with text.
    """
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested too deep
        raise _bad(f"expected JSON, got {len(body)} bytes of something else") from error
    if not isinstance(record, dict):
        raise _bad(f"expected a JSON object, got {_kind(record)}")
    choices = record.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _bad(f"expected a list of choices, got {_kind(choices)}")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise _bad(f"expected a message with text as its content, got {_kind(text)}")
    if not _is_unicode(text):
        raise _bad("the text holds lone surrogates, which are no characters")
    usage = record.get("usage")
    tokens: Any = usage.get("completion_tokens") if isinstance(usage, dict) else None
    counted = type(tokens) is int and tokens >= 0  # True is an int as well
    return Completion(text, tokens if counted else 0)


def status_error(status: int, words: str, retry_after: str | None = None) -> ServerError:
    """What a status other than 200 means.

    Args:
        status: of HTTP.
        words: the server's own, see :func:`error_words`.
        retry_after: the header of that name; a number of seconds, a date is ignored.
    """
    said = f"HTTP {status}" + (f": {words}" if words else "")
    wait_s = (
        float(retry_after) if retry_after and re.fullmatch(r"[0-9]{1,9}", retry_after) else None
    )
    if status == 429:
        return ServerError("server_busy", said, again=True, retry_after_s=wait_s)
    if status >= 500:
        return ServerError("server_error", said, again=True, retry_after_s=wait_s)
    if 300 <= status < 400:
        return ServerError(
            "server_refused", f"{said} (redirects are not followed; give its target)"
        )
    if status >= 400:
        return ServerError("server_refused", said)
    return _bad(f"expected HTTP 200, got {said}")


def error_words(body: bytes, secret: str | None = None) -> str:
    """A server's error message in one printable line, cut to :data:`MAX_WORDS_CHARS`.

    Args:
        body: as the server sent it, JSON or not.
        secret: left out wherever it occurs, like all that looks like encoded data.
    """
    text = _message_of(body)
    if secret:
        text = text.replace(secret, "[key]")
    text = _ENCODED.sub("[data]", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_WORDS_CHARS else f"{text[: MAX_WORDS_CHARS - 1]}…"


def _part(part: dict[str, Any], urls: Any) -> dict[str, Any]:
    """A part of a message as the API writes it."""
    if part["type"] == "image":
        return {"type": "image_url", "image_url": {"url": next(urls)}}
    return part


def _message_of(body: bytes) -> str:
    """The message inside the error forms that servers use, or the body itself."""
    text = body.decode("utf-8", "replace")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(record, dict):
        inner = record.get("error")
        for holder in (inner if isinstance(inner, dict) else {}, record):
            for key in ("message", "detail", "error"):
                if isinstance(holder.get(key), str):
                    return holder[key]
    return text


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
