"""Pictures in memory: views and targets agree, sizes are kept apart, grids are read again."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.training import picture_stacks
from zoomiqa_core.training.picture_stacks import PictureStack, cut, random_cut, read_stacks


def stack_of(images: torch.Tensor, grid: torch.Tensor) -> PictureStack:
    grids = grid.expand(len(images), *grid.shape).half()
    return PictureStack(images, grids, list(range(10, 10 + len(images))))


def whole_cut(stack: PictureStack, left: int, length: int):
    n = torch.tensor([0])
    return cut(stack, n, torch.tensor([left]), torch.tensor([0]), length, 56, 28)


def test_a_view_of_a_quarter_takes_that_quarter_of_the_grid():
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[..., :32, 32:] = 255  # top right
    grid = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    seen, target = whole_cut(stack_of(image, grid[None]), 32, 32)
    assert seen.shape == (1, 3, 56, 56) and seen.min() == 1
    # Two samples a side in each cell; those nearest the middle of the grid lie a quarter of a cell
    # over the border, so that half of a cell's samples on that side are off by half the step.
    assert torch.allclose(target[0], torch.tensor([[[1.875, 2.0], [2.125, 2.25]]]))


def test_the_whole_view_keeps_the_mean_of_the_grid():
    stack = stack_of(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.arange(16.0).view(1, 4, 4))
    _, target = whole_cut(stack, 0, 64)
    assert torch.allclose(target[0], torch.tensor([[[2.5, 4.5], [10.5, 12.5]]]))


def test_a_wide_picture_is_scaled_along_each_side_by_itself():
    image = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    grid = torch.arange(4.0).repeat(2, 1)[None]  # (1, 2, 4): columns 0 1 2 3
    _, target = whole_cut(stack_of(image, grid), 32, 32)
    # Two samples a cell, at columns 1.75 and 2.25, and at 2.75 and 3.25, which is held at 3.
    assert torch.equal(target[0, 0], torch.tensor([[2.0, 2.875]] * 2))


@pytest.mark.parametrize("scale", [None, (0.5, 1.5)])
def test_random_views_are_of_the_pictures_they_name(scale):
    shades = torch.tensor([10, 90, 170, 250], dtype=torch.uint8)
    images = shades.view(4, 1, 1, 1).expand(4, 3, 70, 90).contiguous()
    stack = stack_of(images, torch.ones(1, 5, 6))
    generator = torch.Generator().manual_seed(0)
    allowed = torch.tensor([1, 3])
    views, targets, places = random_cut(
        stack, allowed, 12, side=56, token=28, scale=scale, generator=generator
    )
    assert set(places) == {11, 13} and views.shape == (12, 3, 56, 56)
    expected = shades[torch.tensor(places) - 10].float() / 255
    assert torch.allclose(views.mean((1, 2, 3)), expected, atol=1e-4)
    assert torch.allclose(targets, torch.ones(12, 1, 2, 2))


def test_views_are_mirrored_together_with_their_targets():
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[..., 32:] = 255  # right half
    grid = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4, 1)[None]
    generator = torch.Generator().manual_seed(0)
    views, targets, _ = random_cut(
        stack_of(image, grid), torch.tensor([0]), 16, side=56, token=28, scale=None,
        generator=generator,
    )  # fmt: skip
    bright_right = views[:, 0, 0, -1] == 1
    assert bright_right.any() and not bright_right.all()
    assert ((targets[:, 0, 0, 1] > targets[:, 0, 0, 0]) == bright_right).all()


def test_pictures_are_read_by_size_and_their_grids_once(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_stacks, "AT_ONCE", 1)
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 64), (64, 80), (64, 64)]
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, size in zip(paths, sizes, strict=True):
        save_png(torch.rand(3, *size, generator=generator), path)
    cache = tmp_path / "cache"
    proxy = QualityProxy(width=2).eval()
    first = read_stacks(paths, proxy, cache, "cpu")
    assert [stack.places for stack in first] == [[0, 2], [1]]
    assert first[1].grids.shape == (1, 4, 4, 5)

    grids = load_file(cache / "grids.safetensors")
    grids["64x64"][1] = 7.0
    save_file(grids, cache / "grids.safetensors")
    again = read_stacks(paths, proxy, cache, "cpu")
    assert (again[0].grids[1] == 7).all()  # read, not seen again
    assert torch.equal(again[0].grids[0], first[0].grids[0])
    with torch.no_grad():
        for weights in proxy.parameters():
            weights.mul_(1.5)
    other = read_stacks(paths, proxy, cache, "cpu")  # another teacher
    assert not (other[0].grids[1] == 7).all()
    assert torch.equal(other[0].grids, read_stacks(paths, proxy, cache, "cpu")[0].grids)
    fewer = read_stacks(paths[:2], proxy, cache, "cpu")  # another list of pictures
    assert [len(stack.grids) for stack in fewer] == [1, 1]
