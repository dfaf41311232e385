"""Best of N: restore N ways, judge every candidate, keep the best one or the input.

This is the one place that chooses. A candidate wins only if the rating one can count on,
``rating − confidence · rating_std``, exceeds the input's rating by more than ``min_gain`` (doubt
counts against a change), and only if it is still a picture of the same thing (fidelity limits).
What cannot be used is skipped, counted and named, never given a default rating:

=================  =================================================================
status             a candidate …
=================  =================================================================
ok                 … that may be chosen
wrong_size         … whose shape is not the input's (3, H, W)
not_finite         … with NaN or infinite pixels
out_of_range       … with pixels outside [0, 1]
constant           … that is black or one flat colour while the input is not
judgement_failed   … the judge failed on
unfaithful         … beyond a fidelity limit
pruned             … ended half-way (:mod:`restoration_guide.prune`); rated by its preview
=================  =================================================================
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from restoration_guide.fidelity import FidelityLimits, measure_fidelity
from restoration_guide.prune import NO_RUNGS, PruneConfig, Pruner
from restoration_guide.screening import screened
from restoration_guide.selection import OK, Index, Row, Selection
from restoration_guide.timing import Stopwatch
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images import ImageSource, read_image

if TYPE_CHECKING:
    from restoration_guide.restorers.base import Candidate, Restorer
    from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class BestOfNConfig:
    """Settings of a search."""

    n: int = 8
    """Number of candidates."""
    batch_size: int = 1
    """Candidates that may be restored and judged together. On an accelerator more is faster, takes
    as many times the memory, and changes candidates by rounding at most. On the CPU the builtin
    restorer and judge work one by one, so there it has no effect."""
    confidence: float = 0.5
    """k of the lower bound ``rating − k · rating_std``; 0 trusts the rating alone."""
    min_gain: float = 0.1
    """Rating points by which a candidate's lower bound must exceed the input's rating."""
    fidelity: FidelityLimits = field(default_factory=FidelityLimits)
    prune: PruneConfig | None = None
    """Ends candidates half-way; None makes every candidate to its end."""
    deadline_s: float | None = None
    """Seconds after which to choose among what is finished by then; None waits for all."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.batch_size < 1:
            raise ValueError(
                f"n and batch_size count candidates, ≥ 1; got n={self.n}, "
                f"batch_size={self.batch_size}."
            )
        if not (0 <= self.confidence < math.inf and 0 <= self.min_gain < math.inf):
            raise ValueError(
                "confidence and min_gain are finite numbers ≥ 0; got "
                f"confidence={self.confidence}, min_gain={self.min_gain}."
            )
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ValueError(f"deadline_s is a time in seconds, > 0; got {self.deadline_s}.")


class Choice(NamedTuple):
    """Which row, and why."""

    index: Index
    reason: str


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during the search; ``selection`` holds the choice among what was finished."""

    def __init__(self, selection: Selection) -> None:
        super().__init__(f"interrupted after {len(selection.candidates)} candidates")
        self.selection = selection


def choose(rows: Sequence[Row], k: float, min_gain: float) -> Choice:
    """Pick the row to keep: the highest lower bound, if it beats the input's rating.

    Args:
        rows: the input (index ``"input"``) and the candidates; only status ``"ok"`` can win.
        k: lower bound = rating − k · rating_std.
        min_gain: the winner's lower bound must be greater than the input's rating plus this.

    Returns:
        The winner; equal bounds go to the lowest index. The input when no candidate is left, when
        none is better by more than ``min_gain``, or when the input itself has no valid judgement:
        what cannot be compared cannot be shown to be better.

    Raises:
        ValueError: no row is the input.
    """
    source = next((row for row in rows if row.index == "input"), None)
    if source is None:
        raise ValueError("choose() needs the row of the input (index 'input') among its rows.")
    candidates = [row for row in rows if row.index != "input"]
    usable = [row for row in candidates if row.status == OK]
    if not usable:
        counts = sorted(Counter(row.status for row in candidates).items())
        skipped = ", ".join(f"{count} {status}" for status, count in counts)
        why = f"all {len(candidates)} were skipped ({skipped})" if counts else "none was finished"
        return Choice("input", f"input kept: no candidate to choose from, {why}")
    if source.status != OK:
        return Choice(
            "input",
            f"input kept: it could not be judged ({source.detail}), so no candidate can be shown "
            "to be better",
        )
    best = max(usable, key=lambda row: (row.lower_bound(k), -int(row.index)))
    bound = best.lower_bound(k)
    figures = f"lower bound {bound:.2f} against the input's rating {source.rating:.2f}"
    if bound > source.rating + min_gain:
        return Choice(best.index, f"candidate {best.index} is best: {figures}")
    return Choice(
        "input",
        f"input kept: the best candidate ({best.index}) has {figures}, and a gain of more than "
        f"{min_gain:g} is asked for",
    )


class BestOfN:
    """Restore an image N ways and keep the best by a judge, guarded by fidelity.

    Args:
        restorer: makes candidates by seed and plan.
        scorer: judges them.
        n: number of candidates.
        batch_size: candidates that may be restored and judged together, see :class:`BestOfNConfig`.
        confidence: k of the lower bound ``rating − k · rating_std``.
        min_gain: rating points by which a candidate's lower bound must exceed the input's rating.
        limits: fidelity limits; None for the measured defaults.
        prune: ends candidates half-way; None makes every candidate to its end.
        deadline_s: seconds after which to choose among the candidates finished by then. The time
            that is left is spent as evaluations at the pace so far, so that it is passed by one
            evaluation and the last judgements at most.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        restorer: Restorer,
        scorer: Scorer,
        n: int = BestOfNConfig.n,
        *,
        batch_size: int = BestOfNConfig.batch_size,
        confidence: float = BestOfNConfig.confidence,
        min_gain: float = BestOfNConfig.min_gain,
        limits: FidelityLimits | None = None,
        prune: PruneConfig | None = None,
        deadline_s: float | None = None,
    ) -> None:
        self.restorer = restorer
        self.scorer = scorer
        limits = FidelityLimits() if limits is None else limits
        self.config = BestOfNConfig(n, batch_size, confidence, min_gain, limits, prune, deadline_s)

    def __call__(
        self,
        image: ImageSource,
        seed: int = 0,
        *,
        progress: Callable[[Candidate], None] | None = None,
    ) -> Selection:
        """Search.

        Args:
            image: the degraded image, of a size within ``restorer.limits``.
            seed: candidate i of a seed is the same image whatever ``n`` and ``batch_size``.
            progress: called with each candidate as it is finished.

        Returns:
            The selection. A restorer that fails half-way leaves its finished candidates in the
            running and its error in ``Selection.error``.

        Raises:
            ImageError: the image cannot be read, or the restorer cannot take its size.
            SearchInterrupted: Ctrl-C; its ``selection`` is the choice among finished candidates.
            KeyboardInterrupt: Ctrl-C before the first candidate was finished, or while judging.
        """
        watch = Stopwatch()
        decoded = read_image(image, limits=self.restorer.limits)
        source = decoded.pixels
        with watch.measure("judging"):
            judgement = self._judge([source])[0]
        pruner = self._pruner(source, seed, watch)
        with watch.measure("restoring"):
            candidates, error = self._restore(source, seed, progress, pruner)
        assessments: dict[Index, Assessment] = {"input": judgement}
        rows: list[Row] = []
        for first in range(0, len(candidates), self.config.batch_size):
            batch = candidates[first : first + self.config.batch_size]
            rows += self._rows(batch, source, assessments, watch)
        rows += [] if pruner is None else pruner.ended
        rows.sort(key=lambda row: int(row.index))
        rows.insert(0, Row("input").judged(judgement))

        choice = choose(rows, self.config.confidence, self.config.min_gain)
        described = None if error is None else _describe(error)
        stopped = "" if error is None else f"; the restorer stopped early: {described}"
        selection = Selection(
            input=source,
            choice=choice.index,
            reason=choice.reason + stopped,
            rows=tuple(rows),
            candidates=tuple(sorted(candidates, key=lambda candidate: candidate.index)),
            assessments=assessments,
            config=self._resolved_config(),
            seed=seed,
            timing=watch.read(),
            name=decoded.name,
            notes=decoded.notes,
            error=described,
            scorer=self.scorer,
        )
        if isinstance(error, KeyboardInterrupt):
            raise SearchInterrupted(selection) from None
        return selection

    def _pruner(self, source: Tensor, seed: int, watch: Stopwatch) -> Pruner | None:
        """What ends candidates half-way, by the same rows that the choice is made by."""
        config = self.config
        if config.prune is None and config.deadline_s is None:
            return None
        return Pruner(
            config.prune or NO_RUNGS,
            self.restorer.plan,
            seed,
            rate=lambda previews: self._rows(previews, source, {}, watch),
            value=lambda row: row.lower_bound(config.confidence),
            deadline=watch.start + (config.deadline_s or math.inf),
            judging_s=watch.seconds["judging"],
        )

    def _restore(
        self,
        source: Tensor,
        seed: int,
        progress: Callable[[Candidate], None] | None,
        pruner: Pruner | None,
    ) -> tuple[list[Candidate], BaseException | None]:
        """Finished candidates, and what stopped the restorer early."""
        finished: list[Candidate] = []
        n, batch_size = self.config.n, self.config.batch_size
        watched = {} if pruner is None else {"observer": pruner}
        try:
            stream = self.restorer.restore(
                source[None], n=n, seed=seed, batch_size=batch_size, **watched
            )
            for candidate in islice(stream, n):
                finished.append(candidate)
                if progress is not None:
                    progress(candidate)
                if pruner is not None and not pruner.finish(candidate):
                    break
        except KeyboardInterrupt as interrupt:
            if not finished:
                raise
            return finished, interrupt
        except Exception as error:  # whatever a restorer raises, finished work counts
            return finished, error
        return finished, None

    def _rows(
        self,
        batch: Sequence[Candidate],
        source: Tensor,
        assessments: dict[Index, Assessment],
        watch: Stopwatch,
    ) -> list[Row]:
        """Screen, measure and judge a batch of candidates; adds to ``assessments``."""
        rows = {candidate.index: screened(candidate, source) for candidate in batch}
        images = {
            candidate.index: candidate.image.detach().float().cpu().clamp(0, 1)
            for candidate in batch
            if rows[candidate.index].status == OK
        }
        if not images:
            return list(rows.values())
        with watch.measure("fidelity"):
            fidelities = measure_fidelity(torch.stack(list(images.values())), source[None])
        with watch.measure("judging"):
            judgements = self._judge(list(images.values()))
        for index, fidelity, judgement in zip(images, fidelities, judgements, strict=True):
            assessments[index] = judgement
            row = replace(rows[index], fidelity=fidelity).judged(judgement)
            broken = "; ".join(fidelity.violations(self.config.fidelity))
            if broken and row.status == OK:
                row = replace(row, status="unfaithful", detail=broken)
            rows[index] = row
        return list(rows.values())

    def _judge(self, images: list[Tensor]) -> list[Assessment]:
        """Judge a batch; when the judge raises, one by one, so that one image fails alone."""
        try:
            with torch.no_grad():
                return list(self.scorer.assess(images))
        except Exception as error:
            if len(images) > 1:
                return [self._judge([image])[0] for image in images]
            return [Assessment.failed("judge_error", _describe(error))]

    def _resolved_config(self) -> dict[str, Any]:
        return {
            **asdict(self.config),
            "restorer": self.restorer.name,
            "scorer": getattr(self.scorer, "name", type(self.scorer).__name__),
        }


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
