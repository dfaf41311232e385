"""Parsing of a judge's reasoning into the sentences of its four sections.

Zoom-IQA (arXiv 2601.02918) reasons under four headings before it answers; the second and third
section are what a text-guided restorer should do and avoid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zoomiqa_core.zoom_iqa.answer import END_OF_THOUGHT, OPEN

Sentences = tuple[str, ...]

START_OF_THOUGHT = "<think>"
HEADINGS = {
    "image quality summary": "summary",
    "crop inspection summary": "summary",
    "directions for improvement": "directions",
    "issues to avoid": "issues",
    "decision & rationale": "decision",
    "final decision & rationale": "decision",
}
"""Headings of the first and of later rounds, in lower case, and their fields."""

MAX_HEADING_CHARS = 100
_DECORATION = " \t#*_>-•.):0123456789"
_NOTHING = {"", "none", "n/a", "na", "nothing", "...", "[...]"}
_NEXT_SENTENCE = re.compile(r"(?<=[.!?]) (?=[\"'“‘(\[]?[A-Z])")
_BULLET = re.compile(r"(?:[-*•]|[0-9]{1,2}[.)]) ")


@dataclass(frozen=True)
class Reasoning:
    """Sentences of each section; empty for a missing section.

    >>> Reasoning(issues=("Noise in the sky.",)).directions
    ()
    """

    summary: Sentences = ()
    """*Image Quality Summary*; in later rounds *Crop Inspection Summary*."""
    directions: Sentences = ()
    """*Directions for Improvement*: what the image should look like."""
    issues: Sentences = ()
    """*Issues to Avoid*: what is wrong and where."""
    decision: Sentences = ()
    """*Decision & Rationale*; in later rounds *Final Decision & Rationale*."""


def parse_reasoning(text: str) -> Reasoning:
    """Parse the sections of a reply; text without a heading is ignored, nothing is raised.

    A heading is at the start of a line, in any case, optionally numbered, bold or followed by a
    remark in brackets, and ends with a colon or the line. Sections with the same heading are
    joined.

    >>> parse_reasoning("**Issues to Avoid:** Noise in the sky. Blocks at edges.</think>").issues
    ('Noise in the sky.', 'Blocks at edges.')
    """
    paragraphs: dict[str, list[str]] = {}
    section = None
    for line in _thought(text).splitlines():
        words = " ".join(line.split())
        field, rest = _heading(words)
        if field:
            section, words = field, rest
            paragraphs.setdefault(section, []).append("")
        if section and words:
            _append(paragraphs[section], words)
    return Reasoning(**{name: _sentences(parts) for name, parts in paragraphs.items()})


def _thought(text: str) -> str:
    """The text before the last ``</think>``, or else before the last answer."""
    end = text.rfind(END_OF_THOUGHT)
    end = text.rfind(OPEN) if end < 0 else end
    thought = text if end < 0 else text[:end]
    start = thought.find(START_OF_THOUGHT)
    return thought if start < 0 else thought[start + len(START_OF_THOUGHT) :]


def _heading(line: str) -> tuple[str | None, str]:
    head, _, rest = line.partition(":")
    if len(head) > MAX_HEADING_CHARS:
        return None, line
    title = head.partition("(")[0].strip(_DECORATION).lower().replace(" and ", " & ")
    return HEADINGS.get(title), rest.lstrip(" *_")


def _append(paragraphs: list[str], line: str) -> None:
    """Append a line to the last paragraph; a bullet starts a new one."""
    bullet = _BULLET.match(line)
    if bullet:
        paragraphs.append(line[bullet.end() :])
    else:
        paragraphs[-1] = f"{paragraphs[-1]} {line}".strip()


def _sentences(paragraphs: list[str]) -> Sentences:
    sentences = (sentence for part in paragraphs for sentence in _NEXT_SENTENCE.split(part))
    return tuple(sentence for sentence in sentences if sentence.rstrip(".").lower() not in _NOTHING)
