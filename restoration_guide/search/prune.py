"""Early pruning: end candidates half-way by what their previews promise, and keep to a budget.

Successive halving (Jamieson & Talwalkar, AISTATS 2016) over the candidates of one image: at a rung,
a share of the evaluations done, the best-rated previews go on and the others end. Where a restorer
makes candidates in groups, one group after another, each is compared with what was seen at that
rung so far and nobody waits for the rest, as in ASHA (Li et al., MLSys 2020). Departures: what
ended is never taken up again, previews that repeat an earlier candidate's come last, and the choice
is made among finished candidates alone, by their own ratings.

A preview is the predicted clean image, smoother than the candidate it becomes, and a judge that was
trained on photographs ranks previews less surely than candidates. ``benchmarks.evaluate_judge``
measures how surely, ``benchmarks.evaluate_strategies`` what pruning saves and costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from restoration_guide.restorers.base import AnySettings, Candidate, Preview
from restoration_guide.search.selection import OK, Row

Rate = Callable[[Sequence[Candidate]], Sequence[Row]]
"""Judges images: a row for each, in any order, as the search makes it for a candidate."""


@dataclass(frozen=True)
class PruneConfig:
    """Which share of the candidates goes on at which step, and the budget.

    >>> preview = Preview(index=5, step=1, steps=5, image=torch.zeros(3, 8, 8))
    >>> PruneConfig().rungs(preview), PruneConfig(protect=6).rungs(preview)
    ([0], [])
    """

    protect: int = 3
    """The first ``protect`` candidates are never pruned: plans begin with the settings that suit
    most photos, and previews of few evaluations predict little."""
    at: tuple[float, ...] = (0.2,)
    """Rungs, rising within (0, 1): a candidate is compared after the first evaluation by which this
    share of its evaluations is done. Empty: the budget alone ends candidates."""
    keep: tuple[float, ...] = (0.2,)
    """For each rung, the share of the candidates seen there so far that goes on, rounded up."""
    max_nfe: int | None = None
    """Most network evaluations of the whole run; None sets no limit."""

    def __post_init__(self) -> None:
        if len(self.at) != len(self.keep):
            raise ValueError(
                f"a schedule has one share to keep for each rung; got at={self.at}, "
                f"keep={self.keep}."
            )
        steps = (0.0, *self.at, 1.0)
        if not all(low < high for low, high in pairwise(steps)):
            raise ValueError(f"rungs rise within (0, 1); got at={self.at}.")
        if not all(0.0 < share <= 1.0 for share in self.keep):
            raise ValueError(f"shares to keep lie in (0, 1]; got keep={self.keep}.")
        if self.protect < 0:
            raise ValueError(f"protect counts candidates, at least 0; got {self.protect}.")
        if self.max_nfe is not None and self.max_nfe < 1:
            raise ValueError(f"max_nfe counts evaluations, at least 1; got {self.max_nfe}.")

    def rungs(self, preview: Preview) -> list[int]:
        """Numbers of the rungs that a candidate reaches with its last evaluation."""
        if preview.index < self.protect:
            return []
        before, now = (preview.step - 1) / preview.steps, preview.step / preview.steps
        rounding = 1e-9
        return [k for k, at in enumerate(self.at) if before + rounding < at <= now + rounding]

    def expected_cost(self, preview: Preview) -> float:
        """Evaluations that a candidate which goes on still costs on average.

        Every further evaluation counts with the chance to get there, by the shares kept on the way.
        """
        cost, chance = 0.0, 1.0
        for step in range(preview.step + 1, preview.steps + 1):
            cost += chance
            rungs = self.rungs(replace(preview, step=step))
            chance *= math.prod(self.keep[rung] for rung in rungs)
        return cost


NO_RUNGS = PruneConfig(at=(), keep=())
"""For a deadline without a schedule."""


class Pruner:
    """The ``Observer`` of one search.

    Args:
        config: schedule and budget.
        plan: the restorer's settings, which the rows of ended candidates show.
        seed: the search's.
        rate: judges previews.
        value: what a row that may be chosen is ranked by, higher is better; the others come last.
        deadline: moment of ``time.perf_counter`` by which the search should have chosen.
        judging_s: seconds kept back for judging each candidate once it is finished.
    """

    def __init__(
        self,
        config: PruneConfig,
        plan: Sequence[AnySettings],
        seed: int,
        *,
        rate: Rate,
        value: Callable[[Row], float],
        deadline: float = math.inf,
        judging_s: float = 0.0,
    ) -> None:
        self.config = config
        self.plan = plan
        self.seed = seed
        self.rate = rate
        self.value = value
        self.deadline = deadline
        self.judging_s = judging_s
        self.started = time.perf_counter()
        self.ended: list[Row] = []
        """Rows of the candidates ended so far, rated by their last preview if it was looked at."""
        self._pools: list[list[tuple[bool, float, int]]] = [[] for _ in config.at]
        """For each rung what was seen there: (repeats another, -value, index), the best first."""
        self._nfe: dict[int, int] = {}
        self._alive: dict[int, Preview] = {}
        self._rows: dict[int, Row] = {}
        """Rows of the previews seen last, as far as they were judged."""

    @property
    def spent(self) -> int:
        """Network evaluations so far."""
        return sum(self._nfe.values())

    def finish(self, candidate: Candidate) -> bool:
        """Take note of a finished candidate; False when the deadline is past, which ends all."""
        self._nfe[candidate.index] = candidate.nfe or 0
        self._alive.pop(candidate.index, None)
        if time.perf_counter() < self.deadline:
            return True
        self.end_all("the deadline was past")
        return False

    def end_all(self, why: str) -> None:
        """End the candidates that are on their way."""
        for preview in list(self._alive.values()):
            self._end(preview, why)

    def __call__(self, previews: Sequence[Preview]) -> set[int]:
        """Indices that go on."""
        self._rows = {}
        self._alive |= {preview.index: preview for preview in previews}
        self._nfe |= {preview.index: _nfe(preview) for preview in previews}
        kept = self._afford(self._halve(previews))
        return {preview.index for preview in kept}

    def _halve(self, previews: Sequence[Preview]) -> list[Preview]:
        """Those that the schedule keeps."""
        alive = list(previews)
        for rung, (share, keep) in enumerate(zip(self.config.at, self.config.keep, strict=True)):
            here = [p for p in alive if rung in self.config.rungs(p)]
            repeats = {p.index for p in here if _repeats(p, previews)}
            pool = self._pools[rung]
            pool += [(index in repeats, loss, index) for loss, index in self._ranked(here)]
            pool.sort()
            going_on = math.ceil(keep * len(pool))
            for preview in here:
                place = [index for _, _, index in pool].index(preview.index) + 1
                if place > going_on:
                    alive.remove(preview)
                    self._end(preview, f"place {place} of {len(pool)} at {share:.0%} of the steps")
        return alive

    def _afford(self, alive: list[Preview]) -> list[Preview]:
        """Those that the budget pays for: the best to its end, others as the schedule expects."""
        left = self._evaluations_left(alive)
        if sum(p.steps - p.step for p in alive) <= left:
            return alive
        if left < min(p.steps - p.step for p in alive):  # not worth a look at the previews
            for preview in alive:
                self._end(preview, "no budget or time was left for it")
            return []
        kept: list[Preview] = []
        by_index = {preview.index: preview for preview in alive}
        for _, index in self._ranked(alive):
            preview = by_index[index]
            cost = float(preview.steps - preview.step)
            if kept:
                cost = self.config.expected_cost(preview)
            if cost <= left:
                kept.append(preview)
                left -= cost
            else:
                self._end(preview, "no budget or time was left for it")
        return kept

    def _evaluations_left(self, alive: Sequence[Preview]) -> float:
        """What the budget allows, and what the time allows at the pace so far."""
        left = math.inf if self.config.max_nfe is None else self.config.max_nfe - self.spent
        if self.deadline < math.inf:
            now = time.perf_counter()
            pace = max(now - self.started, 1e-9) / max(self.spent, 1)
            unseen = sum(preview.index not in self._rows for preview in alive)
            judging = self.judging_s * (len(alive) + unseen)
            seconds = self.deadline - now - judging
            left = min(left, seconds / pace)
        return left

    def _ranked(self, previews: Sequence[Preview]) -> list[tuple[float, int]]:
        """(-value, index) of each, the best first; judges those that are not judged yet."""
        missing = [p for p in previews if p.index not in self._rows]
        if missing:
            rows = self.rate([self._candidate(preview) for preview in missing])
            self._rows |= {int(row.index): row for row in rows}
        rows = [self._rows[preview.index] for preview in previews]
        return sorted(
            (-self.value(row) if row.status == OK else math.inf, int(row.index)) for row in rows
        )

    def _end(self, preview: Preview, why: str) -> None:
        row = self._rows.get(preview.index)
        if row is None:  # ended unseen
            settings = self._candidate(preview).settings_dict
            row = Row(preview.index, seed=self.seed, settings=settings)
        detail = f"after {preview.step} of {preview.steps} evaluations, {why}"
        if row.status != OK:
            detail += f"; its preview: {row.status}, {row.detail}"
        del self._alive[preview.index]
        self.ended.append(
            replace(
                row,
                status="pruned",
                detail=detail,
                fidelity=None,
                seconds=None,
                nfe=_nfe(preview),
                nfe_saved=preview.steps - preview.step,
            )
        )

    def _candidate(self, preview: Preview) -> Candidate:
        settings = self.plan[preview.index % len(self.plan)]
        return Candidate(preview.index, self.seed, settings, preview.image, 0.0, preview.nfe)


def _repeats(preview: Preview, others: Sequence[Preview]) -> bool:
    """Whether an earlier candidate shows the same pixels, so that this one adds nothing yet."""
    return any(p.index < preview.index and torch.equal(p.image, preview.image) for p in others)


def _nfe(preview: Preview) -> int:
    return preview.step if preview.nfe is None else preview.nfe
