"""The verdict on a restored image: what to do with it, from what judges and screens say.

==========  ======================================================================================
action      meaning
==========  ======================================================================================
accept      the result is sound, faithful, good enough and better than the input: use it
keep_input  the input is good enough, and the result cannot be used or is not clearly better
retry       neither is good enough, but another attempt may be (other seed, more steps)
reject      neither may be used, and another attempt would not help
==========  ======================================================================================

A failed judgement never accepts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from restoration_guide.fidelity.measure import Fidelity
from restoration_guide.search.judging import gain_of
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, Assessment, lower_bound

ROUNDING = 1e-9
"""Of differences between ratings: 3.1 − 3.0 is above .1 in binary."""

Action = Literal["accept", "retry", "keep_input", "reject"]


@dataclass(frozen=True)
class Judged:
    """What one judge says of both images."""

    judge: str
    """Its name."""
    before: Assessment
    """The input."""
    after: Assessment
    """The result; failed with the name of its defect where the judge was not asked."""


@dataclass(frozen=True)
class Verdict:
    """What to do with a restored image, and why.

    >>> Verdict("accept", ("good enough: input 2.90, result 3.80",)).accepted
    True
    """

    action: Action
    reasons: tuple[str, ...]
    """Why, with figures."""
    ratings: tuple[Judged, ...] = ()
    """What the judge said, then the second judge where there is one; empty where the input cannot
    be read."""
    defect: str | None = None
    """What disqualifies the result before it is judged: a status of
    :mod:`restoration_guide.search.best_of_n`, ``"unreadable"`` or ``"no_candidate"``; None when
    sound."""
    fidelity: Fidelity | None = None
    """The result's fidelity to the input; None for a result with a defect."""

    @property
    def accepted(self) -> bool:
        """Whether the result may replace the input."""
        return self.action == "accept"

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON; NaN becomes None. Of judgements, their figures."""
        return {
            "action": self.action,
            "reasons": list(self.reasons),
            "ratings": [
                {
                    "judge": said.judge,
                    "before": _figures(said.before),
                    "after": _figures(said.after),
                }
                for said in self.ratings
            ],
            "defect": self.defect,
            "fidelity": None if self.fidelity is None else self.fidelity.to_dict(),
        }


@dataclass(frozen=True)
class GateConfig:
    """When a result passes."""

    min_rating: float = 3.5
    """The rating, 1–5, from which an image is good enough; a calibration gives a better one."""
    confidence: float = 0.5
    """k of the lower bound ``gain − k · gain_std``, see
    :func:`restoration_guide.search.judging.gain_of`. A judge that gives no spread is taken at its
    word."""
    min_gain: float = 0.1
    """Rating points that this bound must exceed: a re-compressed copy is no restoration. A
    calibration on gains may find a negative one."""

    def __post_init__(self) -> None:
        if not MIN_RATING <= self.min_rating <= MAX_RATING:
            raise ValueError(f"min_rating is a rating in [1, 5], got {self.min_rating}.")
        if not (0 <= self.confidence < math.inf and math.isfinite(self.min_gain)):
            raise ValueError(
                "confidence is a finite number ≥ 0 and min_gain a finite number; got "
                f"confidence={self.confidence}, min_gain={self.min_gain}."
            )


def decide(
    ratings: Sequence[Judged], config: GateConfig, problems: Sequence[str] = (), *, again: bool
) -> tuple[Action, tuple[str, ...]]:
    """The action and its reasons, from what the judges say.

    Args:
        ratings: of the judge, then of the second one where there is one.
        config: the limits.
        problems: what else speaks against the result.
        again: whether there may be another attempt that could do better.
    """
    first, before, after = ratings[0], ratings[0].before, ratings[0].after
    if not _usable(before):
        return "reject", (f"nothing can be compared: {_failure(first.judge, 'input', before)}",)
    problems = [*problems]
    if not problems or _usable(after):  # a result with a defect was not judged
        problems += _objections(ratings, config)
    if _usable(after):
        gain, std = gain_of(before, after)
        bound = lower_bound(gain, std, config.confidence)
        words = f"the lower bound of its gain, {gain:+.2f} − {config.confidence:g} × {std:.2f}"
        if not bound > config.min_gain + ROUNDING:
            problems.append(f"{words}, is not above {config.min_gain:g}")
    asked = f", {config.min_rating:.2f} asked for" if config.min_rating > MIN_RATING else ""
    figures = f"input {_rating(before)}, result {_rating(after)}{asked}"
    if not problems:
        return "accept", (f"good enough and better: {figures}; {words}, is {bound:+.2f}",)
    if before.rating >= config.min_rating:
        return "keep_input", (*problems, f"the input is good enough: {figures}")
    again = again and all(_usable(said.before) for said in ratings)
    return ("retry" if again else "reject"), (*problems, f"neither is good enough: {figures}")


def _objections(ratings: Sequence[Judged], config: GateConfig) -> list[str]:
    """What speaks against a result in its ratings."""
    first, *others = ratings
    found = []
    for said in ratings:
        for image, judgement in (("input", said.before), ("result", said.after)):
            if not _usable(judgement):
                found.append(_failure(said.judge, image, judgement))
    if _usable(first.after) and first.after.rating < config.min_rating:
        found.append(
            f"{first.judge} rates the result {first.after.rating:.2f}, below "
            f"{config.min_rating:.2f}"
        )
    for said in others:
        if said.after.rating < said.before.rating:
            found.append(
                f"{said.judge} rates the result {said.after.rating:.2f}, below the input's "
                f"{said.before.rating:.2f}"
            )
    return found


def _figures(said: Assessment) -> dict[str, Any]:
    every = said.to_dict()
    return {key: every[key] for key in ("rating", "rating_std", "valid", "error", "message")}


def _usable(said: Assessment) -> bool:
    return said.valid and math.isfinite(said.rating)


def _failure(judge: str, image: str, said: Assessment) -> str:
    detail = ": ".join(filter(None, (said.error, said.message))) or f"rating {said.rating}"
    return f"{judge} could not judge the {image}: {detail}"


def _rating(said: Assessment) -> str:
    spread = "" if math.isnan(said.rating_std) else f" ± {said.rating_std:.2f}"
    return f"{said.rating:.2f}{spread}" if _usable(said) else "not judged"
