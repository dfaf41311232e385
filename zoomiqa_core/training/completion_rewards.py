"""Rewards of Zoom-IQA's second stage (arXiv 2601.02918): format, score, rank, and grounding.

The paper's own Eq. 3–5 were not available; each function states the formula used here. A roll-out
is the list of its replies, one a round. One that does not parse in every round earns 0 from every
reward and is counted, and it takes no part in anybody's rank: no rating is ever made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox
from zoomiqa_core.training.reply_grammar import is_well_formed
from zoomiqa_core.zoom_iqa.answer import Answer, AnswerError, parse_answer
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS

ScoreKind = Literal["threshold", "smooth"]
GroundingKind = Literal["iou", "centre"]

TOLERANCE = 0.35
"""Rating units within which a rating counts as right (Q-Insight, arXiv 2503.22679)."""
EPSILON = 1e-6


class Outcome(NamedTuple):
    """What a roll-out came to."""

    rating: float
    """Of the last round, clipped to 1–5; NaN when a round did not parse."""
    error: str | None = None
    """Why it did not: the error code of :class:`zoomiqa_core.zoom_iqa.answer.AnswerError`."""
    bbox: BBox | None = None
    """The region asked for first, as written but sorted and in shares of the image; None when none
    was asked for, or none that can be used."""
    zoomed: bool = False
    """A closer look was asked for."""


def read_outcome(
    replies: Sequence[str], size: tuple[int, int], max_rounds: int = MAX_ROUNDS
) -> Outcome:
    """What the replies of one roll-out say.

    Unlike :func:`zoomiqa_core.zoom_iqa.protocol.conclude` it does not fall back to an earlier
    round: a training that rewarded the fallback would teach the model to break off.

    Args:
        replies: of the rounds, in order.
        size: (width, height) of the image, pixels.
        max_rounds: as many as there were at most.
    """
    if not replies:
        raise ValueError("expected the replies of a roll-out, got none")
    answers: list[Answer] = []
    for number, reply in enumerate(replies, start=1):
        try:
            answers.append(parse_answer(reply, last_round=number >= max_rounds))
        except AnswerError as error:
            return Outcome(math.nan, error.code)
    rating = min(max(answers[-1].rating, MIN_RATING), MAX_RATING)
    first = answers[0]
    return Outcome(rating, None, _shares(first.bbox, size), first.tool == "crop")


def format_reward(replies: Sequence[str], max_rounds: int = MAX_ROUNDS) -> float:
    """1 when every reply follows the grammar of the prompts to the letter, else 0 (Eq. 3).

    The grammar is that of :mod:`zoomiqa_core.training.reply_grammar`; the last round cannot ask for
    a crop.
    """
    return float(
        bool(replies)
        and all(
            is_well_formed(reply, first=number == 1, last=number >= max_rounds)
            for number, reply in enumerate(replies, start=1)
        )
    )


def score_reward(
    rating: float,
    mos: float,
    kind: ScoreKind = "threshold",
    *,
    tolerance: float = TOLERANCE,
    sigma: float = 0.5,
) -> float:
    """How near a rating comes to the mean opinion score (Eq. 4).

    ``threshold`` (Q-Insight): 1[|r − mos| < tolerance].
    ``smooth``: exp(−(r − mos)² / 2σ²), which still tells two wrong ratings apart.

    Args:
        rating: 1–5, or NaN for none.
        mos: 1–5.
        kind: which of the two.
        tolerance: rating units.
        sigma: rating units.
    """
    error = abs(rating - mos)
    if not math.isfinite(error):
        return 0.0
    if kind == "threshold":
        return float(error < tolerance)
    return math.exp(-error * error / (2 * sigma * sigma))


def rank_rewards(
    ratings: Mapping[str, Sequence[float]], mos: Mapping[str, float]
) -> dict[str, list[float]]:
    """How well each rating orders its image among the others (Eq. 5).

    The fidelity of VisualQuality-R1 (arXiv 2505.14460) under Thurstone's model: with K ratings
    q_ij of image i, their mean q̄_i and unbiased variance v_i,

        p_ij,z = Φ((q_ij − q̄_z) / √(v_i + v_z + 1e-6))
        g_i,z  = 1, ½ or 0 as mos_i is above, at or below mos_z
        r_ij   = mean over z ≠ i of √(p g + 1e-6) + √((1 − p)(1 − g) + 1e-6)

    so a perfect order earns 1.001. Sums are exact, so the result does not depend on the order of
    images or ratings, nor on the number of processes they came from.

    Named cases: a rating that is not finite earns 0 and counts in no mean or variance; the variance
    of a single rating is 0; an image whose ratings all failed is nobody's rival; without any rival
    every reward is 0.

    Args:
        ratings: of each image, in the order the rewards are wanted.
        mos: of each image.
    """
    known = {
        image: _mean_and_variance(finite)
        for image, row in ratings.items()
        if (finite := [q for q in row if math.isfinite(q)])
    }
    rewards: dict[str, list[float]] = {}
    for image, row in ratings.items():
        rivals = [other for other in known if other != image]
        rewards[image] = [
            math.fsum(_fidelity(q, mos[image], known[image][1], *known[z], mos[z]) for z in rivals)
            / len(rivals)
            if rivals and math.isfinite(q)
            else 0.0
            for q in row
        ]
    return rewards


def grounding_reward(
    outcome: Outcome, truths: Sequence[BBox], kind: GroundingKind = "iou"
) -> float:
    """Whether the closer look went where the damage is, of several places the best; 0 without one.

    ``iou``: intersection over union of the box asked for and the true box.
    ``centre``: 1 when the centre of the box asked for lies inside the true box. (The other way
    round, every box large enough would earn it.)

    Args:
        outcome: of the roll-out.
        truths: true boxes, normalised xyxy.
        kind: which of the two.
    """
    if outcome.error or outcome.bbox is None:
        return 0.0
    return max((_overlap(outcome.bbox, truth, kind) for truth in truths), default=0.0)


def _overlap(box: BBox, truth: BBox, kind: GroundingKind) -> float:
    (ax, ay, bx, by), (tx, ty, ux, uy) = box, truth
    if kind == "centre":
        return float(tx <= (ax + bx) / 2 <= ux and ty <= (ay + by) / 2 <= uy)
    shared = max(0.0, min(bx, ux) - max(ax, tx)) * max(0.0, min(by, uy) - max(ay, ty))
    union = (bx - ax) * (by - ay) + (ux - tx) * (uy - ty) - shared
    return shared / union if union > 0 else 0.0


def _fidelity(
    q: float, mos: float, variance: float, rival_mean: float, rival_var: float, rival_mos: float
) -> float:
    z = (q - rival_mean) / math.sqrt(variance + rival_var + EPSILON)
    p = min(max(0.5 * math.erfc(-z / math.sqrt(2)), 0.0), 1.0)
    g = 1.0 if mos > rival_mos else 0.0 if mos < rival_mos else 0.5
    # Both probabilities are clamped: a rounding error below zero would make the root NaN.
    return math.sqrt(p * g + EPSILON) + math.sqrt(max(1 - p, 0.0) * (1 - g) + EPSILON)


def _mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _shares(bbox: BBox | None, size: tuple[int, int]) -> BBox | None:
    """Sorted, clamped, in shares of the image, as ``crop_box`` reads it."""
    if bbox is None or not any(bbox):
        return None
    width, height = (1, 1) if all(0 <= value <= 1 for value in bbox) else size
    x0, x1 = sorted(min(max(bbox[i] / width, 0.0), 1.0) for i in (0, 2))
    y0, y1 = sorted(min(max(bbox[i] / height, 0.0), 1.0) for i in (1, 3))
    return x0, y0, x1, y1
