"""The strict grammar of a reply, for the format reward; the parser itself forgives more."""

from __future__ import annotations

from collections.abc import Sequence

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.zoom_iqa.answer import CLOSE, END_OF_THOUGHT, OPEN, AnswerError, answer_fields
from zoomiqa_core.zoom_iqa.reasoning import HEADINGS, START_OF_THOUGHT

_LATER = ("crop inspection summary", "final decision & rationale")
_FIRST_HEADINGS = [heading for heading in HEADINGS if heading not in _LATER]
_LATER_HEADINGS = [_LATER[0], *_FIRST_HEADINGS[1:3], _LATER[1]]


def is_well_formed(reply: str, *, first: bool, last: bool) -> bool:
    """Whether a reply is written as the prompts ask.

    It is ``<think>``, the four headings of its round in order, each beginning a line and with words
    under it, ``</think>``, and one ``<answer>`` with exactly the keys ``bbox_2d``, ``rating`` (1–5)
    and ``tool``: ``"final"`` with four zeros, or ``"crop"`` with a box inside the image. Nothing
    else stands around them.

    Args:
        reply: the whole text.
        first: of the first round, whose headings differ from those of later ones.
        last: nothing follows, so it cannot ask for a crop.
    """
    text = reply.strip()
    if any(text.count(tag) != 1 for tag in (START_OF_THOUGHT, END_OF_THOUGHT, OPEN, CLOSE)):
        return False
    thought, _, rest = text.partition(END_OF_THOUGHT)
    rest = rest.strip()
    if not thought.startswith(START_OF_THOUGHT) or not rest.startswith(OPEN):
        return False
    if not rest.endswith(CLOSE):
        return False
    headings = _FIRST_HEADINGS if first else _LATER_HEADINGS
    return _has_sections(thought[len(START_OF_THOUGHT) :], headings) and _well_answered(text, last)


def _has_sections(thought: str, headings: Sequence[str]) -> bool:
    """The headings, each beginning a line, in this order, and words under each; no others."""
    found: list[str] = []
    words: list[str] = []
    for line in thought.strip().splitlines():
        head, colon, rest = line.partition(":")
        title = head.strip().lower()
        if colon and title in HEADINGS:
            found.append(title)
            words.append(rest.strip())
        elif not found:
            return False
        else:
            words[-1] += line.strip()
    return found == list(headings) and all(words)


def _well_answered(text: str, last: bool) -> bool:
    try:
        fields, _ = answer_fields(text)
    except AnswerError:
        return False
    if set(fields) != {"bbox_2d", "rating", "tool"}:
        return False
    rating, box, tool = fields["rating"], fields["bbox_2d"], fields["tool"]
    if not isinstance(rating, float) or not MIN_RATING <= rating <= MAX_RATING:
        return False
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, float) for v in box):
        return False
    if tool == "final":
        return not any(box)
    x0, y0, x1, y1 = box
    return tool == "crop" and not last and 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
