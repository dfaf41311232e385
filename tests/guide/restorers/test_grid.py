"""From the input's grid to a pipeline's and back; tiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from restoration_guide.restorers.grid import Grid, tile_corners, tile_weight


def ramp(height: int, width: int) -> torch.Tensor:
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    return (0.2 + 0.01 * (y + x)).expand(1, 3, height, width)


@pytest.mark.parametrize("size", [(24, 32), (17, 30), (9, 9), (3, 40)])
@pytest.mark.parametrize("scale", [1, 2])
def test_there_and_back(size: tuple[int, int], scale: int) -> None:
    grid, image = Grid(multiple=8, scale=scale), ramp(*size)
    fitted = grid.fit(image)
    full = grid.padded_size(size)
    assert all(side % (8 * scale) == 0 for side in full)
    assert fitted.shape[-2:] == (full[0] // scale, full[1] // scale)
    enlarged = torch.nn.functional.interpolate(fitted, full, mode="bicubic", antialias=True)
    back = grid.back(enlarged, size)
    assert back.shape == image.shape
    error = (back - image).abs()
    assert float(error.max()) == 0.0 if scale == 1 else float(error.mean()) < 0.01


def test_padding_by_hand() -> None:
    row = torch.tensor([1.0, 2.0, 3.0]).expand(1, 3, 1, 3) / 4
    # 3 → 4: reflected about the last pixel; 1 → 4: repeated, for want of anything to reflect
    assert Grid(multiple=4).fit(row)[0, 0].tolist() == [[0.25, 0.5, 0.75, 0.5]] * 4


def test_notes_say_what_was_done() -> None:
    grid = Grid(multiple=8, scale=4)
    assert grid.notes((32, 64), (32, 64)) == ("reduced 4 times, as the pipeline enlarges",)
    assert Grid(8).notes((16, 16), (16, 16)) == Grid(8).notes((16, 16), (16, 32)) == ()
    assert Grid(8).notes((16, 15), (32, 32)) == (
        "padded to 16×16 and cropped back",
        "came as 32×32, resized to 16×16",
    )


def test_another_size_of_the_same_shape_is_resized_and_another_shape_is_not() -> None:
    grid = Grid(multiple=8)
    assert grid.back(torch.rand(2, 3, 32, 64), (15, 30)).shape == (2, 3, 15, 30)
    assert grid.back(torch.rand(2, 3, 32, 32), (15, 30)).shape == (2, 3, 32, 32)


def test_gradients_pass() -> None:
    image = ramp(15, 30).clone().requires_grad_()
    grid = Grid(multiple=8, scale=2)
    grid.back(grid.fit(image), (15, 30)).sum().backward()
    assert image.grad is not None and bool((image.grad != 0).any())


@pytest.mark.parametrize("size", [(64, 64), (65, 100), (40, 200), (130, 64)])
def test_tiles_cover_the_image_and_overlap(size: tuple[int, int]) -> None:
    covered = torch.zeros(size)
    sides = (min(64, size[0]), min(64, size[1]))
    corners = list(tile_corners(size, 64))
    for top, left in corners:
        assert top + sides[0] <= size[0] and left + sides[1] <= size[1]
        covered[top : top + sides[0], left : left + sides[1]] += tile_weight(*sides)
    assert bool((covered > 0).all())
    lefts = sorted({left for _, left in corners})
    assert all(b - a <= 48 for a, b in pairwise(lefts))


def test_tile_weight_by_hand() -> None:
    # a quarter of 8 is 2: half weight on the border, whole weight from the second pixel on
    assert tile_weight(1, 8)[0].tolist() == [0.5, 1, 1, 1, 1, 1, 1, 0.5]
    assert float(tile_weight(8, 8)[0, 0]) == 0.25
