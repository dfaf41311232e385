"""When a search ends, and where it looks further: adaptive N, and refinement of the best.

Adaptive N judges each candidate as it is finished and ends the search when the best is good enough,
or when one more is not expected to be worth it: the optimal stopping rule of search with recall
(Weitzman, *Optimal Search for the Best Alternative*, Econometrica 1979), with the expected
improvement under a normal distribution of the gains seen so far (Jones et al., *Efficient Global
Optimization*, 1998). Departures: candidates of a plan are not independent draws, and the
distribution is estimated from few.

Refinement is a zero-order search around the best candidate, as around the best noise in Ma et al.
(*Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps*, 2025). Its
neighbours have the same noise and another strength: ``input + strength · (candidate − input)``,
so they need no evaluation of any network, and it works with every restorer.
``benchmarks.evaluate_strategies`` compares what each way gains and costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

LEAST = 3
"""Candidates seen before their spread is trusted."""
FIRST_STEP = 0.25
"""First change of the strength."""
STRENGTHS = (0.0, 1.5)
"""Limits of the strength relative to the candidate; 1 is the candidate itself."""


@dataclass(frozen=True)
class Strategy:
    """How many candidates a search makes; the default makes all ``n``.

    >>> Strategy(target_gain=0.5).reason_to_stop([0.1, 0.6], left=6)
    'the target gain of 0.5 was reached'
    >>> Strategy(target_gain=0.5).reason_to_stop([0.1, 0.2], left=6)
    ''
    """

    target_gain: float | None = None
    """Ends the search when the lower bound of the best gain reaches this many rating points."""
    min_improvement: float = 0.0
    """Ends it when one more candidate is expected to raise the best lower bound by less than this
    many rating points, .01 for example; 0 never ends it. At least three candidates are made."""
    refine: int = 0
    """How many neighbours of the best candidate are judged when the others are; they cost no
    evaluations of the restorer."""

    def __post_init__(self) -> None:
        if self.target_gain is not None and not 0 < self.target_gain < math.inf:
            raise ValueError(
                f"target_gain is a gain in rating points, > 0; got {self.target_gain}."
            )
        if not 0 <= self.min_improvement < math.inf:
            raise ValueError(
                f"min_improvement is a gain in rating points, ≥ 0; got {self.min_improvement}."
            )
        if self.refine < 0:
            raise ValueError(f"refine counts candidates, ≥ 0; got {self.refine}.")

    def reason_to_stop(self, lower_gains: Sequence[float], left: int) -> str:
        """Why no further candidate is made; empty to go on.

        Args:
            lower_gains: lower bounds of the gains of the usable candidates so far.
            left: candidates that could still be made.
        """
        if not left:
            return ""
        best = max(lower_gains, default=-math.inf)
        if self.target_gain is not None and best >= self.target_gain:
            return f"the target gain of {self.target_gain:g} was reached"
        if self.min_improvement and len(lower_gains) >= LEAST:
            expected = expected_improvement(lower_gains)
            if expected < self.min_improvement:
                return f"one more was expected to add {expected:.3f}"
        return ""


def expected_improvement(gains: Sequence[float]) -> float:
    """By how much one more draw is expected to exceed the best so far, or 0, the input's gain.

    Draws are normal; the standard deviation is widened by √(1 + 1/m), the error of the mean of m.

    >>> round(expected_improvement([0.1, 0.2, 0.3]), 3)
    0.012

    Args:
        gains: at least two.
    """
    mean, spread = fmean(gains), stdev(gains) * math.sqrt(1 + 1 / len(gains))
    best = max(0.0, *gains)
    if spread == 0:
        return max(0.0, mean - best)
    z = (mean - best) / spread
    normal = NormalDist()
    return spread * (normal.pdf(z) + z * normal.cdf(z))


def refined(start: float, rate: Callable[[float], float | None], count: int) -> None:
    """Pattern search over the strength: ``rate`` is called with up to ``count`` strengths.

    Steps go down and up from the best strength so far; when neither is better, they are halved
    (Hooke & Jeeves, *Direct Search Solution of Numerical and Statistical Problems*, 1961).

    >>> tried = []
    >>> def rate(strength):
    ...     tried.append(strength)
    ...     return -abs(strength - 0.6)
    >>> refined(rate(1.0), rate, 5)
    >>> tried
    [1.0, 0.75, 0.5, 0.25, 0.375, 0.625]

    Args:
        start: value of strength 1.
        rate: value of a strength, higher is better; None where the candidate is unusable.
        count: calls of ``rate``.
    """
    best, value, step = 1.0, start, FIRST_STEP
    tried = {best}
    for _ in range(count):
        strength = _next(best, step, tried)
        while strength is None:
            step /= 2
            strength = _next(best, step, tried)
        tried.add(strength)
        found = rate(strength)
        if found is not None and found > value:
            best, value = strength, found


def _next(best: float, step: float, tried: set[float]) -> float | None:
    """The neighbour to try: below first, then above; None when both were."""
    low, high = STRENGTHS
    for strength in (best - step, best + step):
        if low < strength <= high and strength not in tried:
            return strength
    return None
