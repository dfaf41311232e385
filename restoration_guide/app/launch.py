"""Serving the page: on this machine alone by default, without any request to another one."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from restoration_guide.app.config import AppConfig
from restoration_guide.app.page import STYLE, build_page, import_gradio

MAX_WAITING = 32
"""Most computations that wait for their turn; a later one is refused with a message."""

POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
"""Content-Security-Policy of every answer: the browser loads nothing from another host."""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class OwnHostOnly:
    """ASGI middleware that adds :data:`POLICY` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Answer one request."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self.app(scope, receive, send_with_policy if scope["type"] == "http" else send)


def launch_app(
    config: AppConfig | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    block: bool = True,
) -> Any:
    """Serve the web page until Ctrl-C.

    Nothing is requested from other machines: no fonts, no scripts, no usage statistics.

    >>> from restoration_guide import AppConfig
    >>> config = AppConfig(restorers=["builtin", lambda image: image.clamp(0.1, 0.9)], max_n=8)
    >>> launch_app(config, port=7860)  # doctest: +SKIP
    * Running on local URL:  http://127.0.0.1:7860

    Args:
        config: what the page offers.
        host: address to listen on; "0.0.0.0" also answers other machines.
        port: None for the first free one from 7860 on.
        block: whether to wait for Ctrl-C; otherwise the server runs in the background.

    Returns:
        The ``gradio.Blocks``; its ``local_url`` is the address, and ``close()`` ends the server.

    Raises:
        ImportError: gradio is not installed.
        OSError: the port is taken.
    """
    gr = import_gradio()
    config = AppConfig() if config is None else config
    page = build_page(config)
    models = page.handlers.models
    models.restorer([next(iter(models.restorers))])  # so that the first visitor need not wait
    models.scorer(next(iter(models.scorers)))
    middleware = importlib.import_module("starlette.middleware").Middleware
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        share=False,
        show_error=True,
        max_file_size=f"{config.max_megabytes:g}mb",
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE,
        app_kwargs={"middleware": [middleware(OwnHostOnly)]},
    )
    return page
