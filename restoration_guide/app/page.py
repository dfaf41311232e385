"""The page: its components, and which handler each event calls."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

from restoration_guide.app.config import AppConfig
from restoration_guide.app.handlers import DEMO_PHOTO, Handlers, Values
from restoration_guide.app.session import Session
from restoration_guide.app.words import PageError
from restoration_guide.search.best_of_n import BestOfNConfig

STATE_SECONDS = 3600
"""How long a visitor's last search is kept."""
CACHE_SECONDS = (600, 3600)
"""How often files are cleared, and from which age."""
MODELS = "models"
"""Queue of the events that compute: one at a time, the others wait for their turn."""

STYLE = """
#gallery .caption-label { white-space: normal; max-width: calc(100% - 8px); }
#progress p, #shown p, #verdict { overflow-wrap: anywhere; }
"""
"""CSS of the page: captions wrap instead of being cut."""

INTRODUCTION = """# Restoration guide
Restore a photo N ways, rate every candidate with an image quality judge, and keep the best one, or
the photo itself when none is better. Ratings run from 1 (bad) to 5 (excellent)."""


def build_page(config: AppConfig | None = None) -> Any:
    """The page as a ``gradio.Blocks``, which :func:`~restoration_guide.launch_app` serves.

    Raises:
        ImportError: gradio is not installed.
    """
    gr = import_gradio()
    handlers = Handlers(AppConfig() if config is None else config)
    with gr.Blocks(
        title="Restoration guide", analytics_enabled=False, delete_cache=CACHE_SECONDS
    ) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tab("Restore"):
            _restore_tab(gr, handlers)
        with gr.Tab("Judge a photo"):
            _judge_tab(gr, handlers)
    page.handlers = handlers
    return page


def import_gradio() -> Any:
    """The library gradio.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise ImportError(
            'the web page needs gradio: pip install "zoomiqa-restoration-guide[app]"'
        ) from error


def _restore_tab(gr: Any, handlers: Handlers) -> None:
    config, models = handlers.config, handlers.models
    judges, restorers = list(models.scorers), list(models.restorers)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            photo = gr.File(label=_photo_label(config), elem_id="photo")
            preview = gr.Image(
                show_label=False, interactive=False, buttons=[], height=220, elem_id="preview"
            )
            size = gr.Markdown(elem_id="size")
            demo = gr.Button("Take the demo photo", size="sm", elem_id="demo")
            restorer = gr.CheckboxGroup(
                restorers,
                value=restorers[:1],
                label="Restorers",
                info="Several take turns.",
                elem_id="restorers",
            )
            judge = gr.Dropdown(judges, value=judges[0], label="Judge", elem_id="judge")
            n = gr.Slider(
                1, config.max_n, min(BestOfNConfig.n, config.max_n), step=1, label="Candidates (N)"
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
            with gr.Row():
                start = gr.Button("Restore", variant="primary", min_width=90, elem_id="restore")
                stop = gr.Button(
                    "Stop", variant="stop", interactive=False, min_width=90, elem_id="stop"
                )
        with gr.Column(scale=3, min_width=480):
            progress = gr.Markdown("Drop a photo, then press *Restore*.", elem_id="progress")
            gallery = gr.Gallery(
                show_label=False,
                columns=5,
                fit_columns=False,
                allow_preview=False,
                buttons=[],
                interactive=False,
                object_fit="contain",
                elem_id="gallery",
            )
            shown = gr.Markdown(elem_id="shown")
            slider = gr.ImageSlider(
                show_label=False,
                type="pil",
                format="png",
                interactive=False,
                max_height=640,
                buttons=["fullscreen"],
                elem_id="slider",
            )
            verdict = gr.Markdown(elem_id="verdict")
            with gr.Row():
                map_before = _map_image(gr, "Quality map of the photo", "map-before")
                map_after = _map_image(gr, "Quality map of the candidate", "map-after")
            with gr.Row():
                picture = gr.DownloadButton(
                    "Download the picture", interactive=False, elem_id="picture"
                )
                save = gr.Button("Make the report (.zip)", interactive=False, elem_id="save")
                report = gr.DownloadButton("Download the report", visible=False, elem_id="report")
    session = gr.State(Session(), time_to_live=STATE_SECONDS)
    view = {
        "slider": slider,
        "shown": shown,
        "verdict": verdict,
        "picture": picture,
        "map_before": map_before,
        "map_after": map_after,
    }
    answers = {"progress": progress, "gallery": gallery, **view}
    quick: Values = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    # Only what is queued can fail with a message: gradio shows no other one.
    checked: Values = {**quick, "queue": True, "concurrency_limit": None}
    slow: Values = {"concurrency_id": MODELS, "concurrency_limit": 1, "api_visibility": "private"}
    quiet: Values = {**slow, "show_progress": "hidden"}

    photo.change(
        _values(gr, handlers.preview, {"preview": preview, "size": size}),
        photo,
        [preview, size],
        **checked,
    )
    demo.click(
        _values(gr, lambda own: {"photo": str(own.save_copy(DEMO_PHOTO))}, {"photo": photo}),
        session,
        [photo],
        **checked,
    )
    buttons = [start, stop, picture, save, report]
    started = start.click(
        lambda: _buttons(gr, running=True, searched=False), None, buttons, **quick
    ).then(
        _values(gr, handlers.restore, answers),
        [session, photo, restorer, judge, n, seed],
        [*answers.values()],
        **quiet,
    )
    started.then(
        lambda own: [*_buttons(gr, running=False, searched=own.selection is not None), own],
        session,
        [*buttons, session],  # setting it starts its time to live
        **quick,
    )
    stop.click(handlers.stop, session, None, **quick)

    def pick(own: Session, event: Any) -> Iterator[Values]:
        yield from handlers.pick(own, event.index)

    pick.__annotations__["event"] = gr.SelectData  # gradio goes by the annotation
    gallery.select(_values(gr, pick, view), session, [*view.values()], **slow).then(
        lambda: gr.update(visible=False), None, report, **quick
    )
    save.click(
        _values(gr, handlers.report, {"report": report}, visible={"report"}),
        session,
        [report],
        **slow,
    )


def _judge_tab(gr: Any, handlers: Handlers) -> None:
    judges = list(handlers.models.scorers)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            photo = gr.File(label=_photo_label(handlers.config), elem_id="judge-photo")
            judge = gr.Dropdown(
                judges,
                value="proxy" if "proxy" in judges else judges[0],
                label="Judge",
                elem_id="judge-name",
            )
            start = gr.Button("Judge", variant="primary", elem_id="judge-start")
        with gr.Column(scale=3, min_width=480):
            rating = gr.Markdown("Drop a photo, then press *Judge*.", elem_id="rating")
            with gr.Row():
                drawn = _map_image(gr, "Quality map", "judge-map")
                with gr.Column(min_width=240):
                    gr.Markdown("Worst regions and their ratings")
                    regions = gr.AnnotatedImage(
                        show_label=False, format="png", buttons=[], elem_id="judge-regions"
                    )
    answers = {"rating": rating, "map": drawn, "regions": regions}
    start.click(
        _values(gr, handlers.judge, answers),
        [photo, judge],
        [*answers.values()],
        concurrency_id=MODELS,
        concurrency_limit=1,
        api_visibility="private",
    )


def _photo_label(config: AppConfig) -> str:
    return f"Photo, up to {config.max_megapixels:g} megapixels"


def _map_image(gr: Any, label: str, elem_id: str) -> Any:
    """A picture under its title: gradio's own label would cover a corner of it."""
    with gr.Column(min_width=240):
        gr.Markdown(label)
        return gr.Image(
            show_label=False,
            type="pil",
            format="png",
            interactive=False,
            buttons=[],
            elem_id=elem_id,
        )


def _buttons(gr: Any, *, running: bool, searched: bool) -> list[Any]:
    """Start, stop, picture, save and report, as they are while a search runs and after it."""
    return [
        gr.update(interactive=not running),
        gr.update(interactive=running),
        gr.update(interactive=searched),
        gr.update(interactive=searched),
        gr.update(visible=False),
    ]


def _values(
    gr: Any,
    handler: Callable[..., Any],
    components: Mapping[str, Any],
    visible: Sequence[str] | set[str] = (),
) -> Callable[..., Any]:
    """The handler with its values in the order of the components, and errors as messages."""

    def ordered(values: Values) -> list[Any]:
        answers = [
            gr.update(value=values[name], visible=True) if name in visible else values[name]
            for name in components
            if name in values
        ]
        if len(answers) < len(components):
            found = dict(zip((name for name in components if name in values), answers, strict=True))
            answers = [found.get(name, gr.skip()) for name in components]
        return answers

    def message(error: PageError) -> Any:
        import html

        return gr.Error(html.escape(str(error), quote=False), print_exception=False, duration=20)

    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def generate(*arguments: Any) -> Iterator[Any]:
            try:
                for values in handler(*arguments):
                    answers = ordered(values)
                    yield answers if len(answers) > 1 else answers[0]
            except PageError as error:
                raise message(error) from error

        return generate

    @wraps(handler)
    def answer(*arguments: Any) -> Any:
        try:
            answers = ordered(handler(*arguments))
        except PageError as error:
            raise message(error) from error
        return answers if len(answers) > 1 else answers[0]

    return answer
