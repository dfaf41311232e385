"""Refine an image in rounds: assess, restore with prompts from the judge's words, assess again.

Each round writes prompts from what the judge says of the image at hand, restores that image with
them, and keeps the result only when the judge rates it clearly higher than the image at hand *and*
it is still faithful to the image that came in, so that small departures cannot add up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from restoration_guide.fidelity.colour import is_grey
from restoration_guide.gate.gate import QualityGate
from restoration_guide.gate.run import with_plan
from restoration_guide.gate.verdict import Verdict
from restoration_guide.prompts.write import PromptTarget, WrittenPrompts, write_prompts
from restoration_guide.search.screening import matched_colour
from zoomiqa_core.assessment import MIN_RATING, Assessment
from zoomiqa_core.images.sources import ImageSource, read_image, save_image
from zoomiqa_core.runs.files import to_json, write_text_atomic

if TYPE_CHECKING:
    from restoration_guide.fidelity.measure import FidelityLimits
    from restoration_guide.restorers.base import Restorer
    from zoomiqa_core.images.decoded import DecodedImage
    from zoomiqa_core.scorer import Scorer


@runtime_checkable
class ReadsPrompts(Protocol):
    """A restorer that words can guide."""

    def with_prompts(self, positive: str, negative: str = "") -> Restorer:
        """The same restorer with other words."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """One round."""

    number: int
    """From 0."""
    seed: int
    prompts: WrittenPrompts
    verdict: Verdict
    """On the result against the image at hand; fidelity is to the image that came in."""
    image: Tensor | None
    """(3, H, W) as the restorer gave it; None when it failed."""
    error: str | None
    """What the restorer raised."""
    seconds: float
    """Wall-clock of restoring and judging."""

    @property
    def kept(self) -> bool:
        """Whether the result became the image at hand."""
        return self.verdict.accepted

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON, without the image."""
        record = {n: getattr(self, n) for n in ("number", "seed", "kept", "error", "seconds")}
        return {**record, "prompts": self.prompts.to_dict(), "verdict": self.verdict.to_dict()}


@dataclass(frozen=True, eq=False)
class Refinement:
    """The outcome of a refinement."""

    input: Tensor
    """(3, H, W) float32 in [0, 1]: the image that came in."""
    image: Tensor
    """(3, H, W) float32 in [0, 1]: the last result kept, or the input."""
    before: Assessment
    """The first judgement of the input."""
    after: Assessment
    """The judgement of ``image``."""
    steps: tuple[Step, ...]
    """Every round, in order."""
    reason: str
    """Why it ended."""
    decoded: DecodedImage | None = None
    """The image as it was read: its EXIF and alpha go into ``best.png``."""

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON, without images."""
        return {
            "reason": self.reason,
            "kept": [step.number for step in self.steps if step.kept],
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
        }

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write ``refinement.json`` (every step) and ``best.png``; files of that name are replaced.

        Returns:
            The directory.
        """
        folder = Path(directory).expanduser()
        save_image(self.image, folder / "best.png", like=self.decoded)
        write_text_atomic(folder / "refinement.json", to_json(self.to_dict(), sort_keys=False))
        return folder


def refine(
    restorer: Restorer,
    scorer: Scorer,
    image: ImageSource,
    *,
    rounds: int = 3,
    seed: int = 0,
    positive: str | None = None,
    negative: str | None = None,
    without: bool = False,
    target: PromptTarget | None = None,
    second: Scorer | None = None,
    confidence: float = 0.5,
    min_gain: float = 0.1,
    limits: FidelityLimits | None = None,
) -> Refinement:
    """Let a judge's words guide a restorer for a few rounds.

    A round that does not help is followed by one of the same words with another seed. Ctrl-C ends
    it with the exception, without a result.

    Args:
        restorer: one that reads prompts (``with_prompts``).
        scorer: a judge that gives words, a Zoom-IQA model.
        image: the degraded image, of a size within ``restorer.limits``.
        rounds: at most.
        seed: of the first round; round k has ``seed + k`` and entry k of the plan, round and round.
        positive: base prompt, see :func:`~restoration_guide.prompts.write.write_prompts`; None for
            the restorer's own.
        negative: base negative prompt, likewise.
        without: what becomes of issues where there is no negative prompt, likewise.
        target: what the prompts are for; None reads the restorer's pipeline.
        second: a second judge with a veto, see :class:`~restoration_guide.gate.gate.QualityGate`.
        confidence: k of the lower bound ``rating − k · rating_std`` of a result.
        min_gain: rating points by which that bound must exceed the rating of the image at hand.
        limits: fidelity limits; None for the measured defaults.

    Raises:
        TypeError: the restorer reads no prompts.
        ValueError: ``rounds`` < 1, or a base prompt over the token limit.
        ImageError: the image cannot be read, or the restorer cannot take its size.
    """
    if not isinstance(restorer, ReadsPrompts):
        raise TypeError(
            f"the restorer {restorer.name!r} takes no prompts, so words cannot guide it; load a "
            "diffusers pipeline with a text encoder: load_restorer(pipe)."
        )
    if rounds < 1:
        raise ValueError(f"rounds counts from 1, got {rounds}.")
    target = _target_of(restorer) if target is None else target
    own = getattr(restorer, "adapter", None)
    positive = str(getattr(own, "prompt", "")) if positive is None else positive
    negative = str(getattr(own, "negative_prompt", "")) if negative is None else negative
    # Every image is "good enough", so that only a clear gain is accepted.
    gate = QualityGate(
        scorer, MIN_RATING, second=second, confidence=confidence, min_gain=min_gain, limits=limits
    )
    decoded = read_image(image, limits=restorer.limits)
    source = decoded.pixels
    grey = is_grey(source)
    current, said = source, gate.judge(source)
    first, steps, reason = said[0], [], f"all {rounds} rounds are done"
    for number in range(rounds):
        if not said[0].valid:
            reason = f"the judge failed: {said[0].error}: {said[0].message}"
            break
        prompts = write_prompts(
            said[0], target, positive=positive, negative=negative, without=without
        )
        if not prompts.phrases:
            reason = f"{scorer.name} gives no words that could guide a restorer"
            break
        start = time.perf_counter()
        result, error = None, None
        try:
            settings = restorer.plan[number % len(restorer.plan)]
            guided: Any = with_plan(restorer, (settings,))
            words = prompts.positive, prompts.negative or ""
            stream = guided.with_prompts(*words).restore(current[None], n=1, seed=seed + number)
            result = matched_colour(next(iter(stream)), grey).image
        except Exception as raised:  # whatever a restorer raises, what was kept counts
            error = f"{type(raised).__name__}: {raised}"
        verdict = gate.compare(source, result, said)
        seconds = time.perf_counter() - start
        steps.append(Step(number, seed + number, prompts, verdict, result, error, seconds))
        if verdict.accepted and result is not None:
            current = result.detach().float().cpu().clamp(0, 1)
            said = tuple(each.after for each in verdict.ratings)
    return Refinement(source, current, first, said[0], tuple(steps), reason, decoded)


def _target_of(restorer: Any) -> PromptTarget:
    """What a restorer's pipeline reads; no limit for one without a pipeline of diffusers."""
    adapter = getattr(restorer, "adapter", None)
    if adapter is None:
        return PromptTarget()
    settings = [adapter.options, *(each for each in restorer.plan if isinstance(each, Mapping))]
    name = "max_sequence_length"
    return PromptTarget.of(
        adapter.pipe, min((each[name] for each in settings if name in each), default=None)
    )
