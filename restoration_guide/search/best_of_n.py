"""Best of N: restore N ways, judge every candidate, keep the best one or the input.

The rule of :mod:`restoration_guide.search.choice` chooses among the candidates within the fidelity
limits. A second, slower judge may decide among the best few. A candidate that cannot be used is
skipped and counted under one of these names; it never gets a default rating:

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
pruned             … ended half-way (:mod:`restoration_guide.search.prune`); rated by its preview
=================  =================================================================
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from restoration_guide.fidelity.colour import is_grey
from restoration_guide.fidelity.measure import FidelityLimits, measure_fidelity
from restoration_guide.restorers.base import Restorer, check_observable
from restoration_guide.search.choice import (
    ChoiceRule,
    choose,
    finalists,
    with_consensus,
    with_gains,
)
from restoration_guide.search.judging import check_judge, describe_error, judge_images
from restoration_guide.search.prune import NO_RUNGS, PruneConfig, Pruner
from restoration_guide.search.screening import matched_colour, screened
from restoration_guide.search.selection import OK, Index, Row, Selection
from restoration_guide.search.timing import Stopwatch
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.sources import ImageSource, read_image

if TYPE_CHECKING:
    from restoration_guide.restorers.base import Candidate
    from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class BestOfNConfig(ChoiceRule):
    """Settings of a search, those of the choice included.

    >>> BestOfNConfig(n=4, min_gain=0.1).finalists
    3
    """

    n: int = 8
    """Number of candidates."""
    batch_size: int = 1
    """Candidates that may be restored and judged together. On an accelerator more is faster, takes
    as many times the memory, and changes candidates by rounding at most. On the CPU the builtin
    restorer and judge work one by one, so there it has no effect."""
    finalists: int = 3
    """How many of the best the second judge is shown, where there is one."""
    fidelity: FidelityLimits = field(default_factory=FidelityLimits)
    prune: PruneConfig | None = None
    """Ends candidates half-way; None makes every candidate to its end."""
    deadline_s: float | None = None
    """Seconds after which to choose among what is finished by then; None waits for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.n, self.batch_size, self.finalists) < 1:
            raise ValueError(
                f"n, batch_size and finalists count candidates, ≥ 1; got n={self.n}, "
                f"batch_size={self.batch_size}, finalists={self.finalists}."
            )
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ValueError(f"deadline_s is a time in seconds, > 0; got {self.deadline_s}.")


class RestorationError(RuntimeError):
    """The restorer failed before it had finished any candidate; the cause is its error.

    >>> import torch, zoomiqa_core as zi
    >>> from restoration_guide import load_restorer
    >>> def broken(image, generator):
    ...     raise ValueError("no weights")
    >>> BestOfN(load_restorer(broken), zi.load_scorer("proxy"))(torch.rand(3, 32, 32))
    Traceback (most recent call last):
    restoration_guide.search.best_of_n.RestorationError: broken failed ... ValueError: no weights
    """


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during the search; ``selection`` holds the choice among the judged candidates.

    Catch it to save what was found so far, e.g. ``stopped.selection.save("best.png")``. An
    ``except Exception`` lets it pass, as it does Ctrl-C:

    >>> issubclass(SearchInterrupted, KeyboardInterrupt)
    True
    """

    def __init__(self, selection: Selection) -> None:
        super().__init__(f"interrupted after {len(selection.candidates)} candidates")
        self.selection = selection


class BestOfN:
    """Restore an image N ways and keep the best by a judge, within the fidelity limits.

    >>> import torch, zoomiqa_core as zi
    >>> from restoration_guide import load_restorer
    >>> search = BestOfN(load_restorer("builtin"), zi.load_scorer("proxy"), n=2)
    >>> result = search(torch.rand(3, 48, 64), seed=0)
    >>> len(result.candidates), tuple(result.best.shape), result.save("best.png").name
    (2, (3, 48, 64), 'best.png')

    The result of a greyscale input is greyscale: colour is taken out of its candidates.

    Args:
        restorer: makes candidates by seed and plan.
        scorer: judges them.
        n: number of candidates.
        second: a second judge, e.g. a Zoom-IQA model, that chooses among the first one's best.
        limits: fidelity limits; None for the measured defaults.
        settings: any other of :class:`BestOfNConfig`, e.g. ``select="rating"``, ``prune``
            or ``deadline_s``. The time that is left before the deadline is spent as evaluations at
            the pace so far, so that it is passed by one evaluation and the last judgements at most.

    Raises:
        TypeError: there is no such setting, or what was given is no restorer or judge.
        ValueError: a setting is out of range, or ``prune`` or ``deadline_s`` with a restorer that
            shows no previews.
    """

    def __init__(
        self,
        restorer: Restorer,
        scorer: Scorer,
        n: int = BestOfNConfig.n,
        *,
        second: Scorer | None = None,
        limits: FidelityLimits | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(restorer, Restorer):
            raise TypeError(
                f"expected a restorer, got {restorer!r}; restoration_guide.load_restorer makes one "
                "from a pipeline, a folder or a function."
            )
        for judge in (scorer,) if second is None else (scorer, second):
            check_judge(judge)
        self.restorer = restorer
        self.scorer = scorer
        self.second = second
        limits = FidelityLimits() if limits is None else limits
        self.config = BestOfNConfig(n=n, fidelity=limits, **settings)
        if self.config.prune is not None or self.config.deadline_s is not None:
            check_observable(restorer)

    def __call__(
        self,
        image: ImageSource,
        seed: int = 0,
        *,
        progress: Callable[[Candidate], None] | None = None,
        judged: Callable[[Candidate, Row], None] | None = None,
    ) -> Selection:
        """Search.

        Args:
            image: the degraded image, of a size within ``restorer.limits``.
            seed: candidate i of a seed is the same image whatever ``n`` and ``batch_size``.
            progress: called with each candidate as it is finished.
            judged: called with each finished candidate and its row, as soon as its batch is judged.
                A ``KeyboardInterrupt`` that it raises ends the search as Ctrl-C does.

        Returns:
            The selection. If the restorer fails after some candidates, the choice is among those,
            and its error is in ``Selection.error``.

        Raises:
            ImageError: the image cannot be read, or the restorer cannot take its size.
            ValueError: a negative seed, or settings that the restorer refuses.
            RestorationError: the restorer failed before it had finished any candidate.
            SearchInterrupted: Ctrl-C; its ``selection`` is the choice among the judged candidates.
            KeyboardInterrupt: Ctrl-C before the first candidate was finished.
        """
        seed = operator.index(seed)
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}.")
        watch = Stopwatch()
        decoded = read_image(image, limits=self.restorer.limits)
        source = decoded.pixels
        with watch.measure("judging"):
            judgement = judge_images(self.scorer, [source], source)[0]
        pruner = self._pruner(source, seed, watch)
        assessments: dict[Index, Assessment] = {"input": judgement}
        rows: list[Row] = []
        begun = 0  # candidates that the judge was asked about

        def judge(batch: Sequence[Candidate]) -> None:
            nonlocal begun
            begun += len(batch)
            made = self._rows(batch, source, assessments, watch)
            rows.extend(made)
            if judged is not None:
                known = with_gains([Row("input").judged(judgement), *made])[1:]
                for candidate, row in zip(batch, known, strict=True):
                    judged(candidate, row)

        with watch.measure("restoring"):
            candidates, error = self._restore(source, seed, progress, judge, pruner)
        try:
            if waiting := candidates[begun:]:
                judge(waiting)
        except KeyboardInterrupt as interrupt:
            error = interrupt
        rows += [_not_judged(candidate, source) for candidate in candidates[len(rows) :]]
        rows += [] if pruner is None else pruner.ended
        rows.sort(key=lambda row: int(row.index))
        rows = with_gains([Row("input").judged(judgement), *rows])
        images = {candidate.index: candidate for candidate in candidates}
        if self.config.select == "consensus":
            rows = with_consensus(rows, lambda index: _pixels(images[int(index)]), self.config)
        second_assessments: dict[Index, Assessment] = {}
        if not isinstance(error, KeyboardInterrupt):
            try:
                with watch.measure("judging"):
                    rows, second_assessments = self._ask_second(rows, images, source)
            except KeyboardInterrupt as interrupt:
                error = interrupt

        choice = choose(rows, self.config)
        described = None if error is None else describe_error(error)
        stopped = "" if error is None else f"; the search stopped early: {described}"
        selection = Selection(
            input=source,
            choice=choice.index,
            reason=choice.reason + stopped,
            rows=tuple(rows),
            candidates=tuple(sorted(candidates, key=lambda candidate: candidate.index)),
            assessments=assessments,
            second_assessments=second_assessments,
            config=self._resolved_config(),
            seed=seed,
            timing=watch.read(),
            name=decoded.name,
            notes=decoded.notes,
            decoded=decoded,
            error=described,
            scorer=self.scorer,
            second=self.second,
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
            value=lambda row: row.rating,
            deadline=watch.start + (config.deadline_s or math.inf),
            judging_s=watch.seconds["judging"],
        )

    def _restore(
        self,
        source: Tensor,
        seed: int,
        progress: Callable[[Candidate], None] | None,
        judge: Callable[[Sequence[Candidate]], None],
        pruner: Pruner | None,
    ) -> tuple[list[Candidate], BaseException | None]:
        """Finished candidates, judged in whole batches, and what stopped the restorer early."""
        finished: list[Candidate] = []
        n, batch_size = self.config.n, self.config.batch_size
        watched = {} if pruner is None else {"observer": pruner}
        grey = is_grey(source)
        stream = self.restorer.restore(  # arguments that it refuses are the caller's error
            source[None], n=n, seed=seed, batch_size=batch_size, **watched
        )
        try:
            for candidate in islice(stream, n):
                candidate = matched_colour(candidate, grey)
                finished.append(candidate)
                if progress is not None:
                    progress(candidate)
                if len(finished) % batch_size == 0:
                    judge(finished[-batch_size:])
                if pruner is not None and not pruner.finish(candidate):
                    break
        except KeyboardInterrupt as interrupt:
            if not finished:
                raise
            return finished, interrupt
        except Exception as error:  # whatever a restorer raises, finished candidates count
            if not finished and not (pruner and pruner.ended):
                raise RestorationError(
                    f"{self.restorer.name} failed before it had finished any of {n} candidates: "
                    f"{describe_error(error)}"
                ) from error
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
            candidate.index: _pixels(candidate)
            for candidate in batch
            if rows[candidate.index].status == OK
        }
        if not images:
            return list(rows.values())
        with watch.measure("fidelity"):
            fidelities = measure_fidelity(torch.stack(list(images.values())), source[None])
        with watch.measure("judging"):
            judgements = judge_images(self.scorer, list(images.values()), source)
        for index, fidelity, judgement in zip(images, fidelities, judgements, strict=True):
            assessments[index] = judgement
            row = replace(rows[index], fidelity=fidelity).judged(judgement)
            broken = "; ".join(fidelity.violations(self.config.fidelity))
            if broken and row.status == OK:
                row = replace(row, status="unfaithful", detail=broken)
            rows[index] = row
        return list(rows.values())

    def _ask_second(
        self, rows: list[Row], images: Mapping[int, Candidate], source: Tensor
    ) -> tuple[list[Row], dict[Index, Assessment]]:
        """The rows with the second judge's ratings of the input and the finalists."""
        best = finalists(rows, self.config, self.config.finalists)
        if self.second is None or not best:
            return rows, {}
        indices: list[Index] = ["input", *(row.index for row in best)]
        pixels = [source, *(_pixels(images[int(row.index)]) for row in best)]
        judgements = dict(zip(indices, judge_images(self.second, pixels, source), strict=True))
        rows = [
            row.judged_again(judgements[row.index]) if row.index in judgements else row
            for row in rows
        ]
        return rows, judgements

    def _resolved_config(self) -> dict[str, Any]:
        own = getattr(self.restorer, "config", None)  # words, plan and options of a pipeline
        return {
            **asdict(self.config),
            "select": select if isinstance(select := self.config.select, str) else _name(select),
            "restorer": self.restorer.name,
            **({"restorer_config": own} if own else {}),
            "scorer": _name(self.scorer),
            "second": None if self.second is None else _name(self.second),
        }


def _not_judged(candidate: Candidate, source: Tensor) -> Row:
    """The row of a candidate that was finished when Ctrl-C ended the judging."""
    row = screened(candidate, source)
    return (
        replace(row, status="judgement_failed", detail="interrupted") if row.status == OK else row
    )


def _pixels(candidate: Candidate) -> Tensor:
    return candidate.image.detach().float().cpu().clamp(0, 1)


def _name(judge: Any) -> str:
    return getattr(judge, "name", getattr(judge, "__name__", type(judge).__name__))
