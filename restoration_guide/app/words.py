"""What the page says: errors, captions, verdicts."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING

from restoration_guide.report.wording import name_of, rating_in_words
from restoration_guide.search.selection import OK

if TYPE_CHECKING:
    from restoration_guide.gate.verdict import Verdict
    from restoration_guide.search.selection import Index, Row, Selection
    from zoomiqa_core.assessment import Assessment
    from zoomiqa_core.images.errors import ImageError, ImageLimits

ACTIONS = {
    "accept": "Accept: use the restored picture",
    "keep_input": "Keep the photo as it is",
    "retry": "Try again with another seed or more candidates",
    "reject": "Reject: neither picture should be used",
}
"""Headline of each action of the gate."""


class PageError(ValueError):
    """Something the visitor can put right; the message says how."""


def error_in_words(error: ImageError, path: str, limits: ImageLimits) -> str:
    """Why a photo cannot be used, and what to do; without the path on the server.

    >>> from zoomiqa_core import ImageError, read_image
    >>> from zoomiqa_core.images.errors import ImageLimits
    >>> _ = Path("notes.txt").write_text("shopping list")
    >>> limits = ImageLimits(max_pixels=4_000_000)
    >>> try:
    ...     read_image("notes.txt", limits=limits)
    ... except ImageError as error:
    ...     print(error_in_words(error, "notes.txt", limits))
    notes.txt is no photo that can be read here. Drop a PNG, JPEG, WebP or TIFF file.
    """
    name = Path(path).name
    said = str(error).replace(str(path), name)
    if error.code in ("too_large", "too_small"):
        size = said.partition(";")[0]
        return (
            f"{size}. This page takes photos of {limits.min_side} pixels a side to "
            f"{limits.max_pixels / 1e6:g} megapixels: resize it and drop it again."
        )
    if error.code in ("unknown_format", "unreadable", "empty"):
        return f"{name} is no photo that can be read here. Drop a PNG, JPEG, WebP or TIFF file."
    if error.code == "missing":
        return "The photo is no longer on the server: drop it again."
    return said


def caption(row: Row, chosen: Index | None = None) -> str:
    """Caption of a candidate in the gallery.

    >>> from restoration_guide import Row
    >>> caption(Row(3, rating=3.9, rating_std=0.2, gain=0.42, gain_std=0.46), chosen=3)
    '3 ★ 3.90 (+0.42 ± 0.46)'
    >>> caption(Row(4, status="unfaithful"))
    '4: unfaithful'
    """
    if row.status != OK:
        return f"{row.index}: {row.status.replace('_', ' ')}"
    gain = "" if math.isnan(row.gain) else f" ({row.gain:+.2f} ± {row.gain_std:.2f})"
    return f"{row.index}{' ★' if row.index == chosen else ':'} {row.rating:.2f}{gain}"


def progress_in_words(done: int, n: int, seconds: float) -> str:
    """How far a search is.

    >>> progress_in_words(2, 8, 3.21)
    '2 of 8 candidates after 3.2 s'
    """
    return f"{done} of {n} candidates after {seconds:.1f} s"


def outcome(selection: Selection) -> str:
    """The choice of a search, in Markdown."""
    timing = selection.timing
    words = f"**{_sentence(selection.reason)}** {timing.total:.1f} s, seed {selection.seed}."
    words += " Captions: rating (gain over the photo). Click a picture to compare it."
    if selection.skipped:
        reasons = ", ".join(
            f"{count} {reason.replace('_', ' ')}" for reason, count in selection.skipped.items()
        )
        words += f" Skipped: {reasons}."
    return words


def shown_in_words(selection: Selection, index: Index) -> str:
    """What the comparison shows, in Markdown."""
    row = selection.row(index)
    settings = ", ".join(f"{key} {value}" for key, value in row.settings.items())
    said = f"{name_of(index).capitalize()}: {rating_in_words(row)}"
    if not math.isnan(row.gain):
        said += f", gain {row.gain:+.2f} ± {row.gain_std:.2f}"
    made = f" · {html.escape(settings)}" if settings else ""
    return f"**{said}**{made}\n\nLeft of the line: your photo. Right: {name_of(index)}."


def verdict_in_words(verdict: Verdict) -> str:
    """The gate's verdict with its reasons, in Markdown.

    >>> from restoration_guide import Verdict
    >>> print(verdict_in_words(Verdict("accept", ("good enough and better",))))
    **Gate: Accept: use the restored picture**
    <BLANKLINE>
    - Good enough and better.
    """
    reasons = "\n".join(f"- {_sentence(reason)}" for reason in verdict.reasons)
    return f"**Gate: {ACTIONS[verdict.action]}**\n\n{reasons}"


def assessment_in_words(assessment: Assessment, judge: str) -> str:
    """A judge's rating of one photo and its remarks, in Markdown.

    >>> import zoomiqa_core as zi
    >>> print(assessment_in_words(zi.Assessment(3.48, 0.21), "proxy"))
    **3.48 ± 0.21** of 5 (fair to good), by proxy
    """
    names = ("bad", "poor", "fair", "good", "excellent")
    low, high = math.floor(assessment.rating), math.ceil(assessment.rating)
    word = names[low - 1] if low == high else f"{names[low - 1]} to {names[high - 1]}"
    std = "" if math.isnan(assessment.rating_std) else f" ± {assessment.rating_std:.2f}"
    said = f"**{assessment.rating:.2f}{std}** of 5 ({word}), by {html.escape(judge)}"
    remarks = [*assessment.issues, *assessment.directions]
    return "\n".join([said, *(f"\n- {_sentence(remark)}" for remark in remarks)])


def _sentence(words: str) -> str:
    words = html.escape(words.strip(), quote=False)
    return f"{words[:1].upper()}{words[1:]}" + ("" if words.endswith((".", "!", "?")) else ".")
