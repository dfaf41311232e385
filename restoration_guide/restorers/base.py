"""What every restorer offers: candidates by seed and by a declared plan of settings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from zoomiqa_core.images.sources import ImageLimits


@dataclass(frozen=True)
class Settings:
    """How the bundled restorer samples one candidate."""

    steps: int
    """Network evaluations, at least 1; 1 is the minimum-mean-square-error estimate."""
    strength: float
    """Scale of the predicted correction: 0 keeps the input, 1 is the prediction, above 1 is
    over-restoration."""
    temperature: float
    """Scale of the noise: 0 is free of chance, 1 is the model's own distribution."""
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
    """One restored image and how it was made."""

    index: int
    """Place in the run, from 0; with the seed it determines the image."""
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
    """What was done to make it fit, and what the pipeline said of it, e.g. that its safety checker
    flagged the image."""

    @property
    def settings_dict(self) -> dict[str, Any]:
        """The settings by name, whatever their type."""
        given = self.settings
        return asdict(given) if isinstance(given, Settings) else dict(given)


@dataclass(frozen=True)
class Preview:
    """What a candidate half-way through sampling is heading for."""

    index: int
    """Index of the candidate."""
    step: int
    """Network evaluations done, from 1."""
    steps: int
    """Network evaluations the whole candidate takes."""
    image: Tensor
    """(3, H, W) float32 in [0, 1] on the input's grid: the predicted clean image x0."""
    nfe: int | None = None
    """Network evaluations it added to the run so far, counted like `Candidate.nfe`."""


class Observer(Protocol):
    """Looks at candidates while they are made, and may end some of them."""

    def __call__(self, previews: Sequence[Preview]) -> Collection[int]:
        """Called after every network evaluation but the last with the candidates made together.

        Returns:
            The indices to go on with; the others end here and are never yielded.
        """
        ...


@runtime_checkable
class Restorer(Protocol):
    """Makes candidates for one degraded image."""

    name: str
    """What reports and configurations call it; for a folder its path as given."""
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
        candidates; those it lets go on are what they would have been without it.
        """
        ...


def candidate_generator(seed: int, index: int) -> torch.Generator:
    """CPU generator of candidate `index` under `seed`; streams of different pairs are unrelated.

    Raises:
        ValueError: A negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}.")
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    # torch seeds are signed 64-bit numbers
    return torch.Generator().manual_seed(int(state) >> 1)
