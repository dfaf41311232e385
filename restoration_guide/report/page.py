"""HTML pages: a report as one page that loads nothing from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from restoration_guide.report.wording import (
    columns,
    figure,
    heading,
    name_of,
    outcome_in_words,
    rating_share,
)
from restoration_guide.search.selection import OK, Row, Selection
from zoomiqa_core.images.sources import to_pil

if TYPE_CHECKING:
    from jinja2 import Environment

THUMBNAIL_SIDE = 192
SLIDER_SIDE = 1024

SHOWN_APART = (
    "index",
    "seed",
    "rating",
    "rating_std",
    "seconds",
)
"""Keys of a row with columns of their own."""


def render(template: str, **values: Any) -> str:
    """HTML of one of ``templates/``, in which every value is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """The compiled templates, which a run over many images uses for each of them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("restoration_guide.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "heading": heading, "rating_share": rating_share}
    return environment


def render_page(selection: Selection, record: dict[str, Any], comparison: Image.Image) -> str:
    """Render ``templates/report.html.j2``.

    Args:
        selection: where the pictures come from; they are inlined as data URIs.
        record: the content of ``report.json``.
        comparison: the comparison picture.

    Returns:
        HTML with a policy that forbids all requests.
    """
    rows = [
        {
            "name": name_of(row.index),
            "thumbnail": _thumbnail(selection, row),
            "seconds": row.seconds,
            "words": _words(entry),
            **entry,
        }
        for entry, row in zip(record["rows"], selection.rows, strict=True)
    ]
    before = None if selection.choice == "input" else selection.input
    return render(
        "report.html.j2",
        record=record,
        outcome=outcome_in_words(selection),
        comparison=jpeg_uri(comparison),
        before=None if before is None else jpeg_uri(to_pil(before), SLIDER_SIDE),
        after=jpeg_uri(to_pil(selection.best), SLIDER_SIDE),
        rows=rows,
        terms=columns(record["rows"], record["fidelity_terms"], SHOWN_APART),
    )


def _words(entry: Mapping[str, Any]) -> str:
    """A row's status and whatever else it has in words."""
    said = {key: value for key, value in entry.items() if isinstance(value, str) and value}
    status, detail = said.pop("status"), said.pop("detail", "")
    said.pop("index", None)
    others = [f"{heading(key)}: {value}" for key, value in said.items()]
    return "; ".join([": ".join(filter(None, (heading(status), detail))), *others])


def jpeg_uri(picture: Image.Image, side: int | None = None) -> str:
    """The picture as a data URI, its longer side reduced to ``side`` pixels."""
    picture = picture.copy()
    if side is not None:
        picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_of(selection: Selection, row: Row) -> Tensor | None:
    """(3, H, W) of a row; None where it has no pixels that can be shown."""
    if row.index != "input" and row.fidelity is None and row.status != OK:
        return None
    try:
        return selection.image(row.index)
    except KeyError:  # ended before it was finished
        return None


def _thumbnail(selection: Selection, row: Row) -> str | None:
    image = picture_of(selection, row)
    return None if image is None else jpeg_uri(to_pil(image), THUMBNAIL_SIDE)
