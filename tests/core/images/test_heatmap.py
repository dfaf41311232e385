"""Quality maps as pictures: the worst window by hand and by brute force, colours by their scale."""

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from zoomiqa_core.images.heatmap import (
    BOX_COLOUR,
    COLOUR_MAP,
    colour_strip,
    draw_box,
    draw_map,
    paint_map,
    worst_region,
)


def test_worst_region_by_hand():
    # A quarter of 4×4 cells is a 2×2 window. Means: the lower right one is (1 + 2 + 2 + 1) / 4.
    rows = [[5, 5, 5, 5], [5, 1, 5, 5], [5, 5, 1, 2], [5, 5, 2, 1]]
    quality_map = torch.tensor([rows], dtype=torch.float32)
    assert worst_region(quality_map) == (0.5, 0.5, 1.0, 1.0)
    assert worst_region(quality_map, 1.0) == (0, 0, 1, 1)
    # One sixteenth is one cell; of the three rated 1 the first in reading order is taken.
    assert worst_region(quality_map, 1 / 16) == (0.25, 0.25, 0.5, 0.5)
    assert worst_region(torch.full((1, 3, 7), 2.1)) == (0, 0, 4 / 7, 2 / 3)
    assert worst_region(torch.ones(1, 1, 1)) == (0, 0, 1, 1)


@settings(deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    fraction=st.floats(0.02, 1),
    seed=st.integers(0, 10**6),
)
def test_worst_region_agrees_with_brute_force(height, width, fraction, seed):
    generator = torch.Generator().manual_seed(seed)
    quality_map = 1 + 4 * torch.rand(1, height, width, generator=generator)
    x0, y0, x1, y1 = worst_region(quality_map, fraction)
    assert 0 <= x0 < x1 <= 1 + 1e-12 and 0 <= y0 < y1 <= 1 + 1e-12
    left, top, right, bottom = (
        round(value * side)
        for value, side in zip((x0, y0, x1, y1), (width, height) * 2, strict=True)
    )
    windows = quality_map[0].unfold(0, bottom - top, 1).unfold(1, right - left, 1)
    chosen = quality_map[0, top:bottom, left:right].mean()
    torch.testing.assert_close(chosen, windows.mean((2, 3)).min())


def panel_colour(rating, image):
    picture = draw_map(image, torch.full((1, 2, 2), rating))
    return np.asarray(picture)[50, 50] / 255


def test_colours_follow_the_fixed_scale_whatever_the_map_holds():
    black = torch.zeros(3, 400, 400)
    ratings = [0.0, 1.0, 3.0, 5.0, 6.0]
    colours = [panel_colour(rating, black) for rating in ratings]
    # Over a black image only the tint is left: 0.65 of the colour at (rating − 1) / 4.
    for colour, share in zip(colours, [0.0, 0.0, 0.5, 1.0, 1.0], strict=True):
        expected = 0.65 * np.array(matplotlib.colormaps[COLOUR_MAP](share)[:3])
        np.testing.assert_allclose(colour, expected, atol=1 / 255)
    luminance = [colour @ (0.2126, 0.7152, 0.0722) for colour in colours[1:4]]
    assert luminance == sorted(luminance)  # better is brighter, in grey print too


def test_the_box_is_drawn_where_it_is_and_pictures_repeat():
    image = torch.full((3, 400, 600), 0.5)
    quality_map = torch.full((1, 8, 12), 4.0)
    plain = draw_map(image, quality_map)
    boxed = draw_map(image, quality_map, (0.5, 0.5, 1.0, 1.0), 1.25)
    assert boxed.size == plain.size and plain.height == 400 and plain.width > 600
    assert ImageChops.difference(plain, boxed).getbbox() == (300, 200, 600, 400)
    again = draw_map(image, quality_map, (0.5, 0.5, 1.0, 1.0), 1.25)
    assert again.tobytes() == boxed.tobytes()


def test_the_strip_runs_from_bad_to_excellent():
    strip = np.asarray(colour_strip(101, 3)) / 255
    assert strip.shape == (3, 101, 3)
    for place, share in ((0, 0.0), (50, 0.5), (100, 1.0)):
        expected = matplotlib.colormaps[COLOUR_MAP](share)[:3]
        np.testing.assert_allclose(strip[1, place], expected, atol=1 / 255)


@pytest.mark.parametrize(("size", "line"), [((40, 30), 3), ((5, 5), 3), ((1, 1), 2)])
def test_a_box_is_an_outline_and_stays_inside(size, line):
    picture = Image.new("RGB", size, "black")
    draw_box(picture, (0.0, 0.0, 1.0, 1.0), line)
    assert picture.getpixel((0, 0)) == BOX_COLOUR
    if size == (40, 30):
        assert picture.getpixel((line, line)) == (255, 255, 255)  # edged in white
    if min(size) > 1:
        assert picture.getpixel((size[0] // 2, size[1] // 2)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("height", "width", "panel"),
    [(1, 1, (384, 384)), (10, 20, (192, 384)), (1, 5000, (1, 1024)), (3000, 1, (1024, 1))],
)
def test_any_size_gives_a_picture(height, width, panel):
    picture = draw_map(torch.rand(3, height, width), torch.ones(1, 3, 4), (0, 0, 0.5, 0.5), 1.0)
    assert picture.mode == "RGB"
    assert picture.height >= panel[0] and picture.width > panel[1]


@pytest.mark.parametrize(
    ("quality_map", "message"),
    [
        (torch.ones(4, 4), r"expected a map \(1, h, w\), got \(4, 4\)"),
        (torch.ones(1, 0, 4), r"got \(1, 0, 4\)"),
        (torch.full((1, 4, 4), torch.nan), "infinite ratings, or none"),
        (torch.tensor([[[3.0, torch.inf]]]), "infinite ratings, or none"),
    ],
)
def test_bad_maps_are_rejected(quality_map, message):
    with pytest.raises(ValueError, match=message):
        worst_region(quality_map)
    with pytest.raises(ValueError, match=message):
        draw_map(torch.zeros(3, 8, 8), quality_map)


def test_bad_windows_are_rejected():
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\], got 0"):
        worst_region(torch.ones(1, 4, 4), 0)


def test_cells_without_a_rating_are_passed_over():
    ratings = torch.tensor([[[torch.nan, 2.0], [1.5, 4.0]]])
    assert worst_region(ratings, fraction=0.25) == (0, 0.5, 0.5, 1)
    # windows of two cells of a row: 2 alone, (2 + 1.5) / 2 and (1.5 + 4) / 2
    assert worst_region(ratings.view(1, 1, 4), fraction=0.25) == (0.25, 0, 0.75, 1)


def test_places_without_a_rating_stay_grey_and_colour_no_neighbour():
    pixels = torch.full((3, 40, 40), 0.5)
    known = paint_map(pixels, torch.full((1, 2, 2), 2.0))
    ratings = torch.full((1, 2, 2), 2.0)
    ratings[0, 0, 0] = torch.nan
    holed = paint_map(pixels, ratings)
    assert holed.getpixel((5, 5)) == (128, 128, 128)
    assert holed.getpixel((35, 35)) == known.getpixel((35, 35))
    assert holed.getpixel((25, 5)) == known.getpixel((25, 5))  # beside the hole
