"""HTTP requests of one call to a server: concurrency, retries, timeouts and size limits.

The table of errors and retries is in :mod:`zoomiqa_core.zoom_iqa.served.judge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import httpx
import torch
from PIL import Image
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.rating_digits import (
    BEGINNING,
    WHOLE_PARTS,
    digits_to_assessment,
    rating_place,
)
from zoomiqa_core.zoom_iqa.served.chat_completions import (
    chat_body,
    data_url,
    next_token_body,
    read_completion,
    read_next_token,
    reduced,
)
from zoomiqa_core.zoom_iqa.served.config import MAX_WAIT_S, ServerConfig
from zoomiqa_core.zoom_iqa.served.errors import ServerError, error_words, status_error

MAX_ERROR_BYTES = 8192
"""Number of bytes of an error's body that are read."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class ServerCall:
    """State shared by the chains of one call: connections, deadline, encoded images.

    Args:
        config: of the server.
        client: open connections.
        key: API key, left out of error messages.
        answered: whether the server has answered before, so that a restart is waited for.
    """

    def __init__(
        self,
        config: ServerConfig,
        client: httpx.AsyncClient,
        key: str | None,
        answered: bool = False,
    ) -> None:
        self.answered = answered
        self._config = config
        self._client = client
        self._key = key
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + config.deadline_s
        self._slots = asyncio.Semaphore(config.concurrency)
        self._encoding = asyncio.Lock()
        self._urls: dict[int, str] = {}
        self._uses: Counter[int] = Counter()
        self._waiting = False
        self._reads_ratings = config.expected_ratings

    async def drive(self, chains: Sequence[Chain]) -> None:
        """Answer all requests of the chains, to their end."""

        async def to_end(chain: Chain) -> None:
            while (request := chain.request) is not None:
                urls = await self._encoded(request, chain.image)
                body = chat_body(request, urls, self._config.model, self._config.sampling)
                text, tokens = await self._ask(body, request.seed, read_completion)
                chain.read(text, tokens, await self._written_rating(request, urls, text))

        async def drive_one(chain: Chain) -> None:
            if failure := await self._guarded(to_end, chain):
                chain.fail(failure.code, failure.message)

        await self._together([drive_one(chain) for chain in chains], chains)

    async def expect(self, chains: Sequence[Chain]) -> list[Assessment]:
        """The expected rating of each chain's first request, in order."""
        results: dict[int, Assessment] = {}

        async def read(chain: Chain) -> None:
            results[id(chain)] = await self._expected(chain)

        async def expect_one(chain: Chain) -> None:
            if failure := await self._guarded(read, chain):
                results[id(chain)] = Assessment.failed(failure.code, failure.message)

        await self._together([expect_one(chain) for chain in chains], chains)
        return [results[id(chain)] for chain in chains]

    async def _together(self, work: Sequence, chains: Sequence[Chain]) -> None:
        """Run all coroutines; an interrupt of one cancels all."""
        self._uses = Counter(id(chain.image) for chain in chains)
        tasks = [asyncio.create_task(each) for each in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Callable, chain: Chain) -> ServerError | None:
        """Work for one chain within its slot and the deadline; what made it fail, if it did.

        The slot is kept between rounds, which bounds the number of encoded images.
        """
        try:
            async with asyncio.timeout_at(self._deadline), self._slots:
                await work(chain)
        except TimeoutError:
            return ServerError(
                "timeout",
                f"the deadline of {self._config.deadline_s:g} s for all chains passed; raise "
                "deadline_s or judge fewer images at once",
            )
        except ServerError as error:
            return error
        finally:
            self._uses[id(chain.image)] -= 1
            if not self._uses[id(chain.image)]:
                self._urls.pop(id(chain.image), None)
        return None

    async def _written_rating(
        self, request: Request, urls: Sequence[str], text: str
    ) -> float | None:
        """Mean of a reply's rating over the digits that could have been written there."""
        place = rating_place(text) if self._reads_ratings else None
        if place is None:
            return None
        try:
            found = await self._digits(request, urls, text[:place])
        except ServerError:
            self._reads_ratings = False
            return None
        return found.rating if found.valid else None

    async def _expected(self, chain: Chain) -> Assessment:
        request = chain.request
        if request is None:
            raise ValueError("expected a chain with an open request, got a finished one")
        return await self._digits(request, await self._encoded(request, chain.image), BEGINNING)

    async def _digits(self, request: Request, urls: Sequence[str], beginning: str) -> Assessment:
        """The rating after the beginning of a reply, from its digits' probabilities."""

        async def digits(begun: str, wanted: Sequence[int]) -> list[float]:
            body = next_token_body(request, urls, self._config.model, begun)
            probabilities = await self._ask(body, request.seed, read_next_token)
            return [probabilities.get(str(digit), 0.0) for digit in wanted]

        whole = await digits(beginning, WHOLE_PARTS)
        decimal = [
            await digits(f"{beginning}{digit}.", range(10)) if probability else [0.0] * 10
            for digit, probability in zip(WHOLE_PARTS, whole, strict=True)
        ]
        return digits_to_assessment(
            torch.tensor(whole, dtype=torch.float64),
            torch.tensor(decimal, dtype=torch.float64),
            self._config.min_digit_mass,
        )

    async def _ask(self, body: bytes, seed: int, read: Callable[[bytes], Result]) -> Result:
        """Post a body and read the reply, with retries."""
        config, rng = self._config, random.Random(seed)
        tries, away_since = 0, None

        async def ask() -> Result:
            nonlocal tries
            tries += 1
            reply = await self._try(body, read)
            self.answered = True
            return reply

        def wait(state: RetryCallState) -> float:
            asked_s = getattr(_error_of(state), "retry_after_s", None)
            return wait_before(state.attempt_number + 1, config.backoff_s, rng, asked_s)

        def stop(state: RetryCallState) -> bool:
            nonlocal away_since
            resumed = self._clock() + state.upcoming_sleep
            error = _error_of(state)
            if resumed >= self._deadline:
                return True
            if self.answered and isinstance(error, ServerError) and error.away:
                away_since = away_since or self._clock()
                self._report_wait(error)
                return state.attempt_number >= config.tries and (
                    resumed >= away_since + config.restart_s
                )
            return state.attempt_number >= config.tries

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: getattr(error, "again", False)),
            wait=wait,
            stop=stop,
            reraise=True,
        )
        try:
            return await retrying(ask)
        except ServerError as error:
            counted = f"{tries} tries" if tries > 1 else "1 try"
            raise ServerError(error.code, f"{error.message} ({counted})") from None

    def _report_wait(self, error: ServerError) -> None:
        """Log once per call that the server is waited for."""
        if not self._waiting:
            self._waiting = True
            seconds = f"{self._config.restart_s:g} s"
            _log.warning("%s; waiting up to %s for the server", error.message, seconds)

    async def _try(self, body: bytes, read: Callable[[bytes], Result]) -> Result:
        timeout_s = self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post(body, read)
        except TimeoutError:
            message = f"no whole reply within {timeout_s:g} s; raise timeout_s or lower concurrency"
            raise ServerError("timeout", message, again=True) from None

    async def _post(self, body: bytes, read: Callable[[bytes], Result]) -> Result:
        config = self._config
        try:
            async with self._client.stream("POST", config.chat_url, content=body) as response:
                if response.status_code == 200:
                    return read(await read_body(response, config.max_body_bytes))
                words = error_words(await read_start(response, MAX_ERROR_BYTES), self._key)
                retry_after = response.headers.get("retry-after")
                raise status_error(response.status_code, words, retry_after)
        except httpx.RequestError as error:
            words = error_words(f"{type(error).__name__}: {error}".encode(), self._key)
            message = f"cannot reach {config.base_url}: {words}; is the server running?"
            raise ServerError("connection", message, again=True, away=True) from None

    async def _encoded(self, request: Request, shared: Image.Image) -> list[str]:
        """The request's images as data URLs; the image that chains share is encoded once."""
        urls = []
        for image in request.images:
            if image is not shared:
                urls.append(await asyncio.to_thread(self._data_url, image))
                continue
            async with self._encoding:
                if id(image) not in self._urls:
                    self._urls[id(image)] = await asyncio.to_thread(self._data_url, image)
            urls.append(self._urls[id(image)])
        return urls

    def _data_url(self, image: Image.Image) -> str:
        return data_url(reduced(image, self._config.max_pixels))


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """The whole body of a response, up to a limit in bytes.

    Raises:
        ServerError: ``response_too_large``, or ``bad_response`` when the body is incomplete or
            compressed (it could decompress to any size).
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
    """The first bytes of a body; fewer when the connection breaks."""
    body = bytearray()
    with contextlib.suppress(httpx.RequestError):
        async for part in response.aiter_raw():
            body += part
            if len(body) >= limit:
                break
    return bytes(body[:limit])


def wait_before(
    next_try: int, backoff_s: float, rng: random.Random, retry_after_s: float | None = None
) -> float:
    """Seconds to wait before a try: exponential backoff with jitter.

    Args:
        next_try: its number, at least 2.
        backoff_s: see :attr:`ServerConfig.backoff_s`.
        rng: of the jitter.
        retry_after_s: minimum that the server asked for.

    >>> round(wait_before(3, backoff_s=1.0, rng=random.Random(0)), 2)
    1.84
    """
    longest = min(backoff_s * 2.0 ** min(next_try - 2, 64), MAX_WAIT_S)
    return max(longest * (0.5 + 0.5 * rng.random()), retry_after_s or 0.0)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
