"""Training losses of the proxy: pure functions, in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.proxy.preprocess import STRIDE

if TYPE_CHECKING:
    from zoomiqa_core.proxy.batches import Evidence
    from zoomiqa_core.proxy.model import ProxyOutput

MIN_GAP = 0.25
"""Images of a group whose order differs by less are not ranked."""


def evidence_losses(
    out: ProxyOutput, evidence: Evidence, *, ranking_weight: float, map_weight: float
) -> dict[str, Tensor]:
    """Loss terms of one training batch, and their weighted sum as ``total``.

    Args:
        out: of the proxy for the batch's images.
        evidence: the batch; unknown labels (NaN) are ignored.
        ranking_weight: weight of the term ``ranking``.
        map_weight: weight of the term ``map``; that of ``regression`` and ``error`` is 1.
    """
    rated = ~evidence.rating.isnan()
    mapped = ~evidence.rating_map.isnan().flatten(1).any(1)
    rating, target = out.rating[rated], evidence.rating[rated]
    terms = {
        "regression": regression_loss(rating, target),
        "ranking": ranking_loss(out.rating, evidence.order, evidence.group, min_gap=MIN_GAP),
        "error": error_loss(rating, out.rating_std[rated], target),
    }
    if mapped.any():
        terms["map"] = map_loss(out.map[mapped], evidence.rating_map[mapped])
    weights = {"ranking": ranking_weight, "map": map_weight}
    total = sum((weights.get(name, 1.0) * term for name, term in terms.items()), start=0)
    return {**terms, "total": torch.as_tensor(total)}


def ranking_loss(
    ratings: Tensor, order: Tensor, group: Tensor, *, min_gap: float, scale: float = 0.25
) -> Tensor:
    """Logistic ranking over the ordered pairs inside each group (RankNet, Burges et al. 2005).

    Mean over groups of the mean over a group's pairs with ``order[i] − order[j] ≥ min_gap`` of
    ``softplus(−(ratings[i] − ratings[j]) / scale) · scale``. Its slope is near 0 for a pair in
    clear order and near 1 for an inverted one. Groups weigh the same, however many pairs they have.

    >>> import torch
    >>> order, group = torch.tensor([1.0, 2.0]), torch.zeros(2)
    >>> for ratings in ([2.0, 4.0], [4.0, 2.0]):
    ...     print(f"{ranking_loss(torch.tensor(ratings), order, group, min_gap=0.5):.3f}")
    0.000
    2.000

    Args:
        ratings: (N,) predicted ratings.
        order: (N,) values whose order the ratings should follow, any unit; NaN is ignored.
        group: (N,) only images of the same group are compared.
        min_gap: pairs closer than this in ``order`` are ignored; > 0.
        scale: softness in rating units.

    Returns:
        Scalar; exactly 0 (with a graph) without such pairs.

    Raises:
        ValueError: ``min_gap`` is not positive.
    """
    if min_gap <= 0:
        raise ValueError(f"min_gap must be positive, got {min_gap}: equal targets have no order")
    ordered = (order[:, None] - order[None, :]) >= min_gap
    ordered = ordered & (group[:, None] == group[None, :])
    difference = ratings[:, None] - ratings[None, :]
    loss = scale * functional.softplus(-difference / scale)
    pairs = ordered.sum(1)  # in which each image is the better one
    member = group[:, None] == group.unique()[None, :]  # (N, groups)
    count = (pairs[:, None] * member).sum(0)
    means = ((loss * ordered).sum(1)[:, None] * member).sum(0) / count.clamp(min=1)
    return means.sum() / (count > 0).sum().clamp(min=1)


def map_loss(quality_map: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (β = 0.25) between a quality map and a rating map per pixel.

    >>> import torch
    >>> float(map_loss(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 32, 32), 4.0)))
    0.875

    Args:
        quality_map: (B, 1, h, w) cells of 16 px.
        target: (B, 1, H, W) rating of every pixel, H = 16·h and W = 16·w.

    Raises:
        ValueError: the sizes do not match.
    """
    cells = functional.avg_pool2d(target, STRIDE)
    if cells.shape != quality_map.shape:
        raise ValueError(
            f"a target of {tuple(target.shape)} has cells {tuple(cells.shape)}, "
            f"the map has {tuple(quality_map.shape)}; crop images to multiples of {STRIDE}"
        )
    return functional.smooth_l1_loss(quality_map, cells, beta=0.25)


def error_loss(rating: Tensor, rating_std: Tensor, target: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of the rating's error, to train ``rating_std`` alone.

    ``log σ + (r − t)² / 2σ²``, without gradient through the rating.

    >>> import torch
    >>> rating, target = torch.tensor([3.0]), torch.tensor([4.0])
    >>> [round(float(error_loss(rating, torch.tensor([s]), target)), 3) for s in (0.5, 1.0, 2.0)]
    [1.307, 0.5, 0.818]

    Args:
        rating, rating_std, target: (B,) in rating units.
    """
    error = (rating - target).detach()
    return (rating_std.log() + error.square() / (2 * rating_std.square())).mean()


def regression_loss(rating: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (β = 0.25 rating units) between (B,) ratings and targets.

    >>> import torch
    >>> float(regression_loss(torch.tensor([3.0]), torch.tensor([4.0])))
    0.875
    """
    return functional.smooth_l1_loss(rating, target, beta=0.25)
