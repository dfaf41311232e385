"""The quality gate: may a restored image replace its input?

Good enough is a rating of at least ``min_rating``; :mod:`restoration_guide.gate.calibration` finds
it from labelled images. :mod:`restoration_guide.gate.verdict` holds the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from torch import Tensor

from restoration_guide.fidelity.measure import FidelityLimits, measure_fidelity
from restoration_guide.gate.verdict import GateConfig, Judged, Verdict, decide
from restoration_guide.search.judging import check_judge, judge_image
from restoration_guide.search.screening import screen
from restoration_guide.search.selection import OK, Selection
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.pixels import without_batch
from zoomiqa_core.images.sources import (
    DEFAULT_LIMITS,
    ImageError,
    ImageLimits,
    ImageSource,
    read_image,
)

if TYPE_CHECKING:
    from zoomiqa_core.scorer import Scorer

LASTING = frozenset({"wrong_size", "unreadable"})
"""Defects of a result that another attempt would share."""


class QualityGate:
    """Decides whether a restored image may replace its input.

    Args:
        scorer: the judge.
        min_rating: the rating from which an image is good enough.
        second: another judge, best one trained on other data, with a veto: it must not rate the
            result below the input. It only compares, so that its scale may differ.
        confidence: k of the lower bound, see :class:`GateConfig`.
        min_gain: see :class:`GateConfig`.
        limits: fidelity limits; None for the measured defaults.

    Raises:
        TypeError: what was given is no judge.
        ValueError: a setting is out of range.

    >>> import torch, zoomiqa_core as zi
    >>> gate = QualityGate(zi.load_scorer("proxy"), min_rating=3.5)
    >>> noise = torch.rand(3, 64, 64)
    >>> verdict = gate(noise, torch.zeros_like(noise))
    >>> verdict.action, verdict.defect
    ('retry', 'constant')
    """

    def __init__(
        self,
        scorer: Scorer,
        min_rating: float = GateConfig.min_rating,
        *,
        second: Scorer | None = None,
        confidence: float = GateConfig.confidence,
        min_gain: float = GateConfig.min_gain,
        limits: FidelityLimits | None = None,
    ) -> None:
        self.judges = (scorer,) if second is None else (scorer, second)
        for judge in self.judges:
            check_judge(judge)
        self.config = GateConfig(min_rating, confidence, min_gain)
        self.limits = FidelityLimits() if limits is None else limits

    @overload
    def __call__(self, before: Selection, *, final: bool = ...) -> Verdict: ...
    @overload
    def __call__(
        self,
        before: ImageSource,
        after: ImageSource,
        *,
        final: bool = ...,
        sizes: ImageLimits = ...,
    ) -> Verdict: ...

    def __call__(
        self,
        before: ImageSource | Selection,
        after: ImageSource | None = None,
        *,
        final: bool = False,
        sizes: ImageLimits = DEFAULT_LIMITS,
    ) -> Verdict:
        """Judge a result.

        Args:
            before: the input; or the outcome of a best-of-N search, whose choice is judged.
            after: the restored image. It may be unreadable, black, NaN or of another size.
            final: there will be no other attempt: ``reject`` instead of ``retry``.
            sizes: of images that are read.

        Raises:
            TypeError: a pair without its result, or a selection with one.
        """
        if isinstance(before, Selection) != (after is None):
            raise TypeError("call gate(before, after) or gate(selection)")
        if isinstance(before, Selection):
            return self._of_selection(before, final)
        try:
            source = read_image(before, limits=sizes).pixels
        except ImageError as error:
            return Verdict("reject", (f"the input cannot be read: {error.code}: {error}",))
        return self.compare(source, after, self.judge(source), final=final, sizes=sizes)

    def judge(self, image: Tensor) -> tuple[Assessment, ...]:
        """What each judge says of (3, H, W) in [0, 1]; a judge that raises has failed."""
        return tuple(judge_image(judge, image, image) for judge in self.judges)

    def compare(
        self,
        source: Tensor,
        after: ImageSource | None,
        before: Sequence[Assessment],
        *,
        known: Assessment | None = None,
        final: bool = False,
        sizes: ImageLimits = DEFAULT_LIMITS,
    ) -> Verdict:
        """The verdict on a result of an input that is judged already.

        Args:
            source: (3, H, W) in [0, 1], the input.
            after: the result; None where there is none.
            before: what :meth:`judge` says of ``source``.
            known: what the first judge has said of the result, if it was asked.
            final, sizes: as in :meth:`__call__`.
        """
        defect, detail, pixels = _inspect(after, source, sizes)
        fidelity, problems = None, [f"{defect}: {detail}"] if defect else []
        if pixels is None:
            said = [Assessment.failed(defect or "", detail)] * len(self.judges)
        else:
            fidelity = measure_fidelity(pixels[None], source[None])[0]
            problems += [f"unfaithful: {broken}" for broken in fidelity.violations(self.limits)]
            said = [
                known
                if known is not None and judge is self.judges[0]
                else judge_image(judge, pixels, source)
                for judge in self.judges
            ]
        ratings = tuple(
            Judged(_name(judge), *pair)
            for judge, pair in zip(self.judges, zip(before, said, strict=True), strict=True)
        )
        again = not final and defect not in LASTING
        action, reasons = decide(ratings, self.config, problems, again=again)
        return Verdict(action, reasons, ratings, defect, fidelity)

    def _of_selection(self, selection: Selection, final: bool) -> Verdict:
        """The choice of a search; what the same judge said there is not asked again."""
        same = selection.scorer is self.judges[0]
        source, chosen, said = selection.image("input"), selection.choice, selection.assessments
        before = tuple(
            said["input"] if same and judge is self.judges[0] else judge_image(judge, source)
            for judge in self.judges
        )
        after = None if chosen == "input" else selection.image(chosen)
        known = said.get(chosen) if same else None
        return self.compare(source, after, before, known=known, final=final)


def _inspect(
    after: ImageSource | None, source: Tensor, sizes: ImageLimits
) -> tuple[str | None, str, Tensor | None]:
    """Name of the result's defect, its figures, and the pixels of a result without one."""
    if after is None:
        return "no_candidate", "there is no result", None
    try:
        if isinstance(after, Tensor) and after.is_floating_point():
            pixels = without_batch(after).detach().float().cpu()
        else:
            pixels = read_image(after, limits=sizes).pixels
    except ImageError as error:
        return "unreadable", f"{error.code}: {error}", None
    status, detail = screen(pixels, source)
    return (None, "", pixels.clamp(0, 1)) if status == OK else (status, detail, None)


def _name(judge: Scorer) -> str:
    return getattr(judge, "name", type(judge).__name__)
