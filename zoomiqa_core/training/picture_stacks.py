"""Pictures of one size with what a teacher sees in them, in memory, and views cut many at a time.

Decoding a picture costs more than a small tower's step on it. Whoever holds all pictures as uint8
on the training's device reads them once.
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
"""Pictures the teacher sees together."""
READ_AT_ONCE = 256
"""Pictures decoded before they are stacked."""


class PictureStack(NamedTuple):
    """N pictures of one size."""

    images: Tensor
    """(N, 3, H, W) uint8."""
    grids: Tensor
    """(N, C, h, w) float16: the teacher's channels."""
    places: list[int]
    """Of each in the list they were read from."""


def read_stacks(
    paths: Sequence[Path], proxy: QualityProxy, cache: Path, device: str | torch.device
) -> list[PictureStack]:
    """Read pictures and let the teacher see them.

    Args:
        paths: of the pictures, of any sizes.
        proxy: the teacher, on ``device``.
        cache: folder where the teacher's grids are kept; used again for the same list of pictures,
            as long as the teacher still sees the same in the first of them.
        device: of the stacks.
    """
    parts: dict[tuple[int, int], list[Tensor]] = {}
    places: dict[tuple[int, int], list[int]] = {}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), READ_AT_ONCE):
            # stacked in parts: single pictures between the decoder's leavings scatter the memory
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
    """Equal but for the rounding of another machine."""
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
    """Square parts of pictures, resized, and the teacher's grid over the same parts.

    Args:
        stack: of pictures whose sides are at least ``length``.
        chosen: (B,) pictures.
        left, top: (B,) where the parts begin, pixels.
        length: side of all parts, pixels.
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
    """``count`` random views of pictures of a stack, half of them mirrored, at one enlargement.

    Args:
        stack: of the pictures.
        allowed: (M,) those that may be drawn.
        count: of views.
        side: of a view, pixels.
        token: side of a visual token, pixels.
        scale: range of the enlargement, drawn evenly in its logarithm; None for the largest square.
        generator: of the draws, on the CPU.

    Returns:
        Views and targets as :func:`cut` makes them, and the pictures' places in their list.
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
