"""Pictures in memory, stacked by size, with a teacher's features; batches of random views of them.

Decoding a picture takes longer than a training step of a small vision tower on it, so all pictures
are read once and kept as uint8 on the training's device.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.data.photos import read_8_bit
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.runs.files import atomic_path, write_text_atomic
from zoomiqa_core.training.vision_warm_up import teacher_grids

AT_ONCE = 8
"""Pictures in a batch of the teacher."""
READ_AT_ONCE = 256
"""Pictures decoded before they are stacked."""


class PictureStack(NamedTuple):
    """N pictures of one size."""

    images: Tensor
    """(N, 3, H, W) uint8."""
    grids: Tensor
    """(N, C, h, w) float16: the teacher's channels."""
    places: list[int]
    """Index of each in the list of paths."""


def read_stacks(
    paths: Sequence[Path], proxy: QualityProxy, cache: Path, device: str | torch.device
) -> list[PictureStack]:
    """Read pictures and compute the teacher's features of them.

    >>> from zoomiqa_core.images.sources import save_png
    >>> paths = [save_png(torch.rand(3, 64, 96), f"{name}.png") for name in "ab"]
    >>> (stack,) = read_stacks(paths, QualityProxy.from_pretrained(), Path("cache"), "cpu")
    >>> stack.images.shape, stack.grids.shape[-2:], stack.places
    (torch.Size([2, 3, 64, 96]), torch.Size([4, 6]), [0, 1])

    Args:
        paths: of the pictures, of any sizes.
        proxy: the teacher, on ``device``.
        cache: folder that keeps the features. They are reused for the same list of pictures, if the
            teacher's features of the first pictures are still the same.
        device: of the stacks.

    Returns:
        One stack per size.
    """
    parts: dict[tuple[int, int], list[Tensor]] = {}
    places: dict[tuple[int, int], list[int]] = {}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), READ_AT_ONCE):
            # stacked in parts: single pictures between the decoder's buffers fragment the memory
            read_now: dict[tuple[int, int], list[Tensor]] = {}
            found = pool.map(read_8_bit, paths[start : start + READ_AT_ONCE])
            for place, image in enumerate(found, start):
                size = (image.shape[1], image.shape[2])
                read_now.setdefault(size, []).append(image)
                places.setdefault(size, []).append(place)
            for size, members in read_now.items():
                parts.setdefault(size, []).append(torch.stack(members).to(device))
    kept = cache / "grids.safetensors"
    names = json.dumps([str(path) for path in paths])
    known = {}
    if kept.is_file() and (cache / "pictures.json").read_text(encoding="utf-8") == names:
        known = load_file(kept)
    stacks, fresh = [], False
    for (height, width), members in places.items():
        images = torch.cat(parts.pop((height, width)))
        batches = images.split(AT_ONCE)
        seen = teacher_grids(proxy, batches[0].float() / 255)
        grids = known.get(f"{height}x{width}")
        if grids is None or not _alike(grids[: len(seen)].to(seen), seen):
            fresh = True
            later = [teacher_grids(proxy, batch.float() / 255) for batch in batches[1:]]
            grids = torch.cat([seen, *later])
        stacks.append(PictureStack(images, grids.to(device), members))
    if fresh:
        with atomic_path(kept) as partial:
            shapes = ["x".join(map(str, stack.images.shape[-2:])) for stack in stacks]
            save_file({n: s.grids.cpu() for n, s in zip(shapes, stacks, strict=True)}, partial)
        write_text_atomic(cache / "pictures.json", names)
    return stacks


def _alike(kept: Tensor, seen: Tensor) -> bool:
    """Whether both are equal up to the rounding of different machines."""
    return kept.shape == seen.shape and torch.allclose(kept, seen, rtol=1e-2, atol=1e-2)


def cut(
    stack: PictureStack,
    chosen: Tensor,
    left: Tensor,
    top: Tensor,
    length: int,
    side: int,
    token: int,
) -> tuple[Tensor, Tensor]:
    """Crop and resize square views of pictures, with the teacher's features of the same squares.

    Args:
        stack: of pictures whose sides are at least ``length``.
        chosen: (B,) indices of the pictures in the stack.
        left, top: (B,) upper left corners of the crops, pixels.
        length: side of all crops, pixels.
        side: of the views in pixels, a multiple of ``token``.
        token: side of a visual token in pixels.

    Returns:
        (B, 3, side, side) in [0, 1], and (B, C, side / token, side / token): means over each token.
    """
    from torchvision.ops import roi_align

    device = stack.images.device
    chosen, left, top = (values.to(device) for values in (chosen, left, top))
    along = torch.arange(length, device=device)
    rows, columns = (top[:, None] + along)[:, :, None], (left[:, None] + along)[:, None]
    parts = stack.images[chosen[:, None, None], :, rows, columns]  # (B, length, length, 3)
    parts = parts.permute(0, 3, 1, 2).float() / 255
    size = (side, side)
    if length != side:
        parts = functional.interpolate(parts, size=size, mode="bilinear", antialias=True)
    scale = stack.grids.new_tensor(stack.grids.shape[-2:], dtype=torch.float32)
    down, across = scale / scale.new_tensor(stack.images.shape[-2:])
    order = torch.arange(len(chosen), device=device).float()
    corners = [left * across, top * down, (left + length) * across, (top + length) * down]
    boxes = torch.stack([order, *corners], 1)
    cells = (side // token, side // token)
    grids = stack.grids[chosen].float()
    return parts.clamp(0, 1), roi_align(grids, boxes, cells, sampling_ratio=2, aligned=True)


def random_cut(
    stack: PictureStack,
    allowed: Tensor,
    count: int,
    *,
    side: int,
    token: int,
    scale: tuple[float, float] | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, list[int]]:
    """Draw ``count`` random views of a stack's pictures, all at one scale, half of them mirrored.

    Args:
        stack: of the pictures.
        allowed: (M,) indices of the pictures that may be drawn.
        count: number of views.
        side: of a view, pixels.
        token: side of a visual token, pixels.
        scale: range of the log-uniform enlargement; None for the largest square.
        generator: of the draws, on the CPU.

    Returns:
        Views and targets as of :func:`cut`, and the indices of the pictures in the list of paths.
    """
    height, width = stack.images.shape[-2:]
    length = min(height, width)
    if scale is not None:
        low, high = (math.log(bound) for bound in scale)
        drawn = low + (high - low) * float(torch.rand((), generator=generator))
        length = min(length, max(1, round(side / math.exp(drawn))))
    chosen = allowed[torch.randint(len(allowed), (count,), generator=generator)]
    left = torch.randint(width - length + 1, (count,), generator=generator)
    top = torch.randint(height - length + 1, (count,), generator=generator)
    views, targets = cut(stack, chosen, left, top, length, side, token)
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(views.device).view(-1, 1, 1, 1)
    views = torch.where(mirrored, views.flip(-1), views)
    targets = torch.where(mirrored, targets.flip(-1), targets)
    return views, targets, [stack.places[n] for n in chosen.tolist()]
