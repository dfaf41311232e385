r"""A judge behind an OpenAI-compatible server, e.g. vLLM: same chains, same results as in place.

The released checkpoint, on the machine with the GPU (docs/SERVING.md says why each flag)::

    vllm serve Ethanliang99/Zoom-IQA-7B --served-model-name zoom-iqa --host 127.0.0.1 \
        --limit-mm-per-prompt '{"image": 2}' --max-model-len 8192 --generation-config vllm \
        --mm-processor-kwargs '{"max_pixels": 1003520}' --chat-template-content-format openai

A LoRA adapter is merged into its model first (``merge_and_unload`` of peft). Then::

    scorer = served_scorer("http://127.0.0.1:8000/v1", model="zoom-iqa")

Every request of a chain is tried up to :attr:`ServerConfig.tries` times. What fails for good ends
that chain alone, under one of these names:

======================  ===================================================  ==========
``error``               what happened                                        tried again
======================  ===================================================  ==========
``server_busy``         HTTP 429; ``Retry-After`` (seconds) is honoured      yes
``server_error``        HTTP 5xx                                             yes
``timeout``             no whole reply within ``timeout_s``                  yes
``timeout``             ``deadline_s`` of the call passed                    no
``connection``          no connection, or it broke before the reply began    yes
``bad_response``        the reply broke off                                  yes
``bad_response``        not JSON, not a completion with text, compressed     no
``response_too_large``  more than ``max_body_bytes``                         no
``server_refused``      any other HTTP 4xx; a redirect                       no
======================  ===================================================  ==========

A wait that would end after the deadline is not begun: the try's own error stands. A chain that
fails in a later round keeps its earlier rating (``fallback``), like any failed round.

What leaves this process: texts, and images as PNG data URLs (lossless, so the server sees the same
pixels; it fetches nothing). TLS certificates are verified (``SSL_CERT_FILE`` is honoured). The key
is read from the environment at every call and is in no configuration, log or error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
from PIL import Image
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.chain import Chain, Request
from zoomiqa_core.chat_completions import (
    Completion,
    ServerError,
    chat_body,
    data_url,
    error_words,
    read_completion,
    status_error,
)
from zoomiqa_core.decoding import Sampling
from zoomiqa_core.prompts import Prompts, load_prompts
from zoomiqa_core.zoom_iqa import JudgeConfig, ZoomIQA

MAX_WAIT_S = 8.0
"""Longest wait between two tries that the server did not ask for."""
MAX_ERROR_BYTES = 8192
"""How much of an error's body is read."""


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
    to 32 images in one (:data:`zoomiqa_core.zoom_iqa.IMAGES_AT_ONCE`)."""
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


class ServedVLM:
    """Answers chains with a model on an OpenAI-compatible server.

    Safe to call from several threads: every call has connections of its own, and neither thread nor
    connection outlives it. With a server that honours seeds, the same seeds give the same replies
    up to the rounding of its batches.

    Args:
        config: where the server is.
        name: what reports call it; the model's name by default.
    """

    def __init__(self, config: ServerConfig, *, name: str | None = None) -> None:
        self.config = config
        self.name = name or config.model
        self._tls = httpx.create_ssl_context()  # reading the certificates takes tens of ms

    @property
    def settings(self) -> Mapping[str, Any]:
        """What may change a reply, in plain values."""
        return {"model": self.config.model, "sampling": asdict(self.config.sampling)}

    def run(self, chains: Sequence[Chain]) -> None:
        """Drive chains to their end, within ``deadline_s``; one that fails names its error.

        Works inside a running event loop too (a notebook), which waits. An interrupt (Ctrl-C)
        closes all connections, leaves chains unfinished and goes on to the caller.

        Raises:
            ValueError: the key in the environment can be no key.
        """
        key = read_key(self.config.api_key_env)
        waiting = [chain for chain in chains if not chain.done]
        if waiting:
            run_to_end(functools.partial(self._run, waiting, key))

    def expected(self, chains: Sequence[Chain]) -> list[Assessment]:
        """A server does not give the probabilities this would need.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            'mode="expected" needs the model on this machine: load its folder or hub id, or use '
            'mode="rounds" with the server'
        )

    async def _run(self, chains: Sequence[Chain], key: str | None) -> None:
        config = self.config
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        async with httpx.AsyncClient(
            headers=headers,
            limits=httpx.Limits(max_connections=config.concurrency),
            timeout=None,  # a try has one timeout for all of it
            trust_env=config.use_proxy,
            verify=self._tls,
        ) as client:
            await _Call(config, client, key).drive(chains)


def served_scorer(
    url: str,
    *,
    model: str,
    prompts: Prompts | str | os.PathLike[str] | None = None,
    config: JudgeConfig | None = None,
    **settings: Any,
) -> ZoomIQA:
    """A Zoom-IQA judge on a server.

    Args:
        url: of the server, see :attr:`ServerConfig.base_url`.
        model: the served name.
        prompts: the texts it was trained on (:func:`zoomiqa_core.prompts.load_prompts`); None
            for the official ones, those of the released checkpoint. A server cannot tell which.
        config: how the judge is asked.
        settings: further fields of :class:`ServerConfig`.

    Raises:
        PromptsError: prompts that are not to be had.
        ValueError: settings out of range.
    """
    backend = ServedVLM(ServerConfig(url, model, **settings))
    if not isinstance(prompts, Prompts):
        prompts = load_prompts("official" if prompts is None else prompts)
    return ZoomIQA(backend, prompts, config, name=url)


def read_key(variable: str) -> str | None:
    """The key in an environment variable; None when it is not set or empty.

    Raises:
        ValueError: not a word of printable ASCII. The message does not hold it.
    """
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise ValueError(
            f"the key in {variable} must be one word of printable ASCII characters; set it again, "
            "without line breaks or spaces inside"
        )
    return key or None


def wait_before(
    next_try: int, backoff_s: float, chance: random.Random, retry_after_s: float | None = None
) -> float:
    """Seconds to wait before a try.

    Args:
        next_try: its number, at least 2.
        backoff_s: see :attr:`ServerConfig.backoff_s`.
        chance: spreads the waits of requests that failed together.
        retry_after_s: what the server asked for; never less is waited.
    """
    longest = min(backoff_s * 2.0 ** min(next_try - 2, 64), MAX_WAIT_S)
    return max(longest * (0.5 + 0.5 * chance.random()), retry_after_s or 0.0)


def run_to_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine to its end, from a thread with or without a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
    else:
        _run_beside(work)


class _Call:
    """What the chains of one :meth:`ServedVLM.run` share: connections, deadline, images."""

    def __init__(self, config: ServerConfig, client: httpx.AsyncClient, key: str | None) -> None:
        self._config = config
        self._client = client
        self._key = key
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + config.deadline_s
        self._turns = asyncio.Semaphore(config.concurrency)
        self._encoding = asyncio.Lock()
        self._urls: dict[int, str] = {}
        self._uses: Counter[int] = Counter()

    async def drive(self, chains: Sequence[Chain]) -> None:
        """All chains to their end; whatever interrupts one interrupts all."""
        self._uses = Counter(id(chain.image) for chain in chains)
        tasks = [asyncio.create_task(self._drive(chain)) for chain in chains]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _drive(self, chain: Chain) -> None:
        """One chain to its end. It keeps its turn between rounds, so that few images are held."""
        try:
            async with asyncio.timeout_at(self._deadline), self._turns:
                while (request := chain.request) is not None:
                    chain.read(*await self._ask(request, chain.image))
        except TimeoutError:
            chain.fail(
                "timeout",
                f"the deadline of {self._config.deadline_s:g} s for all chains passed; raise "
                "deadline_s or judge fewer images at once",
            )
        except ServerError as error:
            chain.fail(error.code, error.message)
        finally:
            self._uses[id(chain.image)] -= 1
            if not self._uses[id(chain.image)]:
                self._urls.pop(id(chain.image), None)

    async def _ask(self, request: Request, shared: Image.Image) -> Completion:
        """The reply to a request, after as many tries as it takes and may take."""
        config, chance = self._config, random.Random(request.seed)
        urls = [await self._url(image, keep=image is shared) for image in request.images]
        body = chat_body(request, urls, config.model, config.sampling)
        tried = 0

        async def ask() -> Completion:
            nonlocal tried
            tried += 1
            return await self._try(body)

        def wait(state: RetryCallState) -> float:
            asked_s = getattr(_error_of(state), "retry_after_s", None)
            return wait_before(state.attempt_number + 1, config.backoff_s, chance, asked_s)

        def stop(state: RetryCallState) -> bool:
            resumed = self._clock() + state.upcoming_sleep
            return state.attempt_number >= config.tries or resumed >= self._deadline

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: getattr(error, "again", False)),
            wait=wait,
            stop=stop,
            reraise=True,
        )
        try:
            return await retrying(ask)
        except ServerError as error:
            tries = f"{tried} tries" if tried > 1 else "1 try"
            raise ServerError(error.code, f"{error.message} ({tries})") from None

    async def _try(self, body: bytes) -> Completion:
        timeout_s = self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post(body)
        except TimeoutError:
            message = f"no whole reply within {timeout_s:g} s; raise timeout_s or lower concurrency"
            raise ServerError("timeout", message, again=True) from None

    async def _post(self, body: bytes) -> Completion:
        config = self._config
        try:
            async with self._client.stream("POST", config.chat_url, content=body) as response:
                if response.status_code == 200:
                    return read_completion(await read_body(response, config.max_body_bytes))
                words = error_words(await read_start(response, MAX_ERROR_BYTES), self._key)
                retry_after = response.headers.get("retry-after")
                raise status_error(response.status_code, words, retry_after)
        except httpx.RequestError as error:
            words = error_words(f"{type(error).__name__}: {error}".encode(), self._key)
            message = f"cannot reach {config.base_url}: {words}; is the server running?"
            raise ServerError("connection", message, again=True) from None

    async def _url(self, image: Image.Image, *, keep: bool) -> str:
        """The image as a data URL; one that chains share is encoded once and kept."""
        if not keep:
            return await asyncio.to_thread(data_url, image)
        async with self._encoding:
            if id(image) not in self._urls:
                self._urls[id(image)] = await asyncio.to_thread(data_url, image)
            return self._urls[id(image)]


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """The whole body, read as it comes and no further than the limit.

    Raises:
        ServerError: ``response_too_large``, or ``bad_response`` when it breaks off or is
            compressed (what it unpacks to would know no limit).
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ServerError("bad_response", "the reply is compressed, which was not asked for")
    too_large = ServerError("response_too_large", f"the reply has more than {limit} bytes")
    declared = response.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]+", declared) and (len(declared) > 18 or int(declared) > limit):
        raise too_large
    body = bytearray()
    try:
        async for part in response.aiter_raw():
            body += part
            if len(body) > limit:
                raise too_large
    except httpx.RequestError as error:
        message = f"the reply broke off after {len(body)} bytes ({type(error).__name__})"
        raise ServerError("bad_response", message, again=True) from None
    return bytes(body)


async def read_start(response: httpx.Response, limit: int) -> bytes:
    """The first bytes of a body, as far as they can be had."""
    body = bytearray()
    with contextlib.suppress(httpx.RequestError):
        async for part in response.aiter_raw():
            body += part
            if len(body) >= limit:
                break
    return bytes(body[:limit])


def _run_beside(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a thread of its own; an interrupt of the waiting thread reaches it."""
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def watched() -> None:
        task = asyncio.current_task()
        if task is not None:
            started.append((asyncio.get_running_loop(), task))
        await work()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(watched()))
        try:
            future.result()
        except BaseException:
            if started and not future.done():
                loop, task = started[0]
                loop.call_soon_threadsafe(task.cancel)
            raise


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


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
