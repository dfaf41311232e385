"""Reward terms that take more than one line: the judges', and distances to the clean photo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoomiqa_core.proxy.model import Rated
from zoomiqa_core.proxy.views import ViewConfig, random_views
from zoomiqa_core.restoration.labels import texture_distance
from zoomiqa_core.restoration.model import RestorationJudge, on_grid

WORST_SHARE = 0.2
"""Share of the map's cells that ``worst_region`` averages."""


def restoration_gain(
    judge: RestorationJudge,
    restored: Tensor,
    degraded: Tensor,
    views: ViewConfig,
    generator: torch.Generator,
) -> Tensor:
    """How much better the restoration is than its input, (B,) rating points; mean over views.

    Both images of a pair are seen through the same random views.

    >>> judge, images = RestorationJudge(width=8, members=2), torch.rand(1, 3, 64, 64)
    >>> generator = torch.Generator().manual_seed(0)
    >>> restoration_gain(judge, images, images, ViewConfig(2), generator).item()
    0.0

    Args:
        judge: compares candidate and input.
        restored: (B, 3, H, W) in [0, 1].
        degraded: its input, of the same size or smaller by an integer factor.
        views: how views are drawn.
        generator: draws them.
    """
    pairs = torch.cat([restored, on_grid(degraded, restored)])
    seen = [view.chunk(2) for view in random_views(pairs, views, generator)]
    return torch.stack([judge(after, before).gain for after, before in seen]).mean(0)


def texture_similarity(judge: RestorationJudge, restored: Tensor, clean: Tensor) -> Tensor:
    """1 − deep structure and texture distance to the clean photo, (B,); 1 for the photo itself.

    After Ding et al., *DISTS* (2020), on the judge's frozen ImageNet features with equal weights
    (:func:`~zoomiqa_core.restoration.labels.texture_distance`).

    >>> images = torch.rand(1, 3, 64, 64)
    >>> texture_similarity(RestorationJudge(width=8, members=2), images, images)
    tensor([1.])
    """
    ours, theirs = judge.features(restored), judge.features(clean)
    pairs = [
        [torch.cat([x[i : i + 1], y[i : i + 1]]).float() for x, y in zip(ours, theirs, strict=True)]
        for i in range(len(restored))
    ]
    return 1 - torch.cat([texture_distance(pyramids) for pyramids in pairs])


def map_terms(views: Sequence[Rated], worst_share: float = WORST_SHARE) -> dict[str, Tensor]:
    """Terms of the judge's quality map from its outputs for several views of a batch, (B,) each.

    Raises:
        ValueError: the judge has no map.
    """
    maps = [getattr(view, "map", None) for view in views]
    cells = [each.flatten(1) for each in maps if each is not None]  # (B, n) each
    if len(cells) < len(maps):
        raise ValueError(
            "this judge rates the whole image and has no quality map; set weights.map=0 and "
            "weights.worst_region=0, or take judge=proxy"
        )
    worst = [worst_mean(each, worst_share) for each in cells]
    return {
        "map": torch.stack([each.mean(1) for each in cells]).mean(0),
        "worst_region": torch.stack(worst).mean(0),
    }


def worst_mean(cells: Tensor, share: float) -> Tensor:
    """Mean of the lowest ``share`` of each row of (B, n), at least one of them: (B,)."""
    count = max(1, round(share * cells.shape[1]))
    return cells.topk(count, dim=1, largest=False).values.mean(1)
