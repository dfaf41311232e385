"""The report as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

from PIL import Image

from restoration_guide.selection import Selection
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.images import to_pil

THUMBNAIL_SIDE = 192
SLIDER_SIDE = 1024


def render_page(selection: Selection, record: dict[str, Any], comparison: Image.Image) -> str:
    """Render ``templates/report.html.j2``.

    Args:
        selection: where the pictures come from; they are inlined as data URIs.
        record: the content of ``report.json``.
        comparison: the comparison picture.

    Returns:
        HTML in which every value is escaped, with a policy that forbids all requests.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("restoration_guide"),
        autoescape=select_autoescape(["html.j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.filters["rating_share"] = rating_share
    return environment.get_template("report.html.j2").render(
        record=record,
        comparison=_png_uri(comparison),
        before=_jpeg_uri(to_pil(selection.input), SLIDER_SIDE),
        after=_jpeg_uri(to_pil(selection.best), SLIDER_SIDE),
        rows=[
            {
                **entry,
                "chosen": entry["index"] == selection.choice,
                "thumbnail": _thumbnail(selection, row),
                "seconds": row.seconds,
            }
            for entry, row in zip(record["rows"], selection.rows, strict=True)
        ],
    )


def figure(value: float | None, digits: int = 2) -> str:
    """A number for people; an en dash for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def rating_share(rating: float | None) -> float:
    """Place of a rating on the scale from 1 to 5, in percent."""
    if rating is None or not math.isfinite(rating):
        return 0.0
    return round(100 * min(max((rating - MIN_RATING) / (MAX_RATING - MIN_RATING), 0), 1), 1)


def _thumbnail(selection: Selection, row: Any) -> str | None:
    if row.index != "input" and row.fidelity is None:
        return None
    return _jpeg_uri(to_pil(selection.image(row.index)), THUMBNAIL_SIDE)


def _jpeg_uri(picture: Image.Image, side: int) -> str:
    picture = picture.copy()
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _png_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
