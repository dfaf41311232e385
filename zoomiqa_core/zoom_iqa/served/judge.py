r"""A judge behind an OpenAI-compatible server such as vLLM; same results as a local judge.

Serve the released checkpoint on a machine with a GPU (docs/SERVING.md explains the flags)::

    vllm serve Ethanliang99/Zoom-IQA-7B --served-model-name zoom-iqa --host 127.0.0.1 \
        --limit-mm-per-prompt '{"image": 2}' --max-model-len 8192 --generation-config vllm \
        --mm-processor-kwargs '{"max_pixels": 1003520}' --chat-template-content-format openai

Merge a LoRA adapter into its model first (``merge_and_unload`` of peft). Then::

    scorer = load_scorer("http://127.0.0.1:8000/v1", model="zoom-iqa")

A request is tried up to :attr:`~zoomiqa_core.zoom_iqa.served.config.ServerConfig.tries` times. When
a server that has answered before is away (it restarts, or is overloaded), requests are tried again
for ``restart_s``. A request that fails for good ends only its own chain, with one of these errors:

======================  ===================================================  ===============
``error``               what happened                                        tried again
======================  ===================================================  ===============
``server_busy``         HTTP 429; ``Retry-After`` (seconds) is respected     for restart_s
``server_error``        HTTP 502, 503, 504                                   for restart_s
``server_error``        any other HTTP 5xx                                   tries
``timeout``             no whole reply within ``timeout_s``                  tries
``timeout``             ``deadline_s`` of the call passed                    no
``connection``          no connection, or it broke before the reply began    for restart_s
``bad_response``        the reply broke off                                  tries
``bad_response``        not JSON, not a completion with text, compressed     no
``response_too_large``  more than ``max_body_bytes``                         no
``server_refused``      any other HTTP 4xx; a redirect                       no
======================  ===================================================  ===============

A wait that would end after the deadline is skipped, and the last error is reported. A chain that
fails in a later round keeps its earlier rating (``fallback``), like any failed round.

Sent to the server are texts, and images as PNG data URLs, reduced to ``max_pixels``; the server
fetches nothing. TLS certificates are verified (``SSL_CERT_FILE`` is respected). The API key is read
from the environment at every call and never stored or printed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import httpx

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.prompts import Prompts, load_prompts
from zoomiqa_core.zoom_iqa.served.client import ServerCall
from zoomiqa_core.zoom_iqa.served.config import ServerConfig


class ServedVLM:
    """The backend of a judge whose model runs on an OpenAI-compatible server.

    Thread-safe: every call opens and closes its own connections. With a server that respects seeds,
    equal seeds give equal replies up to the rounding of the server's batches.

    Args:
        config: address, timeouts and retries.
        name: for reports; the model's name by default.

    >>> ServedVLM(ServerConfig("http://127.0.0.1:8000/v1", "zoom-iqa")).name
    'zoom-iqa'
    """

    def __init__(self, config: ServerConfig, *, name: str | None = None) -> None:
        self.config = config
        self.name = name or config.model
        self._answered = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that may change a reply, as plain values."""
        config = self.config
        return {
            "model": config.model,
            "sampling": asdict(config.sampling),
            "max_pixels": config.max_pixels,
        }

    def run(self, chains: Sequence[Chain]) -> None:
        """Answer the chains' requests within ``deadline_s``; a chain that fails names its error.

        Also works inside a running event loop (a notebook), which it blocks. An interrupt (Ctrl-C)
        closes all connections and leaves chains unfinished.

        Raises:
            ValueError: the API key in the environment is malformed.
        """
        waiting = [chain for chain in chains if not chain.done]
        self._call(lambda call: call.drive(waiting), waiting)

    def expected(self, chains: Sequence[Chain]) -> list[Assessment]:
        """The expected rating of each chain's first request, from the server's log-probabilities.

        Up to six requests of one token per chain: the rating's integer part, and the decimal after
        each. Digits that are not among the 20 most likely tokens count as impossible.

        Raises:
            ValueError: the API key in the environment is malformed.
        """
        assessments: list[Assessment] = []

        async def expect(call: ServerCall) -> None:
            assessments.extend(await call.expect(chains))

        self._call(expect, chains)
        return assessments

    def _call(
        self, work: Callable[[ServerCall], Coroutine[Any, Any, None]], chains: Sequence[Chain]
    ) -> None:
        key = read_key(self.config.api_key_env)
        if chains:
            run_to_end(functools.partial(self._connected, work, key))

    async def _connected(
        self, work: Callable[[ServerCall], Coroutine[Any, Any, None]], key: str | None
    ) -> None:
        config = self.config
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        async with httpx.AsyncClient(
            headers=headers,
            limits=httpx.Limits(max_connections=config.concurrency),
            timeout=None,  # a try has one timeout as a whole
            trust_env=config.use_proxy,
            verify=_tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
        ) as client:
            call = ServerCall(config, client, key, self._answered)
            await work(call)
            self._answered = self._answered or call.answered


def served_scorer(
    url: str,
    *,
    model: str | None = None,
    prompts: Prompts | str | os.PathLike[str] | None = None,
    config: JudgeConfig | None = None,
    **settings: Any,
) -> ZoomIQA:
    """A Zoom-IQA judge on a server.

    Args:
        url: see :attr:`ServerConfig.base_url`.
        model: name of the model on the server; required.
        prompts: the texts it was trained on (:func:`zoomiqa_core.zoom_iqa.prompts.load_prompts`);
            None for the official ones, those of the released checkpoint. A server does not tell
            which its model was trained on.
        config: how the judge is asked.
        settings: further fields of :class:`ServerConfig`.

    Raises:
        PromptsError: the prompts are not available.
        TypeError: no model, or no such setting.
        ValueError: settings out of range.

    >>> judge = served_scorer("http://127.0.0.1:8000/v1", model="zoom-iqa", prompts="builtin")
    >>> judge.name, judge.backend.name
    ('http://127.0.0.1:8000/v1', 'zoom-iqa')
    """
    if model is None:
        raise TypeError(
            f"the server at {url} may have several models: give the name of one, model=… (--model "
            "on the command line), as --served-model-name of vLLM or GET /models says"
        )
    backend = ServedVLM(ServerConfig(url, model, **settings))
    if not isinstance(prompts, Prompts):
        prompts = load_prompts("official" if prompts is None else prompts)
    return ZoomIQA(backend, prompts, config, name=url)


@functools.lru_cache(maxsize=4)
def _tls_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """Made once per setting of the environment: reading the certificates takes tens of ms.

    Kept outside the judge, which can therefore be pickled.
    """
    return httpx.create_ssl_context()


def read_key(variable: str) -> str | None:
    """The API key in an environment variable; None when it is not set or empty.

    Raises:
        ValueError: not one word of printable ASCII; the message does not contain the key.
    """
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise ValueError(
            f"the key in {variable} must be one word of printable ASCII characters; set it again, "
            "without line breaks or spaces inside"
        )
    return key or None


def run_to_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine, also from a thread that already runs an event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
    else:
        _run_beside(work)


def _run_beside(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a new thread; an interrupt of the waiting thread cancels it."""
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
