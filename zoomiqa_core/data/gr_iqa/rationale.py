"""A grounded rationale: what a judge should write about one image, round by round (GR-IQA).

The schema of Zoom-IQA's training data (arXiv 2601.02918) in our own words: each round has four
sections, a rating, and either a region to look at or the end. What a record holds is exactly what
its text says: a round is refused unless reading its reply gives back every field, so that data,
model and parser cannot drift apart.
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
"""What stands under the heading of an empty section."""


class RecordError(ValueError):
    """A record that cannot be used; ``field`` names the part that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@contextmanager
def inside(part: str, joint: str = ".") -> Iterator[None]:
    """Name the part of a record, or the record, in which an error arises."""
    try:
        yield
    except RecordError as error:
        raise RecordError(f"{part}{joint}{error.field}", error.message) from None


@dataclass(frozen=True)
class GRIQARound:
    """One look: what the judge writes, and what it asks for next."""

    summary: str
    """*Image Quality Summary*, in later rounds *Crop Inspection Summary*. Like every section a
    single line of text; empty when there is nothing to say."""
    directions: str
    """How an ideal version looks, in positive words and with its place."""
    issues: str
    """What is wrong, and where."""
    decision: str
    """Why this rating, and what a closer look would settle or has settled."""
    rating: float
    """1–5 with two decimals, as it is written."""
    tool: Tool
    bbox: BBox | None = None
    """The region asked for, normalised, with two decimals; None when the tool is final."""

    def __post_init__(self) -> None:
        for section in SECTIONS:
            _check_text(section, getattr(self, section))
        _check_rating("rating", self.rating)
        if self.rating != round(self.rating, 2):
            raise RecordError("rating", f"{self.rating!r} is written with two decimals: round it")
        if self.tool not in ("crop", "final"):
            raise RecordError("tool", f'expected "crop" or "final", got {self.tool!r}')
        if (self.tool == "crop") != (self.bbox is not None):
            raise RecordError("bbox", f"a crop has a box and a final has none, got {self.bbox}")
        if self.bbox is not None:
            _check_box("bbox", self.bbox)
            if tuple(self.bbox) != tuple(round(share, 2) for share in self.bbox):
                raise RecordError("bbox", f"{self.bbox} is written with two decimals: round it")
        _check_reads_back(self)


@dataclass(frozen=True)
class GRIQARegion:
    """A region and what the judge writes when asked for the rating of that region alone."""

    bbox: BBox
    """Normalised; shown as it is (:func:`zoomiqa_core.zoom_iqa.crop.region_box`)."""
    reply: GRIQARound
    """Its tool is final and its rating the region's."""

    def __post_init__(self) -> None:
        _check_box("bbox", self.bbox)
        if self.reply.tool != "final":
            raise RecordError("reply.tool", "the reply about a region is final")


@dataclass(frozen=True)
class GRIQARecord:
    """One image, what people or its damage say of it, and a rationale if there is one."""

    image: str
    """Path inside the ``images`` folder, with forward slashes."""
    question: str
    rounds: tuple[GRIQARound, ...]
    """Every one but the last asks for a crop. Empty: labels only."""
    mos: float
    """The label, 1–5, higher is better."""
    image_id: str
    """Same image, same id: what groups of roll-outs are ranked by."""
    region_truth: tuple[BBox, ...] = ()
    """True boxes of the damage, normalised; empty when unknown or everywhere."""
    regions: tuple[GRIQARegion, ...] = ()
    """Replies about single regions; they need rounds, as the judge looks at the whole first."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where image, label and words come from, as JSON."""

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
            raise RecordError("image", f"{self.image!r} is no path inside the images folder")
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
            raise RecordError("regions", "a region is shown after a first look: give rounds")


def reply_text(look: GRIQARound, number: int = 1) -> str:
    """What the model should write in a round, to the letter.

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
    """The round a model's reply amounts to, its numbers rounded to what our replies write.

    Args:
        text: the whole reply.
        size: (width, height) of the image, for a box written in pixels.
        last: the reply of a round after which nothing follows.

    Raises:
        AnswerError: the reply has no usable answer.
        RecordError: its rating leaves the scale, its box is no region, or its words do not fit.
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
            raise RecordError(name, f"holds {tag}, which ends or begins a part of the reply")


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
