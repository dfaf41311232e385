"""A grounded rationale: what a judge should write about one image, round by round (GR-IQA).

The schema follows Zoom-IQA's training data (arXiv 2601.02918): each round has four sections, a
rating, and either a region to zoom into or the end. A round is refused unless parsing its text
gives back every field, so data, model and parser stay consistent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox, check_bbox
from zoomiqa_core.zoom_iqa.answer import (
    CLOSE,
    END_OF_THOUGHT,
    OPEN,
    Tool,
    format_answer,
    parse_answer,
)
from zoomiqa_core.zoom_iqa.reasoning import START_OF_THOUGHT, parse_reasoning

SECTIONS = ("summary", "directions", "issues", "decision")
FIRST_HEADINGS = (
    "Image Quality Summary",
    "Directions for Improvement",
    "Issues to Avoid",
    "Decision & Rationale",
)
LATER_HEADINGS = ("Crop Inspection Summary", *FIRST_HEADINGS[1:3], "Final Decision & Rationale")
NOTHING = "None."
"""Text of an empty section."""


class RecordError(ValueError):
    """A record that cannot be used; ``field`` names the wrong part."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@contextmanager
def inside(part: str, joint: str = ".") -> Iterator[None]:
    """Prefix errors with the part of a record, or the record, in which they occur."""
    try:
        yield
    except RecordError as error:
        raise RecordError(f"{part}{joint}{error.field}", error.message) from None


@dataclass(frozen=True)
class GRIQARound:
    """One round: what the judge writes, and what it asks for next.

    >>> GRIQARound("Soft.", "Crisp edges.", "Blur.", "Unsure.", 2.5, "crop", (0.1, 0.1, 0.6, 0.5))
    GRIQARound(summary='Soft.', ...)
    >>> GRIQARound("Soft.", "Crisp edges.", "Blur.", "Sure.", 7.0, "final")
    Traceback (most recent call last):
    zoomiqa_core.data.gr_iqa.rationale.RecordError: rating: expected a number from 1 to 5, got 7.0
    """

    summary: str
    """*Image Quality Summary*, in later rounds *Crop Inspection Summary*. Like every section a
    single line; empty if there is nothing to say."""
    directions: str
    """How an ideal version looks and where, in positive words."""
    issues: str
    """What is wrong, and where."""
    decision: str
    """Reason for the rating, and what a closer look would show or has shown."""
    rating: float
    """1–5, with two decimals."""
    tool: Tool
    bbox: BBox | None = None
    """Requested region, normalised, with two decimals; None if the tool is final."""

    def __post_init__(self) -> None:
        for section in SECTIONS:
            _check_text(section, getattr(self, section))
        _check_rating("rating", self.rating)
        if self.rating != round(self.rating, 2):
            raise RecordError("rating", f"{self.rating!r} is written with two decimals: round it")
        if self.tool not in ("crop", "final"):
            raise RecordError("tool", f'expected "crop" or "final", got {self.tool!r}')
        if (self.tool == "crop") != (self.bbox is not None):
            raise RecordError("bbox", f"expected a box for crop, None for final, got {self.bbox}")
        if self.bbox is not None:
            _check_box("bbox", self.bbox)
            if tuple(self.bbox) != tuple(round(share, 2) for share in self.bbox):
                raise RecordError("bbox", f"{self.bbox} is written with two decimals: round it")
        _check_reads_back(self)


@dataclass(frozen=True)
class GRIQARegion:
    """A region, and the judge's reply when asked to rate that region alone."""

    bbox: BBox
    """Normalised; shown exactly (:func:`zoomiqa_core.zoom_iqa.crop.region_box`)."""
    reply: GRIQARound
    """With the region's rating; its tool is final."""

    def __post_init__(self) -> None:
        _check_box("bbox", self.bbox)
        if self.reply.tool != "final":
            raise RecordError("reply.tool", "the reply about a region is final")


@dataclass(frozen=True)
class GRIQARecord:
    """One image with its label and, if there is one, its rationale.

    >>> record = GRIQARecord("a.png", "How good?", (), mos=4.2, image_id="a",
    ...                      provenance={"label": "human"})
    >>> record.mos, record.label_source
    (4.2, 'human')
    """

    image: str
    """Path inside the ``images`` folder, with forward slashes."""
    question: str
    rounds: tuple[GRIQARound, ...]
    """All but the last ask for a crop; empty for a record with a label only."""
    mos: float
    """The label, 1–5, higher is better."""
    image_id: str
    """Identifies the image: roll-outs are grouped by it."""
    region_truth: tuple[BBox, ...] = ()
    """Boxes of the damage, normalised; empty if unknown or everywhere."""
    regions: tuple[GRIQARegion, ...] = ()
    """Replies about single regions; they need rounds, as the judge rates the whole image first."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where image, label and text come from, as JSON values."""

    @property
    def label_source(self) -> str:
        """Where ``mos`` comes from; empty if the provenance does not say.

        Labels of different sources are on different scales: do not rank them together.
        """
        return str(self.provenance.get("label", ""))

    def __post_init__(self) -> None:
        _check_text("image", self.image, needed=True)
        path = PurePosixPath(self.image)
        if path.is_absolute() or ".." in path.parts or "\\" in self.image:
            raise RecordError("image", f"{self.image!r} is not a path inside the images folder")
        _check_text("question", self.question, needed=True)
        _check_text("image_id", self.image_id, needed=True)
        _check_rating("mos", self.mos)
        for number, look in enumerate(self.rounds):
            tool = "final" if number == len(self.rounds) - 1 else "crop"
            if look.tool != tool:
                raise RecordError(
                    f"rounds[{number}].tool",
                    f"round {number + 1} of {len(self.rounds)} has the tool {tool!r}, "
                    f"got {look.tool!r}",
                )
        for number, box in enumerate(self.region_truth):
            _check_box(f"region_truth[{number}]", box)
        if self.regions and not self.rounds:
            raise RecordError("regions", "a region is rated after the whole image: give rounds")


def reply_text(look: GRIQARound, number: int = 1) -> str:
    """The exact text that a model should write in a round.

    >>> only = GRIQARound("Sharp.", "Clear detail.", "", "Good.", 4.25, "final")
    >>> print(reply_text(only))
    <think>
    Image Quality Summary: Sharp.
    Directions for Improvement: Clear detail.
    Issues to Avoid: None.
    Decision & Rationale: Good.
    </think>
    <answer>{"bbox_2d": [0, 0, 0, 0], "rating": 4.25, "tool": "final"}</answer>

    Args:
        look: the round.
        number: from 1; later rounds have other headings. A region's reply is a later round.
    """
    if number < 1:
        raise ValueError(f"rounds are numbered from 1, got {number}")
    headings = FIRST_HEADINGS if number == 1 else LATER_HEADINGS
    lines = [
        f"{heading}: {getattr(look, section) or NOTHING}"
        for heading, section in zip(headings, SECTIONS, strict=True)
    ]
    answer = format_answer(look.rating, look.bbox)
    return "\n".join([START_OF_THOUGHT, *lines, END_OF_THOUGHT, answer])


def round_from_reply(text: str, size: tuple[int, int], *, last: bool = False) -> GRIQARound:
    """Parse a model's reply into a round, numbers rounded to two decimals.

    Args:
        text: the whole reply.
        size: (width, height) of the image, for a box written in pixels.
        last: whether it is the reply of the last round.

    Raises:
        AnswerError: the reply has no usable answer.
        RecordError: its rating is off the scale, or its box or text is not valid.
    """
    answer, said = parse_answer(text, last_round=last), parse_reasoning(text)
    words = {section: " ".join(getattr(said, section)) for section in SECTIONS}
    box = answer.bbox
    if answer.tool == "crop" and box is None:
        raise RecordError("bbox", "the reply asks for a crop without a box")
    if box is not None:
        scale = (1, 1) if all(0 <= value <= 1 for value in box) else size
        x0, x1 = sorted(_share(value, scale[0]) for value in box[::2])
        y0, y1 = sorted(_share(value, scale[1]) for value in box[1::2])
        box = (x0, y0, x1, y1)
    return GRIQARound(**words, rating=round(answer.rating, 2), tool=answer.tool, bbox=box)


def _share(value: float, length: int) -> float:
    return round(min(max(value / length, 0.0), 1.0), 2)


def _check_text(name: str, text: object, *, needed: bool = False) -> None:
    if not isinstance(text, str):
        raise RecordError(name, f"expected text, got {text!r:.60}")
    if text != " ".join(text.split()):
        raise RecordError(name, f"expected one line with single spaces, got {text!r:.60}")
    if needed and not text:
        raise RecordError(name, "is empty")
    for tag in (START_OF_THOUGHT, END_OF_THOUGHT, OPEN, CLOSE):
        if tag in text:
            raise RecordError(name, f"contains {tag}, which delimits a part of the reply")


def _check_rating(name: str, rating: Any) -> None:
    number = isinstance(rating, (int, float)) and not isinstance(rating, bool)
    if not (number and MIN_RATING <= rating <= MAX_RATING):  # NaN is neither
        raise RecordError(name, f"expected a number from 1 to 5, got {rating!r}")


def _check_box(name: str, box: object) -> None:
    try:
        check_bbox(box)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise RecordError(
            name, f"expected normalised (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {box!r}"
        ) from None


def _check_reads_back(look: GRIQARound) -> None:
    said = dataclasses.asdict(parse_reasoning(reply_text(look)))
    for section in SECTIONS:
        read = " ".join(said[section])
        if read != getattr(look, section):
            raise RecordError(
                section, f"{getattr(look, section)!r:.60} would be read as {read!r:.60}; reword it"
            )
