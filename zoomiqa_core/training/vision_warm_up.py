"""Vision warm-up: train a small model's vision tower to predict the proxy's features.

From random weights, a vision tower learns almost nothing from the text of a few thousand
rationales. The proxy, whose backbone is pre-trained on ImageNet, gives targets for every cell of a
picture. Zoom-IQA has no such stage; its tower is pre-trained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.proxy.model import QualityProxy, weighted_mean

MAP, WEIGHT = 0, 1
"""The teacher's first channels: rating around the cell, log of its weight; features follow."""
AROUND = 7
"""Cells a side over which a cell's rating is pooled: where the proxy's weights are small, a single
cell's rating is meaningless."""
SOFTENED = 0.25
"""Exponent of the proxy's weights. They span many orders of magnitude, so that a small error in
their logarithm could base the student's rating on a single cell."""
WHITENING_FLOOR = 1e-4
"""Mean square, in the processor's units, below which a principal component is mostly rounding."""
SCALAR_SHARE = 0.5
"""Share of the loss for rating and weight of the cells; the rest is for the features."""


class CropBatch(NamedTuple):
    """Square views of pictures with the teacher's channels as targets."""

    views: Tensor
    """(B, 3, S, S) in [0, 1], S a multiple of the size of a visual token."""
    targets: Tensor
    """(B, C, S / token, S / token): the teacher's channels."""
    rating: Tensor
    """(B,) rating of the whole picture; NaN where the view is only a part of it."""


@torch.no_grad()
def teacher_grids(proxy: QualityProxy, images: Tensor) -> Tensor:
    """The proxy's rating, weight and features of each 16×16 cell: (B, 2 + width, h, w) float16.

    The first channels are ``MAP`` and ``WEIGHT``.

    >>> grids = teacher_grids(QualityProxy.from_pretrained(), torch.rand(1, 3, 64, 96))
    >>> grids.shape[-2:], grids.dtype
    (torch.Size([4, 6]), torch.float16)

    Args:
        proxy: the teacher.
        images: (B, 3, H, W) in [0, 1].
    """
    fused, out = proxy.forward_with_features(images)

    def pooled(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, AROUND, 1, AROUND // 2, count_include_pad=False)

    around = pooled(out.map * out.weight) / pooled(out.weight)
    return torch.cat([around, SOFTENED * out.weight.log(), fused], 1).half()


@torch.no_grad()
def whiten_patches(tower: Any, patches: Tensor) -> None:
    """Initialise the patch embedding with whitened principal components of image patches.

    Coarse detail of natural images has a thousand times the energy of fine detail, where noise,
    blur and compression are visible; random filters hardly respond to it. Half of the filters are
    the first components, half are spread evenly over the others. Freeze them: a learning rate that
    suits the other layers would destroy the filters of coarse detail, whose weights are tiny.

    Args:
        tower: of a Qwen2.5-VL, changed in place.
        patches: (N, 3 · frames · side²) from its processor, all frames of a patch equal.
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
    """A vision tower with a linear head that predicts the teacher's channels.

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
        """The processor's output, patches and grids, for (B, 3, S, S) in [0, 1]."""
        made = self.process(list(views), do_resize=False, do_rescale=False, return_tensors="pt")
        return made.to(views.device)

    def forward(self, views: Tensor) -> Tensor:
        """Standardised channels (B, C, S / token, S / token) of (B, 3, S, S) in [0, 1]."""
        patches = self.patches(views)
        seen = self.tower(patches["pixel_values"], patches["image_grid_thw"]).pooler_output
        cells = round((len(seen) / len(views)) ** 0.5)
        return self.head(seen).unflatten(0, (len(views), cells, cells)).permute(0, 3, 1, 2).float()

    def loss(self, batch: CropBatch) -> tuple[Tensor, dict[str, float]]:
        """Huber loss of the standardised channels and of the pooled rating, and its terms."""
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
        """(B,) rating of the whole view, pooled from standardised channels."""
        channels = predicted * self.std + self.mean
        weight = channels[:, WEIGHT : WEIGHT + 1].clamp(-8, 8).exp()
        return weighted_mean(channels[:, MAP : MAP + 1], weight)
