"""A small model's vision tower learns to see what the proxy sees, before it learns to talk.

A vision tower from random weights learns next to nothing from the words of a few thousand
rationales. The proxy, whose backbone knows ImageNet, says of every place of a picture what it finds
there: so one picture gives dozens of targets. This stage is no part of Zoom-IQA, whose tower comes
pre-trained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.proxy.model import QualityProxy, weighted_mean

MAP, WEIGHT = 0, 1
"""Channels of a teacher's grid before its features: rating around the cell, log of its weight."""
AROUND = 7
"""Cells a side over which a cell's rating is pooled. Where the proxy's weights are small its map
says nothing, so that a cell's own rating is no target."""
SOFTENED = 0.25
"""Power of the proxy's weights. They span many orders of magnitude; a student that errs a little in
their logarithm would hang the rating on a single cell."""
WHITENING_FLOOR = 1e-4
"""Mean square of a component, in the processor's units, below which it counts as rounding."""
SCALAR_SHARE = 0.5
"""Share of the loss that rating and weight of the cells have; the features have the rest."""


class CropBatch(NamedTuple):
    """Square views of pictures and what the teacher said of the same places."""

    views: Tensor
    """(B, 3, S, S) in [0, 1], S a multiple of the size of a visual token."""
    targets: Tensor
    """(B, C, S / token, S / token): the teacher's channels."""
    rating: Tensor
    """(B,) rating of the whole picture; NaN where the view is a part of it."""


@torch.no_grad()
def teacher_grids(proxy: QualityProxy, images: Tensor) -> Tensor:
    """What the proxy sees in each 16×16 cell of (B, 3, H, W) in [0, 1]: (B, 2 + width, h, w) half.

    The channels are those of ``MAP`` and ``WEIGHT``, then the proxy's features.
    """
    fused, out = proxy.forward_with_features(images)

    def pooled(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, AROUND, 1, AROUND // 2, count_include_pad=False)

    around = pooled(out.map * out.weight) / pooled(out.weight)
    return torch.cat([around, SOFTENED * out.weight.log(), fused], 1).half()


@torch.no_grad()
def whiten_patches(tower: Any, patches: Tensor) -> None:
    """Start the patch embedding from principal components of patches, each scaled to unit size.

    Natural images hold a thousand times more of coarse than of fine detail; noise, blur and
    compression show in the fine. From random filters a tower hardly sees it. Half of the filters
    are the first components, half are spread evenly over the others. Train no further here: a step
    as large as other layers want changes what the coarse filters see by as much as they see.

    Args:
        tower: of a Qwen2.5-VL.
        patches: (N, 3 · frames · side²) as its processor makes them, all frames of a patch equal.
    """
    filters = tower.patch_embed.proj.weight  # (hidden, 3, frames, side, side)
    hidden, _, frames, _, _ = filters.shape
    one = patches.unflatten(1, (3, frames, -1))[:, :, 0].flatten(1).double()
    sizes, components = torch.linalg.eigh(one.T @ one / len(one))
    sizes, components = sizes.flip(0), components.flip(1)
    count = min(hidden, len(sizes))
    low = torch.arange(count // 2)
    spread = torch.linspace(count // 2, len(sizes) - 1, count - count // 2).round().long()
    chosen = torch.cat([low, spread])
    scaled = (components[:, chosen] / (sizes[chosen] + WHITENING_FLOOR).sqrt()).T
    frame = scaled.view(count, 3, *filters.shape[-2:]).to(filters.dtype) / frames
    filters[:count] = frame[:, :, None].expand(-1, -1, frames, -1, -1)


class WarmUp(nn.Module):
    """A vision tower under a linear head that predicts the teacher's channels.

    Args:
        tower: of a Qwen2.5-VL.
        processor: its image processor.
        mean: (C,) of the teacher's channels.
        std: (C,) of the teacher's channels, > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: Any, processor: Any, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.head = nn.Linear(tower.config.out_hidden_size, len(mean))
        self.process = processor
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1))
        self.register_buffer("std", std.float().view(1, -1, 1, 1))

    def patches(self, views: Tensor) -> Any:
        """The processor's patches and grids of (B, 3, S, S) in [0, 1]."""
        made = self.process(list(views), do_resize=False, do_rescale=False, return_tensors="pt")
        return made.to(views.device)

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] → standardised channels (B, C, S / token, S / token)."""
        patches = self.patches(views)
        seen = self.tower(patches["pixel_values"], patches["image_grid_thw"]).pooler_output
        cells = round((len(seen) / len(views)) ** 0.5)
        return self.head(seen).unflatten(0, (len(views), cells, cells)).permute(0, 3, 1, 2).float()

    def loss(self, batch: CropBatch) -> tuple[Tensor, dict[str, float]]:
        """Huber distance to the standardised teacher, and of the pooled rating to the label."""
        predicted = self(batch.views)
        distance = functional.huber_loss(
            predicted, (batch.targets - self.mean) / self.std, reduction="none"
        ).mean((0, 2, 3))
        scalars, features = distance[: WEIGHT + 1].mean(), distance[WEIGHT + 1 :].mean()
        total = SCALAR_SHARE * scalars + (1 - SCALAR_SHARE) * features
        terms = {"map": distance[MAP].item(), "features": features.item()}
        known = ~batch.rating.isnan()
        if known.any():
            error = functional.huber_loss(self.rating(predicted)[known], batch.rating[known])
            total = total + error
            terms["rating"] = error.item()
        return total, terms

    def rating(self, predicted: Tensor) -> Tensor:
        """(B,) rating pooled from standardised channels with the softened weights."""
        channels = predicted * self.std + self.mean
        weight = channels[:, WEIGHT : WEIGHT + 1].clamp(-8, 8).exp()
        return weighted_mean(channels[:, MAP : MAP + 1], weight)
