"""The judge's reply: free text in, a typed answer or a named error out, in linear time.

A reply ends in ``<answer>{"bbox_2d": [x1, y1, x2, y2], "rating": 3.56, "tool": "crop"}</answer>``
(Zoom-IQA, arXiv 2601.02918). The answer that counts is the last one after the last ``</think>``:
an answer quoted while thinking, inside a string or ahead of the real one never counts.

What the released parser accepts is accepted, with these departures: the last answer wins, not the
first; relaxed JSON only with ``repair=True``; booleans, NaN and infinities, digits grouped by
underscores, integers beyond the range of floats, repeated keys and tools that are neither text nor
null are errors. The four sections of the reasoning are read by
:mod:`zoomiqa_core.zoom_iqa.reasoning`.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from zoomiqa_core.assessment import BBox

AnswerErrorCode = Literal[
    "missing_answer", "malformed_json", "invalid_rating", "invalid_bbox", "invalid_tool"
]
Tool = Literal["crop", "final"]

OPEN, CLOSE, END_OF_THOUGHT = "<answer>", "</answer>", "</think>"
MAX_ANSWER_CHARS = 16_384
"""A longer answer is malformed; a real one has about a hundred characters."""
MAX_REPAIR_CHARS = 2_048
"""Longer text is not repaired: the repair takes more than linear time."""
MAX_NESTED_TAGS = 8
"""How many ``<answer>`` may stand inside the strings of the answer."""
MAX_NUMBER_CHARS = 32

_KEYS: dict[str, AnswerErrorCode] = {
    "bbox_2d": "invalid_bbox",
    "rating": "invalid_rating",
    "tool": "invalid_tool",
}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class AnswerError(ValueError):
    """A reply without a usable answer; ``code`` names the reason."""

    def __init__(self, code: AnswerErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code: AnswerErrorCode = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True)
class Answer:
    """What the judge answered."""

    rating: float
    """As written, finite; usually 1–5. Clipped only where it becomes a score."""
    tool: Tool
    """What happens next: ``"crop"`` asks to see a region, ``"final"`` ends."""
    bbox: BBox | None = None
    """The region asked for, as written: shares of the image or pixels, corners in any order.

    None when the tool is final, and when what was written is not four numbers; the crop policy
    then shows the centre (:func:`zoomiqa_core.zoom_iqa.crop.crop_box`).
    """
    repaired: bool = False
    """The answer was not JSON and had to be repaired."""


class Route(NamedTuple):
    """Where an answer leads: its tool and its region, whatever its rating."""

    tool: Tool
    bbox: BBox | None


def parse_answer(text: str, *, last_round: bool = False, repair: bool = False) -> Answer:
    """Read the answer of a reply.

    Args:
        text: the whole reply.
        last_round: nothing follows this reply, so the rating alone is read: the tool is final and
            an unusable box or tool does no harm.
        repair: accept an answer that is almost JSON (single quotes, a trailing comma), if the reply
            holds no other answer it could be confused with. Needs ``json-repair``.

    Raises:
        AnswerError: there is no usable answer.
        ModuleNotFoundError: ``repair`` without ``json-repair``.
    """
    fields, repaired = answer_fields(text, repair=repair)
    rating = read_rating(fields)
    route = Route("final", None) if last_round else read_route(fields)
    return Answer(rating, route.tool, route.bbox, repaired)


def format_answer(rating: float, bbox: Sequence[float] | None = None) -> str:
    """An answer as the prompts ask for it; with a box it asks for a closer look at that region.

    Example:
        >>> format_answer(3.5)
        '<answer>{"bbox_2d": [0, 0, 0, 0], "rating": 3.50, "tool": "final"}</answer>'
    """
    box = "[0, 0, 0, 0]" if bbox is None else f"[{', '.join(f'{share:.2f}' for share in bbox)}]"
    tool = "final" if bbox is None else "crop"
    return f'{OPEN}{{"bbox_2d": {box}, "rating": {rating:.2f}, "tool": "{tool}"}}{CLOSE}'


def replace_answer(text: str, answer: str) -> str:
    """The reply with everything after its reasoning replaced by another answer."""
    end = text.rfind(END_OF_THOUGHT)
    if end >= 0:
        return f"{text[: end + len(END_OF_THOUGHT)]}\n{answer}"
    opened = text.rfind(OPEN)
    return f"{text if opened < 0 else text[:opened]}{answer}"


def answer_fields(text: str, *, repair: bool = False) -> tuple[dict[str, Any], bool]:
    """The JSON object of the last answer after the last ``</think>``; and: was it repaired?

    The object must reach up to the last ``</answer>``. At most one ``<answer>`` can begin such an
    object: of two, the later would stand outside every string of the earlier and break it.
    """
    repair_json = _repairer() if repair else None
    thought = text.rfind(END_OF_THOUGHT)
    start = 0 if thought < 0 else thought + len(END_OF_THOUGHT)
    end = text.rfind(CLOSE, start)
    opened = last = text.rfind(OPEN, start, end) if end >= 0 else -1
    if opened < 0:
        raise AnswerError(
            "missing_answer", f"expected {OPEN}{{…}}{CLOSE} after the reasoning, found none"
        )
    for _ in range(MAX_NESTED_TAGS + 1):
        if opened < 0:
            break
        fields = _strict_object(text, opened + len(OPEN), end)
        if fields is not None:
            return fields, False
        opened = text.rfind(OPEN, start, opened)
    head = text[last + len(OPEN) : end][:MAX_ANSWER_CHARS].lstrip()
    if not head.startswith("{"):
        raise AnswerError("missing_answer", f"the last answer holds no object: {_show(head)}")
    alone = text.count(OPEN) == 1 and text.count(CLOSE) == 1
    if repair_json and alone and end - last <= MAX_REPAIR_CHARS:
        fields = _repaired_object(repair_json, head)
        if fields is not None:
            return fields, True
    raise AnswerError("malformed_json", f"the last answer is not one JSON object: {_show(head)}")


def read_rating(fields: Mapping[str, Any]) -> float:
    """The rating of an answer's object: a finite number, or text that is one."""
    if "rating" not in fields:
        raise AnswerError("invalid_rating", 'the answer has no "rating"')
    rating = _number(fields["rating"])
    if rating is None:
        raise AnswerError(
            "invalid_rating", f"expected a finite number, got {_show(fields['rating'])}"
        )
    return rating


def read_route(fields: Mapping[str, Any]) -> Route:
    """Tool and region of an answer's object.

    A tool other than ``"final"`` asks for the region, unless the region is all zeros. All three
    keys must be there, though a tool may be null.
    """
    for key, code in _KEYS.items():
        if key not in fields:
            raise AnswerError(code, f'the answer has no "{key}"')
    tool, written = fields["tool"], fields["bbox_2d"]
    bbox = read_bbox(written)
    if tool is not None and not isinstance(tool, str):
        raise AnswerError("invalid_tool", f'expected "crop" or "final", got {_show(tool)}')
    nothing = isinstance(written, list) and not any(isinstance(v, str) or v for v in written)
    return Route("final", None) if tool == "final" or nothing else Route("crop", bbox)


def read_bbox(written: object) -> BBox | None:
    """Four finite numbers, or None for a list or text that is not a box.

    Raises:
        AnswerError: ``invalid_bbox``, for anything but a list or text, and for a list with
            booleans, NaN, infinities or integers too large for a float.
    """
    if isinstance(written, str):
        return None
    if not isinstance(written, list):
        raise AnswerError("invalid_bbox", f"expected [x1, y1, x2, y2], got {_show(written)}")
    numbers = [_number(value) for value in written]
    for value, number in zip(written, numbers, strict=True):
        if number is None and isinstance(value, (bool, int, float)):
            raise AnswerError("invalid_bbox", f"expected four finite numbers, got {_show(written)}")
    x1, y1, x2, y2 = numbers if len(numbers) == 4 else (None,) * 4
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return None
    return x1, y1, x2, y2


def _number(value: object) -> float | None:
    """A finite float, from a JSON number or from text written like one; None for all else."""
    if isinstance(value, str):
        value = value.strip() if len(value) <= MAX_NUMBER_CHARS else ""
        number = float(value) if _NUMBER.fullmatch(value) else math.nan
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
    else:
        return None
    return number if math.isfinite(number) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise AnswerError("malformed_json", "a key of the answer is there twice")
    return fields


# Integers become floats at once: Python's own limit on their digits would be another error.
_STRICT = json.JSONDecoder(parse_int=float, parse_constant=float, object_pairs_hook=_unique)


def _strict_object(text: str, start: int, end: int) -> dict[str, Any] | None:
    if end - start > MAX_ANSWER_CHARS:
        return None
    try:
        value = _STRICT.decode(text[start:end])
    except AnswerError:
        raise
    except (ValueError, RecursionError):  # RecursionError: brackets nested too deep
        return None
    return value if isinstance(value, dict) else None


def _repairer() -> Any:
    try:
        from json_repair import repair_json
    except ImportError as error:
        raise ModuleNotFoundError(
            "repair=True needs json-repair: pip install 'zoomiqa-restoration-guide[repair]'",
            name="json_repair",
        ) from error
    return repair_json


def _repaired_object(repair_json: Any, body: str) -> dict[str, Any] | None:
    try:
        value = repair_json(body, return_objects=True, skip_json_loads=True)
    except Exception:  # whatever the repair stumbles over, the answer stays malformed
        return None
    return value if isinstance(value, dict) and value else None


def _show(value: object) -> str:
    return reprlib.repr(value)
