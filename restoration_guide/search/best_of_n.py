"""Best of N: restore N ways, judge every candidate, keep the best one or the input.

Candidates are made here, all of them or as many as the strategy needs
(:mod:`restoration_guide.search.strategy`, :mod:`restoration_guide.search.prune`);
:mod:`restoration_guide.search.pick` judges them and chooses.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from restoration_guide.fidelity.measure import FidelityLimits
from restoration_guide.restorers.base import Candidate, Restorer, check_observable
from restoration_guide.search.judging import check_judge, describe_error
from restoration_guide.search.pick import PickConfig, Picking
from restoration_guide.search.prune import NO_RUNGS, PruneConfig, Pruner
from restoration_guide.search.selection import Row, Selection
from restoration_guide.search.strategy import Strategy, refined
from zoomiqa_core.images.sources import ImageSource, read_image

if TYPE_CHECKING:
    from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class BestOfNConfig(Strategy, PickConfig):
    """Settings of a search, those of the choice and the strategy included.

    >>> BestOfNConfig(n=4, min_gain=0.1, refine=2).finalists
    3
    """

    n: int = 8
    """Number of candidates, at most."""
    prune: PruneConfig | None = None
    """Ends candidates half-way; None makes every candidate to its end."""
    deadline_s: float | None = None
    """Seconds after which to choose among what is finished by then; None waits for all."""

    def __post_init__(self) -> None:
        PickConfig.__post_init__(self)
        Strategy.__post_init__(self)
        if self.n < 1:
            raise ValueError(f"n counts candidates, ≥ 1; got n={self.n}.")
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
        settings: any other of :class:`BestOfNConfig`, e.g. ``select="rating"``,
            ``target_gain=0.5``, ``refine``, ``prune`` or ``deadline_s``. The time that is left
            before the deadline is spent as evaluations at the pace so far, so that it is passed by
            one evaluation and the last judgements at most.

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
            seed: candidate i of a seed is the same image whatever ``n`` and ``batch_size``. Those
                from ``n`` on are refinements and depend on the choice among the others.
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
        decoded = read_image(image, limits=self.restorer.limits)
        picking = Picking(decoded, self.scorer, self.config, second=self.second, judged=judged)
        pruner = self._pruner(picking, seed)
        with picking.watch.measure("restoring"):
            error, note = self._restore(picking, seed, progress, pruner)
        if error is None and self.config.refine:
            error = self._refine(picking, progress)
        return picking.select(config=self._resolved_config(), seed=seed, error=error, note=note)

    def _pruner(self, picking: Picking, seed: int) -> Pruner | None:
        """What ends candidates half-way, by the same rows that the choice is made by."""
        config, watch = self.config, picking.watch
        if config.prune is None and config.deadline_s is None:
            return None
        return Pruner(
            config.prune or NO_RUNGS,
            self.restorer.plan,
            seed,
            rate=picking.rate,
            value=lambda row: row.rating,
            deadline=watch.start + (config.deadline_s or math.inf),
            judging_s=watch.seconds["judging"],
        )

    def _restore(
        self,
        picking: Picking,
        seed: int,
        progress: Callable[[Candidate], None] | None,
        pruner: Pruner | None,
    ) -> tuple[BaseException | None, str]:
        """Make candidates; what stopped the restorer early, and why no more were wanted."""
        n, batch_size, note = self.config.n, self.config.batch_size, ""
        watched = {} if pruner is None else {"observer": pruner}
        picking.skipped = [] if pruner is None else pruner.ended
        stream = self.restorer.restore(  # arguments that it refuses are the caller's error
            _source(picking)[None], n=n, seed=seed, batch_size=batch_size, **watched
        )
        finished = picking.candidates
        try:
            for candidate in itertools.islice(stream, n):
                candidate = picking.take(candidate)
                if progress is not None:
                    progress(candidate)
                if len(finished) % batch_size == 0:
                    picking.judge()
                if pruner is not None and not pruner.finish(candidate):
                    break
                if note := self._enough(picking, n - len(finished) - len(picking.skipped)):
                    if pruner is not None:
                        pruner.end_all("the search was ended")
                    break
        except KeyboardInterrupt as interrupt:
            if not finished:
                raise
            return interrupt, note
        except Exception as error:  # whatever a restorer raises, finished candidates count
            if not finished and not (pruner and pruner.ended):
                raise RestorationError(
                    f"{self.restorer.name} failed before it had finished any of {n} candidates: "
                    f"{describe_error(error)}"
                ) from error
            return error, note
        return None, note

    def _enough(self, picking: Picking, left: int) -> str:
        """Why the candidates so far are enough; empty to go on."""
        reason = self.config.reason_to_stop([*picking.lower_gains().values()], left)
        return f"ended after {self.config.n - left} of {self.config.n}: {reason}" if reason else ""

    def _refine(
        self, picking: Picking, progress: Callable[[Candidate], None] | None
    ) -> KeyboardInterrupt | None:
        """Judge neighbours of the best candidate; the Ctrl-C that ended it."""
        try:
            picking.judge()
            gains = picking.lower_gains()
            if not gains:
                return None
            best = max(gains, key=lambda index: (gains[index], -index))
            made = next(each for each in picking.candidates if each.index == best)
            source, numbers = _source(picking), itertools.count(self.config.n)

            def rate(strength: float) -> float | None:
                blended = source + strength * (made.image.to(source) - source)
                settings = {"refined from": best, "strength of it": strength}
                index, image = next(numbers), blended.clamp(0, 1)
                candidate = picking.take(Candidate(index, made.seed, settings, image, 0.0, 0))
                if progress is not None:
                    progress(candidate)
                picking.judge()
                return picking.lower_gains().get(index)

            refined(gains[best], rate, self.config.refine)
        except KeyboardInterrupt as interrupt:
            return interrupt
        return None

    def _resolved_config(self) -> dict[str, Any]:
        own = getattr(self.restorer, "config", None)  # words, plan and options of a pipeline
        return {"restorer": self.restorer.name, **({"restorer_config": own} if own else {})}


def _source(picking: Picking) -> Tensor:
    """The input's pixels, which a search always has."""
    if picking.source is None:
        raise ValueError("a search needs an input")
    return picking.source
