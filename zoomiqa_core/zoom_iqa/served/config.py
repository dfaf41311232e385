"""Address, timeouts and retries of a served judge."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import httpx

from zoomiqa_core.zoom_iqa.rating_digits import MIN_DIGIT_MASS
from zoomiqa_core.zoom_iqa.sampling import Sampling

MAX_WAIT_S = 8.0
"""Maximum wait between two tries unless the server asks for a longer one."""


@dataclass(frozen=True)
class ServerConfig:
    """Address, timeouts and retries of a served judge.

    >>> ServerConfig("http://127.0.0.1:8000/v1", "zoom-iqa").chat_url
    'http://127.0.0.1:8000/v1/chat/completions'
    >>> ServerConfig("http://127.0.0.1:8000/v1", "zoom-iqa", tries=0)
    Traceback (most recent call last):
    ValueError: expected concurrency, tries and max_body_bytes of at least 1, got 16, 0, 2000000
    """

    base_url: str
    """Up to and including ``/v1``, e.g. ``"http://127.0.0.1:8000/v1"``; without user, password or
    query. Use https when API key or images cross a network."""
    model: str
    """Name of the model on the server (``--served-model-name``)."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are sampled; sent with every request."""
    max_pixels: int | None = 1_003_520
    """Larger images are reduced to this before they are sent; set it to the server's own limit
    (``--mm-processor-kwargs``), which reduces them anyway. None sends all pixels."""
    min_digit_mass: float = MIN_DIGIT_MASS
    """See :func:`~zoomiqa_core.zoom_iqa.rating_digits.digits_to_assessment`."""
    expected_ratings: bool = True
    """Whether a reply's rating is the mean over the digits that could have been written there, from
    the server's log-probabilities: up to six requests of one token more per reply. A server without
    them (``continue_final_message``, ``logprobs``) is noticed, and the rating as written counts."""
    api_key_env: str = "ZOOMIQA_API_KEY"
    """Environment variable with the API key; when it is not set, no key is sent."""
    concurrency: int = 16
    """Maximum number of chains of one call with a request in flight."""
    timeout_s: float = 60.0
    """Timeout of one try, from connecting to the last byte of the reply."""
    deadline_s: float = 600.0
    """Timeout of one call of :meth:`ServedVLM.run`, waits included; a judge passes up to 32 images
    in one call (:data:`zoomiqa_core.zoom_iqa.photos.IMAGES_AT_ONCE`)."""
    tries: int = 3
    """Maximum number of tries of one request."""
    restart_s: float = 300.0
    """How long a server that has answered before is waited for when it is unreachable or overloaded
    (``connection``, HTTP 429, 502, 503, 504), whatever ``tries`` says; at most ``deadline_s``."""
    backoff_s: float = 0.5
    """Wait before the second try, doubled for each further one up to :data:`MAX_WAIT_S`, with a
    jitter of up to one half drawn from the request's seed."""
    max_body_bytes: int = 2_000_000
    """Maximum size of a response."""
    use_proxy: bool = False
    """Whether the proxies of the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) are used. Off by
    default, since a server on this machine or network is reached directly."""

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
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"expected max_pixels of at least 1 or None, got {self.max_pixels}")
        if not 0 <= self.restart_s < math.inf:
            raise ValueError(f"expected restart_s ≥ 0, in seconds, got {self.restart_s}")
        if not 0 <= self.backoff_s <= MAX_WAIT_S:
            raise ValueError(f"expected backoff_s from 0 to {MAX_WAIT_S}, got {self.backoff_s}")

    @property
    def chat_url(self) -> str:
        """URL that requests are posted to."""
        return f"{self.base_url.rstrip('/')}/chat/completions"


def _check_url(base_url: str) -> None:
    """Refuse what is no address of a server; no message contains what may be a password."""
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
