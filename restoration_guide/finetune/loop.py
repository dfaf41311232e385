"""The training loop of every method: accumulation, several processes, skipped steps.

A step's batches are divided among the processes: two processes with one batch each learn what one
process with two batches learns, up to rounding. The gradient is the mean over all usable samples of
a step. A step without any, or with a gradient that is not finite, changes no weight and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, Method, StepLosses
from zoomiqa_core.runs.learning_rate import warmup_cosine
from zoomiqa_core.runs.random import derived_generator

DrawBatch = Callable[[torch.Generator], Batch]
"""Draws a batch with a generator."""

WEIGHT_DECAY = 1e-4
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class LoopConfig:
    """Steps, batches and rates.

    >>> config = LoopConfig(steps=100, learning_rate=1e-3, warmup_steps=10, schedule="cosine")
    >>> [round(config.rate(step), 6) for step in (0, 9, 55, 99)]
    [0.0001, 0.001, 0.0005, 0.0]
    """

    steps: int = 100
    """Optimiser steps."""
    batch_size: int = 4
    """Inputs per batch."""
    gradient_accumulation: int = 1
    """Batches per step, over all processes together; a multiple of the number of processes."""
    learning_rate: float = 2e-4
    """Of AdamW, after the warm-up."""
    warmup_steps: int = 5
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up; ``cosine`` falls to 0 at the last step."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, which is then checked and exported; 0 uses the
    weights themselves. Early steps decay faster, (1 + step) / (10 + step)."""
    merge_scale: float = 1.0
    """Scale of the trained change that is checked and exported, in (0, 1]. The gain in the rewarded
    rating is about proportional to it, the loss in PSNR to its square."""
    cpu: bool = False
    """Train on the CPU even where there is an accelerator."""
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "gradient_accumulation")
        counts = {name: getattr(self, name) for name in names}
        if min(counts.values()) < 1:
            raise ValueError(f"expected counts of at least 1, got {counts}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"expected 0 ≤ ema_decay < 1, got {self.ema_decay}")
        if not 0 < self.merge_scale <= 1:
            raise ValueError(f"expected 0 < merge_scale ≤ 1, got {self.merge_scale}")

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        decay = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        progress = 0.0 if self.schedule == "constant" else decay
        return self.learning_rate * warmup_cosine(step, warmup=self.warmup_steps, progress=progress)


def batch_generator(seed: int, step: int, index: int) -> torch.Generator:
    """CPU generator of one batch of a step (−1: before the first step).

    >>> torch.rand(2, generator=batch_generator(seed=0, step=5, index=1))
    tensor([0.2294, 0.5521])
    """
    return derived_generator(seed, step + 1, index, stream=2)


class Loop:
    """Optimises a network on the losses of a method.

    Args:
        accelerator: of this process.
        tuned: the trained weights.
        method: computes the losses.
        draw: draws the batches.
        config: steps and rates.

    Raises:
        ValueError: ``gradient_accumulation`` cannot be divided among the processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        tuned: TunedNetwork,
        method: Method,
        draw: DrawBatch,
        config: LoopConfig,
    ) -> None:
        processes = accelerator.num_processes
        if config.gradient_accumulation % processes:
            raise ValueError(
                f"gradient_accumulation={config.gradient_accumulation} must be a multiple of the "
                f"{processes} processes, among which a step's batches are divided"
            )
        self.accelerator, self.tuned, self.method = accelerator, tuned, method
        self.draw, self.config = draw, config
        self.optimizer = torch.optim.AdamW(
            tuned.masters, lr=config.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.averaged = [p.detach().clone() for p in tuned.masters] if config.ema_decay else []
        self.drawing = ThreadPoolExecutor(1)
        self.drawn: dict[tuple[int, int], Future[tuple[Batch, torch.Generator]]] = {}
        """Batches that a thread draws ahead, by step and index."""
        self.step = 0
        self.skipped_samples = 0
        self.skipped_steps = 0

    def calibrate(self) -> dict[str, Tensor]:
        """Initialise the method's running scales from fresh batches, the same on every process.

        Returns:
            The terms of those batches.
        """
        terms: list[dict[str, Tensor]] = []
        for index in range(max(2, self.config.gradient_accumulation)):
            generator = batch_generator(self.config.seed, -1, index)
            batch = self.draw(generator).to(self.accelerator.device)
            terms.append(self.method.compute_loss(batch, generator=generator).terms)
        joined = _joined(terms)
        self.method.after_step(joined, stepped=False)
        return joined

    def take_step(self) -> dict[str, Any]:
        """One optimiser step.

        Returns:
            The record for the log: means of the terms over all processes, counts, gradient norm.
        """
        for weight in (*self.tuned.parameters, *self.tuned.masters):
            weight.grad = None
        first, every = self.accelerator.process_index, self.accelerator.num_processes
        batches = range(first, self.config.gradient_accumulation, every)
        for step in (self.step, self.step + 1)[: self.config.steps - self.step]:
            self._draw_ahead(step, batches)
        parts = [self._backward(index) for index in batches]
        terms = _joined([part.terms for part in parts])
        terms = {name: self._gathered(values) for name, values in terms.items()}
        counts = torch.tensor(
            [sum(len(x.losses) for x in parts), sum(x.skipped for x in parts)],
            device=self.accelerator.device,
        )
        used, skipped = self._sum(counts).tolist()
        norm = self._reduce_gradients(used)
        stepped = used > 0 and math.isfinite(norm)
        if stepped:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.rate(self.step)
            self.optimizer.step()
            self.tuned.from_masters()
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            for average, weight in zip(self.averaged, self.tuned.masters, strict=False):
                average.lerp_(weight.detach(), 1 - decay)
        else:
            self.skipped_steps += 1
        self.skipped_samples += skipped
        self.method.after_step(terms, stepped=stepped)
        self.step += 1
        return {
            "step": self.step,
            **{
                name if "/" in name else f"reward/{name}": _finite_mean(values)
                for name, values in terms.items()
            },
            "used": used,
            "skipped": skipped,
            "skipped_steps": self.skipped_steps,
            "processes": every,
            "grad_norm": norm if math.isfinite(norm) else None,
        }

    def _backward(self, index: int) -> StepLosses:
        batch, generator = self.drawn.pop((self.step, index)).result()
        batch = batch.to(self.accelerator.device)
        step = self.method.compute_loss(batch, generator=generator)
        if len(step.losses):
            step.losses.sum().backward()
        # only the number of losses is needed from here on, not their graph
        return StepLosses(step.losses.detach(), step.terms, step.skipped)

    def _draw_ahead(self, step: int, batches: range) -> None:
        """Draw a step's batches in a thread: decoding and degrading overlap with the training."""

        def draw(index: int) -> tuple[Batch, torch.Generator]:
            generator = batch_generator(self.config.seed, step, index)
            return self.draw(generator), generator

        for index in batches:
            if (step, index) not in self.drawn:
                self.drawn[step, index] = self.drawing.submit(draw, index)

    def _reduce_gradients(self, used: int) -> float:
        """Mean gradient over the used samples of all processes, clipped; its norm before."""
        parameters = self.tuned.parameters
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([grad.flatten().float() for grad in grads])
        flat = self._sum(flat) / max(used, 1)
        norm = float(flat.norm())
        flat = flat * min(1.0, MAX_GRAD_NORM / (norm + 1e-6))
        parts = flat.split([parameter.numel() for parameter in parameters])
        for master, part in zip(self.tuned.masters, parts, strict=True):
            master.grad = part.view_as(master)
        return norm

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        summed: Any = self.accelerator.reduce(values, "sum")
        return summed

    def _gathered(self, values: Tensor) -> Tensor:
        """(N,) of every process, one after the other, filled with NaN to the longest."""
        padded = self.accelerator.pad_across_processes(values.contiguous(), pad_index=math.nan)  # pyright: ignore[reportArgumentType]
        gathered: Any = self.accelerator.gather(padded)
        return gathered

    def export_weights(self) -> list[Tensor]:
        """The weights to export: their moving average, if any, scaled by ``merge_scale``."""
        weights = self.averaged or [p.detach() for p in self.tuned.masters]
        return self.tuned.scaled(weights, self.config.merge_scale)

    @contextmanager
    def use_export_weights(self) -> Iterator[None]:
        """Inside the block the network has :meth:`export_weights`."""
        with self.tuned.use_weights(self.export_weights()):
            yield

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, tensors on the CPU."""
        return {
            "tuned": self.tuned.state(),
            "averaged": [average.cpu() for average in self.averaged],
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state(),
            "step": self.step,
            "skipped_samples": self.skipped_samples,
            "skipped_steps": self.skipped_steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`."""
        self.drawn.clear()
        self.tuned.load(state["tuned"])
        for average, value in zip(self.averaged, state["averaged"], strict=True):
            average.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load(state["method"])
        self.step = state["step"]
        self.skipped_samples, self.skipped_steps = state["skipped_samples"], state["skipped_steps"]


def _joined(terms: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([each[name] for each in terms]) for name in terms[0]}


def _finite_mean(values: Tensor) -> float | None:
    values = values[values.isfinite()]
    return round(float(values.mean()), 5) if len(values) else None
