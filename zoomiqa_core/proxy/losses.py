"""Losses that teach the proxy; pure functions in fp32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from zoomiqa_core.proxy.preprocess import STRIDE


def ranking_loss(
    ratings: Tensor, order: Tensor, group: Tensor, *, min_gap: float, scale: float = 0.25
) -> Tensor:
    """Logistic ranking over the ordered pairs inside each group (RankNet, Burges et al. 2005).

    Mean over groups of the mean over a group's pairs with ``order[i] − order[j] ≥ min_gap`` of
    ``softplus(−(ratings[i] − ratings[j]) / scale) · scale``: zero slope once a pair is well
    apart, slope 1 when it is inverted. Groups count alike, however many pairs they have.

    Args:
        ratings: (N,) predicted ratings.
        order: (N,) values whose order the ratings should follow, any unit; NaN takes no part.
        group: (N,) only images of the same group are compared.
        min_gap: pairs closer than this in ``order`` say nothing; > 0.
        scale: softness in rating units.

    Returns:
        Scalar; exactly 0 (with a graph) when no pair is apart.
    """
    if min_gap <= 0:
        raise ValueError(f"min_gap must be positive, got {min_gap}: equal targets are no order")
    ordered = (order[:, None] - order[None, :]) >= min_gap
    ordered = ordered & (group[:, None] == group[None, :])
    difference = ratings[:, None] - ratings[None, :]
    loss = scale * functional.softplus(-difference / scale)
    pairs = ordered.sum(1)  # led by each image
    own = group[:, None] == group.unique()[None, :]  # (N, groups)
    count = (pairs[:, None] * own).sum(0)
    means = ((loss * ordered).sum(1)[:, None] * own).sum(0) / count.clamp(min=1)
    return means.sum() / (count > 0).sum().clamp(min=1)


def map_loss(quality_map: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 between the quality map and a rating map given per pixel.

    Args:
        quality_map: (B, 1, h, w) cells of 16 px.
        target: (B, 1, H, W) rating of every pixel, H = 16·h and W = 16·w.

    Raises:
        ValueError: the grids do not correspond.
    """
    cells = functional.avg_pool2d(target, STRIDE)
    if cells.shape != quality_map.shape:
        raise ValueError(
            f"a target of {tuple(target.shape)} has cells {tuple(cells.shape)}, "
            f"the map has {tuple(quality_map.shape)}; crop images to multiples of {STRIDE}"
        )
    return functional.smooth_l1_loss(quality_map, cells, beta=0.25)


def error_loss(rating: Tensor, rating_std: Tensor, target: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of the error under ``rating_std``, rating held fixed.

    ``log σ + (r − t)² / 2σ²``; the rating is detached, so only the spread learns.

    Args:
        rating, rating_std, target: (B,) in rating units.
    """
    error = (rating - target).detach()
    return (rating_std.log() + error.square() / (2 * rating_std.square())).mean()


def regression_loss(rating: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (β = 0.25 rating units) of (B,) ratings."""
    return functional.smooth_l1_loss(rating, target, beta=0.25)
