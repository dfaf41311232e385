r"""A judge behind an OpenAI-compatible server, e.g. vLLM: same chains, same results as in place.

The released checkpoint, on the machine with the GPU (docs/SERVING.md says why each flag)::

    vllm serve Ethanliang99/Zoom-IQA-7B --served-model-name zoom-iqa --host 127.0.0.1 \
        --limit-mm-per-prompt '{"image": 2}' --max-model-len 8192 --generation-config vllm \
        --mm-processor-kwargs '{"max_pixels": 1003520}' --chat-template-content-format openai

A LoRA adapter is merged into its model first (``merge_and_unload`` of peft). Then::

    scorer = served_scorer("http://127.0.0.1:8000/v1", model="zoom-iqa")

Every request of a chain is tried up to
:attr:`~zoomiqa_core.zoom_iqa.served.config.ServerConfig.tries` times. What fails for good ends
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
import functools
import os
import re
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
            await ServerCall(config, client, key).drive(chains)


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
        prompts: the texts it was trained on (:func:`zoomiqa_core.zoom_iqa.prompts.load_prompts`);
            None for the official ones, those of the released checkpoint. A server cannot tell
            which.
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


def run_to_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine to its end, from a thread with or without a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
    else:
        _run_beside(work)


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
