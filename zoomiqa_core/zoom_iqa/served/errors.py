"""Errors of a server by name, with the server's own words."""

from __future__ import annotations

import json
import re
from typing import Literal

ServerErrorCode = Literal[
    "server_busy",
    "server_error",
    "server_refused",
    "timeout",
    "connection",
    "bad_response",
    "response_too_large",
]

MAX_WORDS_CHARS = 200
"""Maximum length of a server's error message in ours."""

_ENCODED = re.compile(r"data:[\w/+.-]*;base64,[A-Za-z0-9+/=_-]*|[A-Za-z0-9+/=_-]{64,}")


class ServerError(Exception):
    """A request that got no usable reply; ``code`` names the reason.

    Args:
        code: name of the failure.
        message: in words, without API key or image data.
        again: whether another try may succeed.
        away: whether the server is unreachable or overloaded, as while it restarts.
        retry_after_s: wait before the next try that the server asks for, in seconds.

    >>> error = status_error(503, "loading")
    >>> error.code, error.again, error.message
    ('server_error', True, 'HTTP 503: loading')
    """

    def __init__(
        self,
        code: ServerErrorCode,
        message: str,
        *,
        again: bool = False,
        away: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code: ServerErrorCode = code
        self.message = message
        self.again = again
        self.away = away
        self.retry_after_s = retry_after_s


def status_error(status: int, words: str, retry_after: str | None = None) -> ServerError:
    """The error of an HTTP status other than 200.

    Args:
        status: HTTP status code.
        words: the server's error message, see :func:`error_words`.
        retry_after: the header of that name, in seconds; a date is ignored.
    """
    said = f"HTTP {status}" + (f": {words}" if words else "")
    wait_s = (
        float(retry_after) if retry_after and re.fullmatch(r"[0-9]{1,9}", retry_after) else None
    )
    if status == 429:
        return ServerError("server_busy", said, again=True, away=True, retry_after_s=wait_s)
    if status >= 500:
        away = status in (502, 503, 504)  # a proxy without its server, or one that starts
        return ServerError("server_error", said, again=True, away=away, retry_after_s=wait_s)
    if 300 <= status < 400:
        return ServerError(
            "server_refused", f"{said} (redirects are not followed; give its target)"
        )
    if status >= 400:
        return ServerError("server_refused", said)
    return ServerError("bad_response", f"expected HTTP 200, got {said}")


def error_words(body: bytes, secret: str | None = None) -> str:
    """A server's error message in one printable line, cut to :data:`MAX_WORDS_CHARS`.

    Args:
        body: of the response, JSON or not.
        secret: replaced wherever it occurs, like everything that looks like encoded data.

    >>> error_words(b'{"error": {"message": "no model sk-1"}}', secret="sk-1")
    'no model [key]'
    """
    text = _message_of(body)
    if secret:
        text = text.replace(secret, "[key]")
    text = _ENCODED.sub("[data]", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_WORDS_CHARS else f"{text[: MAX_WORDS_CHARS - 1]}…"


def _message_of(body: bytes) -> str:
    """The message in one of the JSON forms that servers use for errors, or the body itself."""
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
