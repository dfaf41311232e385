"""Restore until a result passes the gate: other seeds, more steps, stronger guidance."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from restoration_guide.fidelity.colour import is_grey
from restoration_guide.gate.verdict import Action, Verdict
from restoration_guide.search.screening import matched_colour
from zoomiqa_core.images.sources import ImageSource, read_image

if TYPE_CHECKING:
    from restoration_guide.gate.gate import QualityGate
    from restoration_guide.restorers.base import Restorer

STEPS = ("steps", "num_inference_steps")
GUIDANCE = ("guidance_scale", "true_cfg_scale")
"""Names of the settings a policy changes: the bundled restorer's, and those of diffusers' calls."""


@dataclass(frozen=True)
class RetryPolicy:
    """How retries differ from the first attempt.

    >>> RetryPolicy().settings([{"num_inference_steps": 20, "guidance_scale": 4.0}], attempt=1)
    {'num_inference_steps': 30, 'guidance_scale': 5.0}

    Attempt k (from 0) has seed ``seed + k`` and entry k of the restorer's plan, round and round,
    with ``steps · more_steps^k`` steps and ``guidance · stronger_guidance^k``. A plan that does
    not name a setting leaves it to the pipeline, where it cannot be changed.

    The strength of the bundled restorer is not raised: corrections above the predicted one made
    images worse (docs/measurements/best_of_n.md).
    """

    attempts: int = 3
    """Attempts at most, the first one included."""
    more_steps: float = 1.5
    """Factor on the steps from one attempt to the next; 1 leaves them."""
    stronger_guidance: float = 1.25
    """Factor on the guidance scale from one attempt to the next; 1 leaves it."""
    max_steps: int = 100
    """No attempt is given more steps than this because of the policy."""
    max_guidance: float = 15.0
    """No attempt is given a larger guidance scale than this because of the policy."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.max_steps < 1:
            raise ValueError(
                f"attempts and max_steps count from 1, got {self.attempts} and {self.max_steps}."
            )
        factors = (self.more_steps, self.stronger_guidance, self.max_guidance)
        if not all(1 <= factor < math.inf for factor in factors):
            raise ValueError(
                "more_steps, stronger_guidance and max_guidance are finite and at least 1, got "
                f"{factors}."
            )

    def settings(self, plan: Sequence[Any], attempt: int) -> Any:
        """The entry of a restorer's plan that an attempt uses, changed for it.

        Args:
            plan: :class:`~restoration_guide.restorers.base.Settings`, or keyword arguments of a
                pipeline's call.
            attempt: from 0.
        """
        given = plan[attempt % len(plan)]
        named = dict(given) if isinstance(given, Mapping) else asdict(given)
        changed: dict[str, Any] = {}
        for name, value in named.items():
            if name in STEPS and value is not None:
                more = math.ceil(value * self.more_steps**attempt)
                changed[name] = max(value, min(more, self.max_steps))
            elif name in GUIDANCE and value is not None:
                more = value * self.stronger_guidance**attempt
                changed[name] = max(value, min(more, self.max_guidance))
        return {**named, **changed} if isinstance(given, Mapping) else replace(given, **changed)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One restoration and its verdict."""

    number: int
    """From 0."""
    seed: int
    settings: Mapping[str, Any]
    """What the restorer was told."""
    verdict: Verdict
    image: Tensor | None
    """(3, H, W) as the restorer gave it, without colour where the input has none; None when it
    failed."""
    error: str | None
    """What the restorer raised."""
    seconds: float
    """Wall-clock of restoring and judging."""

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON, without the image."""
        record = {name: getattr(self, name) for name in ("number", "seed", "error", "seconds")}
        return {**record, "settings": dict(self.settings), "verdict": self.verdict.to_dict()}


@dataclass(frozen=True, eq=False)
class GatedRun:
    """The outcome of a gated restoration."""

    input: Tensor
    """(3, H, W) float32 in [0, 1]: the image that came in."""
    attempts: tuple[Attempt, ...]
    """Every attempt, in order; the last one's verdict is the outcome."""

    @property
    def verdict(self) -> Verdict:
        """The verdict that ended the run: never ``retry``."""
        return self.attempts[-1].verdict

    @property
    def action(self) -> Action:
        """The action that ended the run: ``accept``, ``keep_input`` or ``reject``."""
        return self.verdict.action

    @property
    def image(self) -> Tensor | None:
        """(3, H, W) in [0, 1]: the accepted result, the kept input, or None when rejected."""
        if self.action == "keep_input":
            return self.input
        result = self.attempts[-1].image
        if self.action == "reject" or result is None:
            return None
        return result.detach().float().cpu().clamp(0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON, without images."""
        return {"action": self.action, "attempts": [each.to_dict() for each in self.attempts]}


def with_plan(restorer: Restorer, plan: Sequence[Any]) -> Restorer:
    """A copy of the restorer with the same weights and another plan.

    A restorer whose plan cannot be changed is returned as it is.
    """
    other: Any = copy.copy(restorer)
    try:
        other.plan = tuple(plan)
    except AttributeError:  # a read-only property, as the protocol has it
        return restorer
    return other


def run_gated(
    gate: QualityGate,
    restorer: Restorer,
    image: ImageSource,
    *,
    seed: int = 0,
    policy: RetryPolicy | None = None,
) -> GatedRun:
    """Restore until a result passes, the input turns out good enough, or attempts run out.

    >>> import torch, zoomiqa_core as zi
    >>> from restoration_guide import QualityGate, load_restorer
    >>> gate = QualityGate(zi.load_scorer("proxy"), min_rating=5)
    >>> run = run_gated(gate, load_restorer("builtin"), torch.rand(3, 32, 32))
    >>> run.action, len(run.attempts)
    ('reject', 3)

    Nothing usable is lost when Ctrl-C ends it: the first accepted result ends it anyway.

    Args:
        gate: decides.
        restorer: makes one candidate an attempt; its plan is not changed. Where the plan is a
            read-only property, attempts differ by their seeds alone.
        image: the degraded image, of a size within ``restorer.limits``.
        seed: of the first attempt.
        policy: of the further ones; None for the defaults.

    The result of a greyscale image is greyscale, as in a best-of-N search.

    Raises:
        ImageError: the image cannot be read, or the restorer cannot take its size.
    """
    policy = policy or RetryPolicy()
    source = read_image(image, limits=restorer.limits).pixels
    grey = is_grey(source)
    before = gate.judge(source)
    attempts: list[Attempt] = []
    while not attempts or attempts[-1].verdict.action == "retry":
        number, start = len(attempts), time.perf_counter()
        settings = policy.settings(restorer.plan, number)
        once = with_plan(restorer, (settings,))
        settings = once.plan[0]
        result, error = None, None
        try:
            candidate = next(iter(once.restore(source[None], n=1, seed=seed + number)))
            result = matched_colour(candidate, grey).image
        except Exception as raised:  # whatever a restorer raises, the next attempt may work
            error = f"{type(raised).__name__}: {raised}"
        final = number + 1 == policy.attempts
        verdict = gate.compare(source, result, before, final=final)
        named = dict(settings) if isinstance(settings, Mapping) else asdict(settings)
        seconds = time.perf_counter() - start
        attempts.append(Attempt(number, seed + number, named, verdict, result, error, seconds))
    return GatedRun(source, tuple(attempts))
