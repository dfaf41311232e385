"""Parsing of replies: from free text to a typed answer or a named error, in linear time.

A reply ends in ``<answer>{"bbox_2d": [x1, y1, x2, y2], "rating": 3.56, "tool": "crop"}</answer>``
(Zoom-IQA, arXiv 2601.02918). The last answer after the last ``</think>`` is read;
answers quoted in the reasoning, inside a string or before it are ignored.

Departures from the released parser: the last answer is read, not the first; relaxed JSON only with
``repair=True``; booleans, NaN and infinities, digits grouped by
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
"""Maximum length of an answer; real ones have about a hundred characters."""
MAX_REPAIR_CHARS = 2_048
"""Maximum length of a text to repair, since the repair takes more than linear time."""
MAX_NESTED_TAGS = 8
"""Maximum number of ``<answer>`` tags inside the strings of an answer."""
MAX_NUMBER_CHARS = 32

_KEYS: dict[str, AnswerErrorCode] = {
    "bbox_2d": "invalid_bbox",
    "rating": "invalid_rating",
    "tool": "invalid_tool",
}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class AnswerError(ValueError):
    """A reply without a usable answer; ``code`` names the reason.

    >>> try:
    ...     parse_answer("I cannot say.")
    ... except AnswerError as error:
    ...     print(error.code)
    missing_answer
    """

    def __init__(self, code: AnswerErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code: AnswerErrorCode = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True)
class Answer:
    """The answer of a reply.

    >>> Answer(3.5, "final")
    Answer(rating=3.5, tool='final', bbox=None, repaired=False)
    """

    rating: float
    """As written, finite; usually 1–5, not clipped."""
    tool: Tool
    """``"crop"`` requests a region, ``"final"`` ends the chain."""
    bbox: BBox | None = None
    """The requested region as written: fractions of the image or pixels, corners in any order.

    None when the tool is final, or the box is not four numbers; then the centre is shown
    (:func:`zoomiqa_core.zoom_iqa.crop.crop_box`).
    """
    repaired: bool = False
    """Whether the answer was not JSON and had to be repaired."""


class Route(NamedTuple):
    """Tool and region of an answer."""

    tool: Tool
    bbox: BBox | None


def parse_answer(text: str, *, last_round: bool = False, repair: bool = False) -> Answer:
    """Parse the answer of a reply.

    Args:
        text: the whole reply.
        last_round: read the rating alone; the tool is final, and an unusable box or tool is no
            error.
        repair: accept an answer that is almost JSON (single quotes, a trailing comma) if it is the
            only one in the reply. Needs ``json-repair``.

    Raises:
        AnswerError: there is no usable answer.
        ModuleNotFoundError: ``repair`` without ``json-repair``.

    >>> text = '<answer>{"bbox_2d": [0.1, 0, 0.6, 0.5], "rating": 3.56, "tool": "crop"}</answer>'
    >>> parse_answer(f"Noise in the sky.</think>{text}")
    Answer(rating=3.56, tool='crop', bbox=(0.1, 0.0, 0.6, 0.5), repaired=False)
    """
    fields, repaired = answer_fields(text, repair=repair)
    rating = read_rating(fields)
    route = Route("final", None) if last_round else read_route(fields)
    return Answer(rating, route.tool, route.bbox, repaired)


def format_answer(rating: float, bbox: Sequence[float] | None = None) -> str:
    """Write an answer in the form the prompts describe; with a box, it requests that region.

    >>> format_answer(3.5)
    '<answer>{"bbox_2d": [0, 0, 0, 0], "rating": 3.50, "tool": "final"}</answer>'
    """
    box = "[0, 0, 0, 0]" if bbox is None else f"[{', '.join(f'{side:.2f}' for side in bbox)}]"
    tool = "final" if bbox is None else "crop"
    return f'{OPEN}{{"bbox_2d": {box}, "rating": {rating:.2f}, "tool": "{tool}"}}{CLOSE}'


def replace_answer(text: str, answer: str) -> str:
    """The reply with everything after its reasoning replaced by another answer.

    >>> print(replace_answer("Sharp.</think> I rate it 4.", "<answer>{}</answer>"))
    Sharp.</think>
    <answer>{}</answer>
    """
    end = text.rfind(END_OF_THOUGHT)
    if end >= 0:
        return f"{text[: end + len(END_OF_THOUGHT)]}\n{answer}"
    opened = text.rfind(OPEN)
    return f"{text if opened < 0 else text[:opened]}{answer}"


def answer_fields(text: str, *, repair: bool = False) -> tuple[dict[str, Any], bool]:
    """The JSON object of the last answer after the last ``</think>``, and whether it was repaired.

    The object must extend to the last ``</answer>``. At most one ``<answer>`` starts such an
    object: of two, the later would be outside every string of the earlier and break its JSON.

    >>> answer_fields('</think><answer>{"rating": 3}</answer>')
    ({'rating': 3.0}, False)
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
        raise AnswerError("missing_answer", f"the last answer has no JSON object: {_show(head)}")
    alone = text.count(OPEN) == 1 and text.count(CLOSE) == 1
    if repair_json and alone and end - last <= MAX_REPAIR_CHARS:
        fields = _repaired_object(repair_json, head)
        if fields is not None:
            return fields, True
    raise AnswerError("malformed_json", f"the last answer is not one JSON object: {_show(head)}")


def read_rating(fields: Mapping[str, Any]) -> float:
    """The rating in an answer's object: a finite number, or a string with one.

    >>> read_rating({"rating": "3.5"})
    3.5
    """
    if "rating" not in fields:
        raise AnswerError("invalid_rating", 'the answer has no "rating"')
    rating = _number(fields["rating"])
    if rating is None:
        raise AnswerError(
            "invalid_rating", f"expected a finite number, got {_show(fields['rating'])}"
        )
    return rating


def read_route(fields: Mapping[str, Any]) -> Route:
    """Tool and region in an answer's object.

    A tool other than ``"final"`` requests the region, unless the region is all zeros. All three
    keys are required, though the tool may be null.

    >>> read_route({"rating": 3.5, "bbox_2d": [0, 0, 0, 0], "tool": "crop"})
    Route(tool='final', bbox=None)
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
    """Four finite numbers, or None for another list or a string.

    Raises:
        AnswerError: ``invalid_bbox``, for anything but a list or string, and for a list with
            booleans, NaN, infinities or integers too large for a float.

    >>> read_bbox(["0.1", 0, 0.5, 1]), read_bbox([1, 2])
    ((0.1, 0.0, 0.5, 1.0), None)
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
    """A finite float from a JSON number or a string with one; None for everything else."""
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
        raise AnswerError("malformed_json", "the answer has a key twice")
    return fields


# Integers become floats: Python's limit on their digits would raise another error.
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
