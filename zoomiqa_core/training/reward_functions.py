"""The rewards as TRL calls them: one function a term, over the samples of one process.

TRL normalises per image, and the ratings of one image may lie on several processes, so the rank
reward gathers everybody's ratings first, on every process in every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object

from zoomiqa_core.assessment import BBox
from zoomiqa_core.training.completion_rewards import (
    TOLERANCE,
    GroundingKind,
    Outcome,
    ScoreKind,
    format_reward,
    grounding_reward,
    rank_rewards,
    read_outcome,
    score_reward,
)
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS

RewardFunction = Callable[..., list[float | None]]


@dataclass(frozen=True)
class RewardConfig:
    """Weights and kinds of the rewards; a weight of 0 still logs its term."""

    format: float = 1.0
    """Weight of the format reward."""
    score: float = 1.0
    """Weight of the score reward."""
    rank: float = 1.0
    """Weight of the rank reward."""
    grounding: float = 0.0
    """Weight of the grounding reward, for images whose damaged region is known."""
    score_kind: ScoreKind = "threshold"
    """``threshold`` or ``smooth``, see :func:`~completion_rewards.score_reward`."""
    tolerance: float = TOLERANCE
    """Rating units, of ``threshold``."""
    sigma: float = 0.5
    """Rating units, of ``smooth``."""
    grounding_kind: GroundingKind = "iou"
    """``iou`` or ``centre``, see :func:`~completion_rewards.grounding_reward`."""

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or not any(self.weights):
            raise ValueError(f"expected weights ≥ 0, one above, got {self.weights}")
        if self.tolerance <= 0 or self.sigma <= 0:
            raise ValueError(
                f"expected tolerance and sigma above 0, got {self.tolerance} and {self.sigma}"
            )

    @property
    def weights(self) -> list[float]:
        """In the order of :func:`reward_functions`."""
        return [self.format, self.score, self.rank, self.grounding]


def reward_functions(config: RewardConfig, max_rounds: int = MAX_ROUNDS) -> list[RewardFunction]:
    """Format, score, rank and grounding; the columns ``mos``, ``image_id``, ``region_truth``.

    Each also counts, through TRL's ``log_metric``: ``unparsable`` (share of roll-outs),
    ``zoom_share`` and ``distinct_ratings`` (mean over images, of the parsable ones).
    """

    def outcomes(completions: Sequence[Any], images: Sequence[Any]) -> list[Outcome]:
        return [
            read_outcome(replies(completion), pictures[0].size, max_rounds)
            for completion, pictures in zip(completions, images, strict=True)
        ]

    def format(completions: Sequence[Any], **_: Any) -> list[float | None]:
        return _finite(format_reward(replies(said), max_rounds) for said in completions)

    def score(completions, images, mos, **_: Any) -> list[float | None]:
        kind, limits = config.score_kind, {"tolerance": config.tolerance, "sigma": config.sigma}
        return _finite(
            score_reward(said.rating, truth, kind, **limits)
            for said, truth in zip(outcomes(completions, images), mos, strict=True)
        )

    def rank(completions, images, mos, image_id, **kwargs: Any) -> list[float | None]:
        said = outcomes(completions, images)
        local = [
            (str(image), float(truth), one.rating, one.zoomed)
            for image, truth, one in zip(image_id, mos, said, strict=True)
        ]
        everybody = gather_object(local)
        if log_metric := kwargs.get("log_metric"):
            _log(everybody, log_metric)
        return _finite(ranks_of(local, everybody))

    def grounding(completions, images, **kwargs: Any) -> list[float | None]:
        truths: Sequence[Sequence[BBox]] = kwargs.get("region_truth") or [()] * len(completions)
        said = outcomes(completions, images)
        return [
            grounding_reward(one, boxes, config.grounding_kind) if boxes else None
            for one, boxes in zip(said, truths, strict=True)
        ]

    return [format, score, rank, grounding]


def ranks_of(
    local: Sequence[tuple[str, float, float, bool]],
    everybody: Sequence[tuple[str, float, float, bool]],
) -> list[float]:
    """Rank reward of this process's samples among everybody's.

    Args:
        local: image, MOS, rating (NaN for none) and whether it zoomed, of each sample here.
        everybody: those of all processes, these included.

    Raises:
        ValueError: one image has two MOS.
    """
    ratings: dict[str, list[float]] = {}
    mos: dict[str, float] = {}
    for image, truth, rating, *_ in everybody:
        if mos.setdefault(image, truth) != truth:
            raise ValueError(
                f"image_id {image!r} has the MOS {mos[image]} and {truth}: an id names one image"
            )
        ratings.setdefault(image, []).append(rating)
    earned = {
        (image, rating): reward
        for image, rewards in rank_rewards(ratings, mos).items()
        for rating, reward in zip(ratings[image], rewards, strict=True)
    }
    return [
        earned[image, rating] if math.isfinite(rating) else 0.0 for image, _, rating, *_ in local
    ]


def replies(completion: Sequence[dict[str, Any]]) -> list[str]:
    """What the model said in each round of a roll-out."""
    return [_text(turn["content"]) for turn in completion if turn["role"] == "assistant"]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _log(everybody: Sequence[tuple[str, float, float, bool]], log_metric: Any) -> None:
    ratings: dict[str, set[float]] = {}
    for image, _, rating, _ in everybody:
        ratings.setdefault(image, set())
        if math.isfinite(rating):
            ratings[image].add(rating)
    failed = sum(not math.isfinite(rating) for _, _, rating, _ in everybody)
    log_metric("unparsable", failed / len(everybody))
    log_metric("zoom_share", sum(zoomed for *_, zoomed in everybody) / len(everybody))
    log_metric("distinct_ratings", sum(map(len, ratings.values())) / len(ratings))


def _finite(rewards: Iterable[float]) -> list[float | None]:
    """One infinite reward would ruin its whole group in TRL's normalisation."""
    return [reward if math.isfinite(reward) else 0.0 for reward in rewards]
