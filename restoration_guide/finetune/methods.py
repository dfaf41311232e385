"""What the methods of fine-tuning share: the batch they are given and what they make of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from restoration_guide.finetune.rewards import RunningScale


@dataclass(frozen=True, eq=False)
class Rewarded:
    """N candidates of each of B inputs."""

    images: Tensor
    """(B, N, 3, H, W) in [0, 1]."""
    terms: dict[str, Tensor]
    """(B, N) each; ``reward`` is what counts, NaN where a candidate has none."""

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
    candidates: Rewarded | None = None
    """What was made of them before, and how it was rated, where that is to be learned from."""

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        truth = None if self.truth is None else self.truth.to(device)
        made = self.candidates
        if made is not None:
            terms = {name: values.to(device) for name, values in made.terms.items()}
            made = Rewarded(made.images.to(device), terms)
        return Batch(self.degraded.to(device), truth, made)


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one batch teaches."""

    losses: Tensor
    """(N,) with a graph, one for each usable sample; empty when nothing can be learned."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Values to log, detached, (M,) each; NaN where a sample has none."""
    skipped: int = 0
    """Samples that could not be used."""


class Method(Protocol):
    """A way to learn from rewards."""

    def lesson(self, batch: Batch, *, generator: torch.Generator) -> Lesson:
        """Losses of a batch; the loop takes their mean over all processes and passes.

        Args:
            batch: on the network's device.
            generator: a CPU generator, the same for the same step whatever was done before.
        """
        ...

    def learned(self, terms: dict[str, Tensor], *, stepped: bool) -> None:
        """Called after every step with the terms of all processes, the same on each of them."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the trained weights."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state`."""
        ...


class ScaledMethod:
    """The state of a method whose reward has terms with running scales.

    Args:
        scale: the reward's.
    """

    def __init__(self, scale: RunningScale | None = None) -> None:
        self.scale = scale or RunningScale()

    def learned(self, terms: dict[str, Tensor], *, stepped: bool) -> None:
        """Follow the terms' spread."""
        self.scale.update(terms)

    def state(self) -> dict[str, Any]:
        """The terms' scales."""
        return {"variance": dict(self.scale.variance)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the terms' scales."""
        self.scale.variance = dict(state["variance"])
