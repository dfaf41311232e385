"""Formatting of numbers and results for reports: headings, digits, ratings, fidelity."""

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

RATINGS = frozenset({"gain", "gain_std", "second_rating"})
"""Keys of values in rating units, which are formatted like ratings."""


class Column(NamedTuple):
    """A column of a report's table."""

    key: str
    heading: str
    title: str
    """Unit and direction; empty where unknown."""
    digits: int
    """Digits after the point, the same for the whole column."""


def columns(
    rows: Sequence[Mapping[str, Any]],
    terms: Mapping[str, Mapping[str, str]],
    without: Iterable[str] = (),
) -> list[Column]:
    """The columns of a table: every key with at least one number, in order of appearance.

    >>> rows = [{"degraded_psnr": 31.4, "nfe": 4}, {"degraded_psnr": None, "nfe": 8}]
    >>> [(column.heading, column.digits) for column in columns(rows, {})]
    [('degraded PSNR', 2), ('NFE', 0)]

    Args:
        rows: records; None where a row does not have the value.
        terms: name → unit and direction, where known.
        without: keys to leave out.
    """
    result = []
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row[key] for row in rows if _is_number(row.get(key))]
        if values and key not in without:
            title = ", ".join(terms.get(key, {}).values())
            digits = 2 if key in RATINGS else digits_for(values)
            result.append(Column(key, heading(key), title, digits))
    return result


def term_notes() -> dict[str, dict[str, str]]:
    """Unit and direction of fidelity terms and full-reference metrics.

    >>> term_notes()["degraded_psnr"]
    {'unit': 'dB, at most 100', 'direction': 'higher is better'}
    """
    notes = {**TERMS, **UNITS, "consensus_distance": TERMS["low_pass_distance"]}
    return {name: {"unit": unit, "direction": to} for name, (unit, to) in notes.items()}


def heading(key: str) -> str:
    """Heading of a field.

    >>> heading("degraded_psnr")
    'degraded PSNR'
    """
    return " ".join(word.upper() if word in ACRONYMS else word for word in key.split("_"))


def digits_for(values: Iterable[float]) -> int:
    """Digits after the point: 0 for integers, 2 from 1 on, four significant ones below, at most 6.

    >>> digits_for([3, 8]), digits_for([31.4]), digits_for([0.0049])
    (0, 2, 6)
    """
    values = list(values)
    if all(isinstance(value, int) for value in values):
        return 0
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0 or largest >= 1:
        return 2
    return min(3 - math.floor(math.log10(largest)), 6)


def figure(value: float | None, digits: int = 2) -> str:
    """Format a number; an en dash for None, NaN and infinities.

    >>> figure(3.14159), figure(None)
    ('3.14', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def rating_share(rating: float | None) -> float:
    """Position of a rating between 1 and 5, in percent; 0 without a rating.

    >>> rating_share(3.0)
    50.0
    """
    if rating is None or not math.isfinite(rating):
        return 0.0
    return round(100 * min(max((rating - MIN_RATING) / (MAX_RATING - MIN_RATING), 0), 1), 1)


def name_of(index: Index) -> str:
    """Name of a row: a candidate by its number, others as they are called.

    >>> name_of(3), name_of("input")
    ('candidate 3', 'input')
    """
    return f"candidate {index}" if isinstance(index, int) else str(index)


def outcome_in_words(selection: Selection) -> str:
    """The choice: ``candidate 3 of 8 chosen, rating 3.29 → 3.89`` or ``input kept, rating …``."""
    after = selection.row(selection.choice)
    if selection.choice == "input":
        return f"input kept, {rating_in_words(after)}"
    count = sum(isinstance(row.index, int) for row in selection.rows)
    chosen = f"{name_of(selection.choice)} of {count} chosen"
    if selection.input is None:
        return f"{chosen}, {rating_in_words(after)}"
    before = selection.row("input")
    return f"{chosen}, rating {before.rating:.2f} → {after.rating:.2f}"


def rating_in_words(row: Row) -> str:
    """``rating 3.29 ± 0.46`` or ``not judged``."""
    if math.isnan(row.rating):
        return "not judged"
    return f"rating {row.rating:.2f} ± {row.rating_std:.2f}"


def fidelity_in_words(fidelity: Fidelity) -> str:
    """The measured terms: ``low pass distance 0.00494, degraded PSNR 41.9 dB``."""
    words = []
    for key, value in fidelity.to_dict().items():
        if value is not None:
            unit = " dB" if TERMS[key][0].startswith("dB") else ""
            words.append(f"{heading(key)} {value:.3g}{unit}")
    return ", ".join(words)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
