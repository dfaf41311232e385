"""Figures for people: headings, digits, ratings and fidelity in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from restoration_guide.fidelity.full_reference import UNITS
from restoration_guide.fidelity.measure import TERMS
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING

if TYPE_CHECKING:
    from restoration_guide.fidelity.measure import Fidelity
    from restoration_guide.search.selection import Index, Row, Selection

ACRONYMS = frozenset({"psnr", "ssim", "ms", "lpips", "dists", "rms", "dwt", "ll", "nfe", "niqe"})

RATINGS = frozenset({"gain", "second_rating"})
"""Keys of figures in rating units, which are shown like ratings."""


class Column(NamedTuple):
    """A column of figures."""

    key: str
    heading: str
    title: str
    """Unit and direction; empty where they are not known."""
    digits: int
    """Digits after the point, the same for the whole column so that figures compare."""


def columns(
    rows: Sequence[Mapping[str, Any]],
    terms: Mapping[str, Mapping[str, str]],
    without: Iterable[str] = (),
) -> list[Column]:
    """A column for every key under which at least one row has a number, in order of appearance.

    Args:
        rows: records; None stands for a figure that a row does not have.
        terms: name → unit and direction of those that have them.
        without: keys that are shown in another way.
    """
    shown = []
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row[key] for row in rows if _is_number(row.get(key))]
        if values and key not in without:
            title = ", ".join(terms.get(key, {}).values())
            digits = 2 if key in RATINGS else digits_for(values)
            shown.append(Column(key, heading(key), title, digits))
    return shown


def term_notes() -> dict[str, dict[str, str]]:
    """Unit and direction of every figure that has them."""
    notes = {**TERMS, **UNITS, "consensus_distance": TERMS["low_pass_distance"]}
    return {name: {"unit": unit, "direction": to} for name, (unit, to) in notes.items()}


def heading(key: str) -> str:
    """A field's name as words: ``degraded_psnr`` → ``degraded PSNR``."""
    return " ".join(word.upper() if word in ACRONYMS else word for word in key.split("_"))


def digits_for(values: Iterable[float]) -> int:
    """Digits after the point: none for whole numbers, two from 1 on, four places below, up to 6."""
    values = list(values)
    if all(isinstance(value, int) for value in values):
        return 0
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0 or largest >= 1:
        return 2
    return min(3 - math.floor(math.log10(largest)), 6)


def figure(value: float | None, digits: int = 2) -> str:
    """A number; an en dash for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def rating_share(rating: float | None) -> float:
    """Place of a rating on the scale from 1 to 5, in percent."""
    if rating is None or not math.isfinite(rating):
        return 0.0
    return round(100 * min(max((rating - MIN_RATING) / (MAX_RATING - MIN_RATING), 0), 1), 1)


def name_of(index: Index) -> str:
    """``candidate 3``; what is neither a candidate nor the input has a word of its own."""
    return f"candidate {index}" if isinstance(index, int) else str(index)


def outcome_in_words(selection: Selection) -> str:
    """``candidate 3 of 8 chosen, rating 3.29 → 3.89``, or that the input was kept."""
    before, after = selection.row("input"), selection.row(selection.choice)
    if selection.choice == "input":
        return f"input kept, {rating_in_words(before)}"
    count = sum(isinstance(row.index, int) for row in selection.rows)
    return (
        f"{name_of(selection.choice)} of {count} chosen, "
        f"rating {before.rating:.2f} → {after.rating:.2f}"
    )


def rating_in_words(row: Row) -> str:
    """``rating 3.29 ± 0.46``, or that there is no judgement."""
    if math.isnan(row.rating):
        return "not judged"
    return f"rating {row.rating:.2f} ± {row.rating_std:.2f}"


def fidelity_in_words(fidelity: Fidelity) -> str:
    """Every term that was measured, ``low pass distance 0.00494, degraded PSNR 41.9 dB``."""
    words = []
    for key, value in fidelity.to_dict().items():
        if value is not None:
            unit = " dB" if TERMS[key][0].startswith("dB") else ""
            words.append(f"{heading(key)} {value:.3g}{unit}")
    return ", ".join(words)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
