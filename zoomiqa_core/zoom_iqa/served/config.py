"""Where a served judge is, and how patiently it is asked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import httpx

from zoomiqa_core.zoom_iqa.sampling import Sampling

MAX_WAIT_S = 8.0
"""Longest wait between two tries that the server did not ask for."""


@dataclass(frozen=True)
class ServerConfig:
    """Where the server is, and how patiently it is asked."""

    base_url: str
    """Up to and with ``/v1``, e.g. ``"http://127.0.0.1:8000/v1"``; without user, password or query.
    Give https where the key or the images cross a network."""
    model: str
    """The name the server gave the model (``--served-model-name``)."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are drawn; sent with every request."""
    api_key_env: str = "ZOOMIQA_API_KEY"
    """Name of the environment variable that holds the key; without it none is sent."""
    concurrency: int = 16
    """Chains of one call that are asked at the same time."""
    timeout_s: float = 60.0
    """Of one try: from connecting to the last byte of the reply."""
    deadline_s: float = 600.0
    """Of all chains of one call of :meth:`ServedVLM.run`, waiting included. A judge asks about up
    to 32 images in one (:data:`zoomiqa_core.zoom_iqa.judge.IMAGES_AT_ONCE`)."""
    tries: int = 3
    """Of one request, the first included."""
    backoff_s: float = 0.5
    """Wait before the second try, doubled before every further one up to :data:`MAX_WAIT_S`;
    between half and all of it is waited, drawn from the request's seed."""
    max_body_bytes: int = 2_000_000
    """Largest reply that is read."""
    use_proxy: bool = False
    """Whether the proxies of the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) are used. Off,
    because a judge on this machine or beside it is to be reached directly."""

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model:
            raise ValueError("model must name the served model, as --served-model-name gave it")
        if not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env):
            raise ValueError(
                "api_key_env must name an environment variable, e.g. 'ZOOMIQA_API_KEY'; put the "
                "key itself into that variable"
            )
        if self.concurrency < 1 or self.tries < 1 or self.max_body_bytes < 1:
            raise ValueError(
                "expected concurrency, tries and max_body_bytes of at least 1, got "
                f"{self.concurrency}, {self.tries}, {self.max_body_bytes}"
            )
        if not (0 < self.timeout_s < math.inf and 0 < self.deadline_s < math.inf):
            raise ValueError(
                "timeout_s and deadline_s must be positive and finite, in seconds, got "
                f"{self.timeout_s}, {self.deadline_s}"
            )
        if not 0 <= self.backoff_s <= MAX_WAIT_S:
            raise ValueError(f"expected backoff_s from 0 to {MAX_WAIT_S}, got {self.backoff_s}")

    @property
    def chat_url(self) -> str:
        """Where completions are asked for."""
        return f"{self.base_url.rstrip('/')}/chat/completions"


def _check_url(base_url: str) -> None:
    """Refuse what is no address of a server; a message never holds what may be a password."""
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError("base_url is no URL; expected e.g. 'http://127.0.0.1:8000/v1'") from error
    if url.userinfo or url.query or url.fragment:
        raise ValueError(
            "base_url must hold no user, password, query or fragment; put a key into the "
            "environment variable that api_key_env names"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(
            f"expected a base_url like 'http://127.0.0.1:8000/v1', got scheme {url.scheme!r} and "
            f"host {url.host!r}"
        )
    if url.path.rstrip("/").endswith("/completions"):
        raise ValueError("base_url ends with /v1; /chat/completions is added to it")
