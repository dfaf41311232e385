"""Ratings of regions by a vision-language judge: which regions, their chains, their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoomiqa_core.assessment import BBox, RegionScore
from zoomiqa_core.zoom_iqa.chain import Chain, combine_chains


def chosen_regions(chains: Sequence[Chain]) -> list[BBox]:
    """The regions that the chains requested, in order, without duplicates."""
    shown = (reply.bbox for chain in chains for reply in chain.rounds)
    return list(dict.fromkeys(bbox for bbox in shown if bbox is not None))


def with_round_1(chains: Sequence[Chain]) -> Chain:
    """A chain whose round 1 is usable, if there is one."""
    return next((chain for chain in chains if chain.rounds[0].valid), chains[0])


def grid_boxes(rows: int, columns: int) -> list[BBox]:
    """Normalised boxes that tile an image, row by row.

    >>> grid_boxes(1, 2)
    [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"expected a grid of at least 1×1 regions, got {rows}×{columns}")
    return [
        (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
        for y in range(rows)
        for x in range(columns)
    ]


def region_chains(first: Chain, bbox: BBox, seeds: Sequence[int]) -> list[Chain]:
    """Chains about one region, one per seed; none when round 1 about the image failed.

    Args:
        first: a chain about the whole image that finished round 1.
        bbox: normalised xyxy.
        seeds: of the chains.
    """
    round_1 = first.rounds[0]
    settings = {"retries": first.retries, "repair": first.repair, "greedy": first.greedy}
    return [
        Chain.of_region(
            first.image, bbox, round_1, first.prompts, first.question, seed=seed, **settings
        )
        for seed in seeds
        if round_1.valid
    ]


def region_score(bbox: BBox, chains: Sequence[Chain], first: Chain) -> RegionScore:
    """Combine the finished chains about a region; without chains, the failure of round 1."""
    if not chains:
        round_1 = first.rounds[0]
        return RegionScore(bbox, math.nan, math.nan, round_1.error, round_1.message)
    combined = combine_chains(chains)
    return RegionScore(bbox, combined.rating, combined.rating_std, combined.error, combined.message)
