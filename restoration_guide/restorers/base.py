"""The restorer protocol: candidates that are determined by a seed and a plan of settings."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoomiqa_core.images.sources import ImageLimits
from zoomiqa_core.runs.random import derived_generator

RANGE_TOLERANCE = 1e-3
"""Pixels may leave [0, 1] by this much: resizing overshoots by rounding."""


@dataclass(frozen=True)
class Settings:
    """How the bundled restorer samples one candidate.

    >>> Settings(steps=4, strength=0.9, temperature=0.5, churn=True)
    Settings(steps=4, strength=0.9, temperature=0.5, churn=True)
    """

    steps: int
    """Network evaluations, at least 1; 1 is the minimum-mean-square-error estimate."""
    strength: float
    """Scale of the predicted correction: 0 keeps the input, 1 is the prediction, above 1 is
    over-restoration."""
    temperature: float
    """Scale of the noise: 0 is deterministic, 1 samples the model's distribution."""
    churn: bool
    """Fresh noise between the first and the last step (a stochastic sampler) instead of one draw
    at the start; the last step ends on the prediction whatever the noise."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}.")
        if not 0.0 <= self.strength <= 2.0:
            raise ValueError(f"strength must lie in [0, 2], got {self.strength}.")
        if not 0.0 <= self.temperature <= 2.0:
            raise ValueError(f"temperature must lie in [0, 2], got {self.temperature}.")


AnySettings = Settings | Mapping[str, Any]
"""One entry of a plan: the bundled restorer's, or keyword arguments of a pipeline's call."""


@dataclass(frozen=True)
class Candidate:
    """One restored image and how it was made.

    >>> from restoration_guide import load_restorer
    >>> first, *_ = load_restorer("builtin").restore(torch.rand(1, 3, 32, 32), n=1)
    >>> first.index, first.nfe, first.settings_dict["steps"], tuple(first.image.shape)
    (0, 1, 1, (3, 32, 32))
    """

    index: int
    """Number of the candidate in the run, from 0; with the seed it determines the image."""
    seed: int
    """Seed of the run."""
    settings: AnySettings
    """`plan[index % len(plan)]`."""
    image: Tensor
    """(3, H, W) float32 in [0, 1] on the input's grid."""
    seconds: float
    """Wall-clock of this candidate: its share when several were made together."""
    nfe: int | None = None
    """Network evaluations it added to the run; one that several candidates share counts with the
    first of them, so that the sum is the run's. None where the restorer does not count."""
    notes: tuple[str, ...] = ()
    """What was done to make it fit, and what the pipeline reported, e.g. that its safety checker
    flagged the image."""

    @property
    def settings_dict(self) -> dict[str, Any]:
        """The settings by name, whatever their type."""
        given = self.settings
        return asdict(given) if isinstance(given, Settings) else dict(given)


@dataclass(frozen=True)
class Preview:
    """The clean image predicted for a candidate in the middle of sampling."""

    index: int
    """Index of the candidate."""
    step: int
    """Network evaluations done, from 1."""
    steps: int
    """Network evaluations of the whole candidate."""
    image: Tensor
    """(3, H, W) float32 in [0, 1] on the input's grid: the predicted clean image x0."""
    nfe: int | None = None
    """Network evaluations it added to the run so far, counted like `Candidate.nfe`."""


class Observer(Protocol):
    """A callback that sees candidates while they are sampled, and may end some of them."""

    def __call__(self, previews: Sequence[Preview]) -> Collection[int]:
        """Called after every network evaluation but the last with the candidates made together.

        Returns:
            The indices to go on with; the others end here and are never yielded.
        """
        ...


@runtime_checkable
class Restorer(Protocol):
    """Makes candidates for one degraded image.

    >>> from restoration_guide import load_restorer
    >>> restorer = load_restorer(lambda image: image.flip(-1), name="mirror")
    >>> isinstance(restorer, Restorer), restorer.name, restorer.plan
    (True, 'mirror', ({},))
    """

    name: str
    """Name in reports and configurations; for a folder its path as given."""
    limits: ImageLimits
    """Sizes it can restore; images are read with them, so a wrong size is named before decoding."""

    @property
    def plan(self) -> Sequence[AnySettings]:
        """Settings the candidates cycle through."""
        ...

    def restore(
        self,
        image: Tensor,
        *,
        n: int,
        seed: int = 0,
        batch_size: int = 1,
        observer: Observer | None = None,
    ) -> Iterator[Candidate]:
        """Yield candidates 0 … n - 1 of (1, 3, H, W) in [0, 1].

        Candidate i is the same image whatever `n` and `batch_size`; on an accelerator, where a
        batch may round differently, up to rounding. An `observer` sees previews and ends
        candidates; those it lets go on are the same images as without it. Arguments are checked
        when it is called. A candidate that fails does not end the others: the first error is raised
        once they are finished.
        """
        ...


def candidate_generator(seed: int, index: int) -> torch.Generator:
    """CPU generator of candidate `index` under `seed`; different pairs give unrelated streams.

    >>> torch.rand(2, generator=candidate_generator(seed=0, index=3))
    tensor([0.5201, 0.1556])

    Raises:
        ValueError: A negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}.")
    return derived_generator(seed, index)


def plan_with(
    plan: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A plan whose every entry has these settings; entries that they make equal are left out.

    Without settings the plan stays as it is: equal entries in it differ by their seeds.

    >>> plan_with([{"steps": 1, "strength": 1.0}, {"steps": 5, "strength": 1.0}], {"steps": 3})
    [{'steps': 3, 'strength': 1.0}]
    """
    entries = [{**entry, **options} for entry in plan]
    if not options:
        return entries
    return [entry for place, entry in enumerate(entries) if entry not in entries[:place]]


def check_request(image: Tensor, *, n: int, seed: int, batch_size: int) -> None:
    """Check the arguments of `Restorer.restore`.

    Raises:
        TypeError: The image is not a float tensor.
        ValueError: Wrong shape or range, n or batch_size below 1, or a negative seed.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"Expected one image as a float tensor (1, 3, H, W) in [0, 1], got {kind}; "
            "zoomiqa_core.images.sources.to_batch makes one from a file or a PIL image."
        )
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"Expected one image (1, 3, H, W), got {tuple(image.shape)}.")
    low, high = (float(value) for value in image.aminmax())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"Expected pixels in [0, 1], got {low:.4g} to {high:.4g}: divide 8-bit values by 255; "
            "of [-1, 1], take image / 2 + 0.5."
        )
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")


def reason_unobservable(restorer: Restorer) -> str | None:
    """Why a restorer shows no previews, whatever the image; None when it does.

    A restorer says so itself by an attribute ``unobservable``: the reason, or None.

    >>> from restoration_guide import load_restorer
    >>> reason_unobservable(load_restorer("builtin")) is None
    True
    """
    parameters = inspect.signature(restorer.restore).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    if "observer" not in parameters and not takes_any:
        return "its restore() takes no observer"
    return getattr(restorer, "unobservable", None)


def check_observable(restorer: Restorer) -> None:
    """Refuse a restorer that shows no previews, whatever the image.

    >>> from restoration_guide import load_restorer
    >>> check_observable(load_restorer("builtin"))

    Raises:
        ValueError: pruning and deadlines, which need an observer, do not work with it.
    """
    reason = reason_unobservable(restorer)
    if reason is not None:
        raise ValueError(
            f"{restorer.name} shows no previews, because {reason}; prune and deadline_s need them."
        )


def ask_observer(observer: Observer, previews: Sequence[Preview]) -> set[int]:
    """Indices of the candidates that go on.

    Raises:
        ValueError: The observer names a candidate that it was not shown.
    """
    going_on, indices = set(observer(previews)), [preview.index for preview in previews]
    unknown = sorted(going_on.difference(indices))
    if unknown:
        raise ValueError(
            f"The observer goes on with candidates {unknown}, but was shown {indices}."
        )
    return going_on
