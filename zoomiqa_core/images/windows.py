"""Parts of an image that are judged by themselves: a window around a box, a grid of tiles."""

from __future__ import annotations

import math

from torch import Tensor

ROUNDING = 1e-6
"""Pixels by which a product of fraction and side may be off."""


def pixel_window(start: float, stop: float, side: int, least: int) -> tuple[int, int]:
    """First pixel and end of a fraction of ``side``, widened to ``least`` px where that fits.

    Pixels that the fraction touches count, except by a rounding error of the product.

    >>> pixel_window(0.5, 0.6, 100, 1), pixel_window(0.9, 1.0, 100, 64)
    ((50, 60), (36, 100))
    """
    first, end = math.floor(start * side + ROUNDING), math.ceil(stop * side - ROUNDING)
    length = max(end - first, min(least, side))
    first = min(max(0, first - (length - (end - first)) // 2), side - length)
    return first, first + length


def tile_grid(pixels: Tensor, side: int) -> tuple[list[Tensor], tuple[int, int]]:
    """Tiles of about ``side`` px that cover (..., H, W), row by row, with rows and columns.

    >>> import torch
    >>> tiles, grid = tile_grid(torch.rand(3, 128, 300), 128)
    >>> grid, [tuple(tile.shape) for tile in tiles]
    ((1, 2), [(3, 128, 150), (3, 128, 150)])
    """
    rows, columns = (max(1, round(length / side)) for length in pixels.shape[-2:])
    tiles = [
        tile for row in pixels.tensor_split(rows, -2) for tile in row.tensor_split(columns, -1)
    ]
    return tiles, (rows, columns)
