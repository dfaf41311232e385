"""``restoration-guide app``: the web page."""

from __future__ import annotations

from typing import Annotated

import typer

from zoomiqa_core.cli.options import stop


def serve(
    restorer: Annotated[
        list[str],
        typer.Option(
            help='Restorer to offer: "builtin", "realesrgan", a file, a folder or a hub id; '
            "repeatable.",
        ),
    ] = ["builtin"],  # noqa: B006  (typer copies it)
    scorer: Annotated[
        list[str],
        typer.Option(help="Judge to offer, bundled or the folder or hub id of one; repeatable."),
    ] = ["restoration", "proxy", "alarm", "tiny"],  # noqa: B006
    device: Annotated[str, typer.Option(help='Where to compute, e.g. "cuda".')] = "cpu",
    host: Annotated[
        str, typer.Option(help='Address to listen on; "0.0.0.0" also answers other machines.')
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port.", show_default="the first free one from 7860")
    ] = None,
    max_n: Annotated[int, typer.Option(help="Most candidates of a search.")] = 16,
    max_megapixels: Annotated[
        float, typer.Option(help="Largest photo, in millions of pixels.")
    ] = 4.0,
    max_megabytes: Annotated[float, typer.Option(help="Largest file.")] = 32.0,
) -> None:
    """Serve a web page that restores and judges photos, on this machine alone by default."""
    from restoration_guide.app.config import AppConfig
    from restoration_guide.app.launch import launch_app

    try:
        config = AppConfig(restorer, scorer, device, max_n, max_megapixels, max_megabytes)
        launch_app(config, host=host, port=port)
    # gradio is not installed, a port is taken, a model cannot be loaded.
    except (ImportError, OSError, ValueError) as error:
        stop(str(error), error)
