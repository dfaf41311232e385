"""The requests of one call to a server: tried again, in time, and no larger than allowed.

What is tried again and what each failure is called stands in
:mod:`zoomiqa_core.zoom_iqa.served.judge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Sequence

import httpx
from PIL import Image
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.served.chat_completions import (
    Completion,
    ServerError,
    chat_body,
    data_url,
    error_words,
    read_completion,
    status_error,
)
from zoomiqa_core.zoom_iqa.served.config import MAX_WAIT_S, ServerConfig

MAX_ERROR_BYTES = 8192
"""How much of an error's body is read."""


class ServerCall:
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


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
