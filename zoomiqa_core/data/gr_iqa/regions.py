"""Image regions: their names ("the upper left"), the boxes these stand for, and box overlap.

Teachers write with these names, and :mod:`zoomiqa_core.data.gr_iqa.claims` checks a sentence inside
the region that it names.
"""

from __future__ import annotations

from zoomiqa_core.assessment import BBox

NAMED_REGIONS: dict[str, BBox] = {
    "the upper left": (0.0, 0.0, 0.5, 0.5),
    "the top": (0.25, 0.0, 0.75, 0.5),
    "the upper right": (0.5, 0.0, 1.0, 0.5),
    "the left side": (0.0, 0.25, 0.5, 0.75),
    "the centre": (0.25, 0.25, 0.75, 0.75),
    "the right side": (0.5, 0.25, 1.0, 0.75),
    "the lower left": (0.0, 0.5, 0.5, 1.0),
    "the bottom": (0.25, 0.5, 0.75, 1.0),
    "the lower right": (0.5, 0.5, 1.0, 1.0),
}
"""Normalised box of each named region, row by row."""
WHOLE_FRAME = "the whole frame"
MOST_OF_FRAME = "most of the frame"
MOST_AREA = 0.6
"""Share of the frame above which a box is called ``MOST_OF_FRAME``."""
MIDDLE = (0.42, 0.58)
"""A box whose centre lies in this range of an axis is central along that axis."""


def region_name(bbox: BBox | None) -> str:
    """The name of a region, chosen by its centre; large boxes are called "most of the frame".

    >>> region_name((0.1, 0.1, 0.3, 0.3)), region_name((0.3, 0.0, 0.7, 0.5)), region_name(None)
    ('the upper left', 'the top', 'the whole frame')
    """
    if bbox is None:
        return WHOLE_FRAME
    x0, y0, x1, y1 = bbox
    if (x1 - x0) * (y1 - y0) > MOST_AREA:
        return MOST_OF_FRAME
    column, row = (sum((a + b) / 2 > limit for limit in MIDDLE) for a, b in ((x0, x1), (y0, y1)))
    return list(NAMED_REGIONS)[3 * row + column]


def in_region(name: str) -> str:
    """The name with its preposition, for a sentence.

    >>> in_region("the centre"), in_region("the top"), in_region("the left side")
    ('in the centre', 'at the top', 'on the left side')
    """
    if name in (WHOLE_FRAME, MOST_OF_FRAME):
        return f"across {name}"
    if name in ("the top", "the bottom"):
        return f"at {name}"
    return f"{'on' if name.endswith('side') else 'in'} {name}"


def box_iou(a: BBox, b: BBox) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1); 0 if they do not overlap.

    >>> box_iou((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0))
    0.3333333333333333
    """
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    shared = width * height
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    return shared / (areas - shared) if shared else 0.0
