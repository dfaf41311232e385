"""The crop policy: by hand, by property, by rejection."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from zoomiqa_core.zoom_iqa.crop import CropBox, crop_box, crop_image


def test_a_box_of_fair_size_is_shown_as_it_is():
    # half by half is a quarter of the image; 100×50 pixels fit 200×100 twice over
    crop = crop_box((0.25, 0.25, 0.75, 0.75), 200, 100)
    assert crop == CropBox((50, 25, 150, 75), (200, 100), (200, 100))
    assert crop.bbox == (0.25, 0.25, 0.75, 0.75)


def test_pixels_and_shares_and_any_order_of_corners_mean_the_same():
    expected = crop_box((0.25, 0.25, 0.75, 0.75), 200, 100)
    assert crop_box((50, 25, 150, 75), 200, 100) == expected
    assert crop_box((0.75, 0.25, 0.25, 0.75), 200, 100) == expected
    assert crop_box((150, 75, 50, 25), 200, 100) == expected


def test_a_small_box_grows_about_its_centre():
    # 40×40 of 400×400 is 1 % of the area: sides × √(0.25/0.01) = 5 → 200×200 about (220, 220)
    assert crop_box((200, 200, 240, 240), 400, 400).bbox_px == (120, 120, 320, 320)


def test_a_large_box_shrinks_about_its_centre():
    # the whole of 200×200: sides × √0.75 = 0.8660 → 173.2 about 100: 13.4 … 186.6
    assert crop_box((0, 0, 1, 1), 200, 200).bbox_px == (13, 13, 186, 186)


def test_growth_stops_at_the_border():
    # 1×1 in the corner of 400×400 grows to 200×200 about (0.5, 0.5); the border leaves 100.5
    crop = crop_box((0, 0, 1, 1e-9), 400, 400)
    assert crop.bbox_px[:2] == (0, 0) and not crop.central_fallback


def test_no_side_is_shorter_than_28_pixels():
    # 2000×2 of 2000×100 grows ×√(0.25/0.02) = 3.54 → 7 rows about 51, then 28 rows
    x0, y0, x1, y1 = crop_box((0, 50, 2000, 52), 2000, 100).bbox_px
    assert (x0, x1, y1 - y0) == (0, 2000, 28)
    assert y0 <= 50 and y1 >= 52


def test_the_odd_missing_pixel_goes_to_the_end():
    # 21 of 60 columns are 7 short of 28: 3 before, 4 after; 35 % of the area needs no scaling
    assert crop_box((20, 0, 41, 100), 60, 100).bbox_px == (17, 0, 45, 100)


@pytest.mark.parametrize("bbox", [None, (), (1, 2), (0, 0, 0, 0), (0, 0, math.nan, 1)])
def test_an_unusable_box_shows_the_centre_not_enlarged(bbox):
    crop = crop_box(bbox, 309, 33)
    assert crop == CropBox((77, 8, 231, 24), (154, 16), (309, 33), central_fallback=True)


def test_the_crop_is_cut_and_enlarged():
    pixels = np.arange(200 * 100, dtype=np.uint8).reshape(100, 200)
    image = Image.fromarray(pixels).convert("RGB")
    crop = crop_box((0.25, 0.25, 0.75, 0.75), 200, 100)
    expected = image.crop((50, 25, 150, 75)).resize((200, 100), Image.Resampling.LANCZOS)
    assert crop_image(image, crop).tobytes() == expected.tobytes()
    centre = crop_image(image, crop_box(None, 200, 100))
    assert np.array_equal(np.asarray(centre)[..., 0], pixels[25:75, 50:150])


def test_a_crop_of_another_image_is_refused():
    with pytest.raises(ValueError, match="crop the original, not a resized copy"):
        crop_image(Image.new("RGB", (10, 10)), crop_box(None, 20, 20))


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"at least 1×1 pixels, got 0×5"):
        crop_box(None, 0, 5)


_SIDES = st.one_of(st.integers(1, 60), st.integers(1, 4096))
_COORDINATES = st.one_of(
    st.floats(0, 1),
    st.floats(-2, 2),
    st.floats(-5000, 5000),
    st.integers(0, 4096).map(float),
    st.floats(),
)


@settings(max_examples=300, deadline=None)
@example((0.0, 0.0, 0.0, 1.0), 1, 1)
@example((1e308, -1e308, 1e308, 1e308), 1, 4096)
@example((4096.0, 4096.0, 4096.0, 4096.0), 4096, 27)
@given(st.tuples(*[_COORDINATES] * 4), _SIDES, _SIDES)
def test_every_box_is_inside_its_image_and_has_an_area(bbox, width, height):
    crop = crop_box(bbox, width, height)
    check_inside(crop, width, height)
    if not crop.central_fallback:
        x0, y0, x1, y1 = crop.bbox_px
        assert x1 - x0 >= min(28, width) and y1 - y0 >= min(28, height)
        assert crop.size[0] == width or crop.size[1] == height  # as large as fits
        if min(x1 - x0, y1 - y0) > 28:  # whole pixels may add one to a side
            assert (x1 - x0 - 1) * (y1 - y0 - 1) <= 0.75 * width * height


def test_ten_thousand_random_boxes():
    random = np.random.default_rng(0)
    sides = np.exp(random.uniform(0, math.log(4096), size=(10_000, 2))).round().astype(int)
    for (width, height), shares in zip(
        sides.tolist(), random.uniform(-0.1, 1.1, (10_000, 4)), strict=True
    ):
        bbox = shares if shares[0] < 0.6 else shares * [width, height, width, height]
        check_inside(crop_box(bbox.tolist(), width, height), width, height)


def check_inside(crop: CropBox, width: int, height: int) -> None:
    x0, y0, x1, y1 = crop.bbox_px
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert 1 <= crop.size[0] <= width and 1 <= crop.size[1] <= height
    assert all(isinstance(value, int) for value in (*crop.bbox_px, *crop.size))
