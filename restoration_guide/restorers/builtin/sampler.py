"""Candidates of the builtin restorer half-way: chains that advance one evaluation at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from restoration_guide.restorers.base import Settings
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline


@dataclass
class Chain:
    """One candidate between its first and its last step."""

    index: int
    settings: Settings
    generator: torch.Generator
    step: int = 0
    """Steps done."""
    nfe: int = 0
    """Network evaluations, see `Candidate.nfe`."""
    seconds: float = 0.0
    latents: Tensor | None = None
    """State (1, 3, H, W) on the padded grid; None before the first step."""
    residual: Tensor | None = None
    """Prediction of the last step, (1, 3, H, W) on the padded grid."""

    @property
    def steps(self) -> int:
        """Steps of the whole chain."""
        return self.settings.steps

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.step == self.steps

    def noise(self, like: Tensor) -> Tensor:
        """(1, 3, H, W) drawn from the chain's own generator, at its temperature."""
        shape, generators = (1, *like.shape[1:]), [self.generator]
        drawn = randn_tensor(shape, generator=generators, device=like.device, dtype=like.dtype)
        return self.settings.temperature * drawn


def grouped(chains: Sequence[Chain], limit: int) -> Iterator[list[Chain]]:
    """Split chains in order into runs of equal steps and churn, at most `limit` long."""
    group: list[Chain] = []
    for chain in chains:
        if group:
            a, b = group[0].settings, chain.settings
            if len(group) == limit or (a.steps, a.churn) != (b.steps, b.churn):
                yield group
                group = []
        group.append(chain)
    yield group


class Sampler:
    """Advances chains of one image (1, 3, H, W); makes the evaluation that they share."""

    def __init__(self, pipe: TinyRestorationPipeline, image: Tensor) -> None:
        self.pipe = pipe
        self.size = image.shape[-2:]
        self.degraded = pipe.prepare_image(image)
        self.first_prediction = pipe.first_prediction(image)

    def advance(self, group: Sequence[Chain]) -> None:
        """One step of chains of equal steps, equal churn and equal progress, together."""
        started = time.perf_counter()
        i, settings = group[0].step, group[0].settings

        def noise() -> Tensor:
            return torch.cat([chain.noise(self.degraded) for chain in group])

        states = [chain.latents for chain in group if chain.latents is not None]
        latents, residuals = self.pipe.advance(
            torch.cat(states) if states else noise(),
            self.degraded,
            i,
            settings.steps,
            renew_noise=noise if settings.churn else None,
            first_prediction=self.first_prediction,
        )
        seconds = (time.perf_counter() - started) / len(group)
        for k, chain in enumerate(group):
            chain.latents, chain.residual = latents[k : k + 1], residuals[k : k + 1]
            chain.step += 1
            chain.nfe += i > 0
            chain.seconds += seconds

    def image(self, chain: Chain) -> Tensor:
        """(3, H, W) float32 in [0, 1]: a finished chain's result, another's predicted clean image.

        Raises:
            ValueError: The chain has not begun.
        """
        residual = chain.latents if chain.finished else chain.residual
        if residual is None:
            raise ValueError(f"candidate {chain.index} has made no step yet; advance it first.")
        scaled = chain.settings.strength * residual
        restored = self.pipe.restored_image(self.degraded, scaled, self.size)
        return restored[0].to("cpu", torch.float32)
