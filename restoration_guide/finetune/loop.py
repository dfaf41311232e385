"""The one loop of every method: passes, processes, a step, and what to do when there is none.

A step's samples are divided into passes, and the passes among the processes: two processes with
one pass each learn what one process with two passes learns, up to rounding. The gradient is the
mean over all usable samples of a step. A step without any, or with a gradient that is not finite,
changes no weight and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch, Lesson, Method

Draw = Callable[[torch.Generator], Batch]
"""A pass's batch from its generator."""


@dataclass(frozen=True)
class LoopConfig:
    """Steps, rates and passes."""

    steps: int = 100
    """Optimiser steps."""
    batch_size: int = 4
    """Inputs a pass."""
    passes: int = 1
    """Passes a step over all processes together, a multiple of their number."""
    learning_rate: float = 2e-4
    """Of AdamW, after the warm-up."""
    warmup_steps: int = 5
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up; ``cosine`` falls to 0 at the last step."""
    average: float = 0.0
    """Decay of the moving average of the weights, which is then what is looked at and kept; 0
    keeps the weights themselves. Early steps decay faster, (1 + step) / (10 + step)."""
    strength: float = 1.0
    """Share of the learned change that is looked at and kept, in (0, 1]. The rewarded rating falls
    about in proportion to it, what was lost for the rating in PSNR with its square."""
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "bf16"] = "no"
    """Of the network; rewards and losses are computed in fp32."""
    cpu: bool = False
    """Train on the CPU even where there is an accelerator."""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "batch_size": self.batch_size, "passes": self.passes}
        if min(counts.values()) < 1:
            raise ValueError(f"expected counts of at least 1, got {counts}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is a decay, 0 ≤ average < 1; got {self.average}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is a share, 0 < strength ≤ 1; got {self.strength}")

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant" or step < self.warmup_steps:
            return self.learning_rate * warm
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def pass_generator(seed: int, step: int, index: int) -> torch.Generator:
    """CPU generator of one pass of a step (−1: before the first), whatever was drawn before."""
    sequence = np.random.SeedSequence([seed, step + 1, index], spawn_key=(2,))
    # torch seeds are signed 64-bit numbers
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)


class Loop:
    """Optimises a tuned network by a method's lessons.

    Args:
        accelerator: of this process.
        tuned: the trained weights.
        method: gives the losses.
        draw: gives the batches.
        config: steps and rates.

    Raises:
        ValueError: ``passes`` cannot be divided among the processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        tuned: TunedNetwork,
        method: Method,
        draw: Draw,
        config: LoopConfig,
    ) -> None:
        processes = accelerator.num_processes
        if config.passes % processes:
            raise ValueError(
                f"passes={config.passes} must be a multiple of the {processes} processes, among "
                "which they are divided"
            )
        self.accelerator, self.tuned, self.method = accelerator, tuned, method
        self.draw, self.config = draw, config
        self.optimizer = torch.optim.AdamW(
            tuned.parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.averaged = [p.detach().clone() for p in tuned.parameters] if config.average else []
        self.step = 0
        self.skipped_samples = 0
        self.skipped_steps = 0

    def calibrate(self) -> dict[str, Tensor]:
        """Let the method learn its scales from fresh batches, the same on every process.

        Returns:
            The terms of those batches.
        """
        terms: list[dict[str, Tensor]] = []
        for index in range(max(2, self.config.passes)):
            generator = pass_generator(self.config.seed, -1, index)
            batch = self.draw(generator).to(self.accelerator.device)
            terms.append(self.method.lesson(batch, generator=generator).terms)
        joined = _joined(terms)
        self.method.learned(joined, stepped=False)
        return joined

    def take_step(self) -> dict[str, Any]:
        """One optimiser step.

        Returns:
            The record for the log: means of the terms over all processes, counts, gradient norm.
        """
        self.optimizer.zero_grad(set_to_none=True)
        first, every = self.accelerator.process_index, self.accelerator.num_processes
        lessons = [self._pass(index) for index in range(first, self.config.passes, every)]
        terms = _joined([lesson.terms for lesson in lessons])
        terms = {name: self._gathered(values) for name, values in terms.items()}
        counts = torch.tensor(
            [sum(len(x.losses) for x in lessons), sum(x.skipped for x in lessons)],
            device=self.accelerator.device,
        )
        used, skipped = self._sum(counts).tolist()
        norm = self._reduce_gradients(used)
        stepped = used > 0 and math.isfinite(norm)
        if stepped:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.rate(self.step)
            self.optimizer.step()
            decay = min(self.config.average, (1 + self.step) / (10 + self.step))
            for average, weight in zip(self.averaged, self.tuned.parameters, strict=False):
                average.lerp_(weight.detach(), 1 - decay)
        else:
            self.skipped_steps += 1
        self.skipped_samples += skipped
        self.method.learned(terms, stepped=stepped)
        self.step += 1
        return {
            "step": self.step,
            **{f"reward/{name}": _finite_mean(values) for name, values in terms.items()},
            "used": used,
            "skipped": skipped,
            "skipped_steps": self.skipped_steps,
            "grad_norm": norm if math.isfinite(norm) else None,
        }

    def _pass(self, index: int) -> Lesson:
        generator = pass_generator(self.config.seed, self.step, index)
        batch = self.draw(generator).to(self.accelerator.device)
        lesson = self.method.lesson(batch, generator=generator)
        if len(lesson.losses):
            lesson.losses.sum().backward()
        # only the number of losses is needed from here on, not their graph
        return Lesson(lesson.losses.detach(), lesson.terms, lesson.skipped)

    def _reduce_gradients(self, used: int) -> float:
        """Mean gradient over the used samples of all processes, clipped; its norm before."""
        parameters = self.tuned.parameters
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([grad.flatten() for grad in grads])
        flat = self._sum(flat) / max(used, 1)
        norm = float(flat.norm())
        flat = flat * min(1.0, self.config.max_grad_norm / (norm + 1e-6))
        parts = flat.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
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

    def kept_weights(self) -> list[Tensor]:
        """The weights that are kept: their average, if any, at the strength that is wanted."""
        weights = self.averaged or [p.detach() for p in self.tuned.parameters]
        return self.tuned.weakened(weights, self.config.strength)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside the block the network has :meth:`kept_weights`."""
        with self.tuned.holding(self.kept_weights()):
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
        """Take over :meth:`state`."""
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
