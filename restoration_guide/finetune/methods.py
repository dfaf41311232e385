"""Interface of the fine-tuning methods: their batches, their losses and their saved state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RatedCandidates:
    """N candidates of each of B inputs, with their rewards."""

    images: Tensor
    """(B, N, 3, H, W) in [0, 1]."""
    terms: dict[str, Tensor]
    """(B, N) each; ``reward`` is the one that is trained on, NaN where a candidate has none."""

    @property
    def reward(self) -> Tensor:
        """(B, N)."""
        return self.terms["reward"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one training or evaluation step."""

    degraded: Tensor
    """(B, 3, H, W) in [0, 1]."""
    truth: Tensor | None = None
    """The clean images, of the same shape, where they are known."""
    candidates: RatedCandidates | None = None
    """Stored candidates with their rewards, where the method trains on those."""

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        truth = None if self.truth is None else self.truth.to(device)
        made = self.candidates
        if made is not None:
            terms = {name: values.to(device) for name, values in made.terms.items()}
            made = RatedCandidates(made.images.to(device), terms)
        return Batch(self.degraded.to(device), truth, made)


@dataclass(frozen=True, eq=False)
class StepLosses:
    """Losses of the usable samples of a batch."""

    losses: Tensor
    """(N,) with a graph, one for each usable sample; empty when no sample is usable."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Values to log, detached, (M,) each; NaN where a sample has none. Names with a slash are
    logged as they are, others as ``reward/NAME``."""
    skipped: int = 0
    """Samples that could not be used."""


class Method(Protocol):
    """A fine-tuning method: turns a batch into losses."""

    def compute_loss(self, batch: Batch, *, generator: torch.Generator) -> StepLosses:
        """Losses of a batch; the loop takes their mean over all batches of a step.

        Args:
            batch: on the network's device.
            generator: a CPU generator, determined by the step and the batch.
        """
        ...

    def after_step(self, terms: dict[str, Tensor], *, stepped: bool) -> None:
        """Called after every step with the terms of all processes, the same on each of them."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the trained weights."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`."""
        ...
