"""Names of regions: each box has one name, and a name leads back to its box."""

import pytest

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.regions import NAMED_REGIONS, box_iou, in_region, region_name

LOWER_RIGHT = (0.5, 0.5, 1.0, 1.0)


@pytest.mark.parametrize(
    ("box", "name", "phrase"),
    [
        (None, "the whole frame", "across the whole frame"),
        ((0.0, 0.1, 0.9, 0.9), "most of the frame", "across most of the frame"),
        ((0.0, 0.0, 0.3, 0.3), "the upper left", "in the upper left"),
        ((0.35, 0.0, 0.65, 0.3), "the top", "at the top"),
        ((0.7, 0.3, 1.0, 0.7), "the right side", "on the right side"),
        ((0.4, 0.4, 0.6, 0.6), "the centre", "in the centre"),
    ],
)
def test_a_box_is_named_by_its_centre(box: BBox | None, name: str, phrase: str) -> None:
    assert region_name(box) == name
    assert in_region(name) == phrase


def test_names_lead_back_to_their_boxes() -> None:
    assert [region_name(box) for box in NAMED_REGIONS.values()] == list(NAMED_REGIONS)


def test_iou_by_hand() -> None:
    # boxes of ½ × ½ that share ¼ × ¼: 1/16 of (1/4 + 1/4 − 1/16)
    assert box_iou((0, 0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75)) == pytest.approx(1 / 7)
    assert box_iou(LOWER_RIGHT, LOWER_RIGHT) == 1.0
    assert box_iou((0, 0, 0.5, 0.5), LOWER_RIGHT) == 0.0
    assert box_iou((0, 0, 0.2, 0.2), (0.7, 0.8, 1, 1)) == 0.0
