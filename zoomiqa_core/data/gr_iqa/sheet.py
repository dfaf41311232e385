"""A contact sheet of records: images with boxes, ratings and the beginning of their text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord

ASKED, TRUE = (255, 200, 0), (0, 220, 255)
"""Colours of requested and of true boxes."""
PICTURE, TEXT, COLUMNS = 300, 150, 4
"""Longest side of an image and height of its text, pixels; images a row."""


def contact_sheet(records: Sequence[GRIQARecord], images: Sequence[Image.Image]) -> Image.Image:
    """Draw records four a row: requested boxes in yellow, true ones in blue.

    Below each: its label, the ratings of its rounds and the beginning of their text.

    >>> from zoomiqa_core.data.gr_iqa.rationale import GRIQARound
    >>> look = GRIQARound("Slightly soft.", "Crisp edges.", "Blur.", "Sure.", 3.5, "final")
    >>> record = GRIQARecord("a.png", "How good?", (look,), mos=3.6, image_id="a")
    >>> contact_sheet([record], [Image.new("RGB", (96, 64))]).size
    (300, 450)

    Args:
        records: at least one.
        images: of the records, in the same order.
    """
    if not records:
        raise ValueError("expected at least one record to draw")
    rows = -(-len(records) // COLUMNS)
    size = (min(len(records), COLUMNS) * PICTURE, rows * (PICTURE + TEXT))
    sheet = Image.new("RGB", size, "white")
    font = ImageFont.load_default(11)
    for index, (record, image) in enumerate(zip(records, images, strict=True)):
        left, top = index % COLUMNS * PICTURE, index // COLUMNS * (PICTURE + TEXT)
        scale = (PICTURE - 6) / max(image.size)
        small = image.resize((round(image.width * scale), round(image.height * scale)))
        pen = ImageDraw.Draw(small)
        for box in record.region_truth:
            _outline(pen, box, small.size, TRUE)
        for look in record.rounds:
            if look.bbox:
                _outline(pen, look.bbox, small.size, ASKED)
        sheet.paste(small, (left + 3, top + 3))
        pen = ImageDraw.Draw(sheet)
        pen.multiline_text((left + 4, top + PICTURE), _words(record), "black", font, spacing=1)
    return sheet


def _words(record: GRIQARecord) -> str:
    ratings = " > ".join(f"{look.rating:.2f}" for look in record.rounds)
    lines = [f"label {record.mos:.2f}   rounds {ratings}"]
    for look in record.rounds:
        lines += textwrap.wrap(f"{look.summary} {look.decision}", 52)
    return "\n".join(lines[:11])


def _outline(
    pen: ImageDraw.ImageDraw, box: BBox, size: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    corners = [share * length for share, length in zip(box, size * 2, strict=True)]
    pen.rectangle([min(c, s - 2) for c, s in zip(corners, size * 2, strict=True)], None, colour, 2)
