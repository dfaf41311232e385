"""A pipeline's call, watched step by step: paused, shrunk, or ended half-way.

A call cannot be suspended and resumed, so each runs in a thread that waits after every step for the
order to go on. One call computes at a time; the others hold their latents only. So many candidates
advance together, whatever the pipeline, each in its own batch.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from restoration_guide.restorers.diffusers.previews import predicted_clean

Result = TypeVar("Result")


class Ended(BaseException):
    """Unwinds a call that is not to go on; not an `Exception`, which the pipeline might catch."""


class StepWatch:
    """Watches the steps of one call through its scheduler, which must be the call's own copy.

    Every step draws its noise from the candidates' generators, even where the pipeline does not
    pass them to its scheduler.

    Args:
        scheduler: Its `step` is replaced.
        generators: One per row of the batch.
        pause: Called after every step but the last with the watch; returns the positions of the
            rows that go on.
    """

    def __init__(
        self,
        scheduler: Any,
        generators: Sequence[torch.Generator],
        pause: Callable[[StepWatch], Sequence[int]] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.generators = list(generators)
        self.pause = pause
        self.done = 0
        """Steps done; each is one network evaluation, guidance included."""
        self.steps = 0
        """Steps of the whole run; 0 before the first."""
        self.clean: Tensor | None = None
        """Predicted x0 of the rows that go on, in latent space."""
        self._leaving: tuple[int, Sequence[int]] | None = None
        self._step = scheduler.step
        self._parameters = inspect.signature(self._step).parameters

        @wraps(self._step)  # pipelines look at the signature of `step`
        def step(*args: Any, **kwargs: Any) -> Any:
            return self._watched(*args, **kwargs)

        scheduler.step = step

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(self._step).bind(*args, **kwargs)
        given = bound.arguments
        if "generator" in self._parameters:
            given["generator"] = list(self.generators)
        wants_tuple = given.get("return_dict") is False
        if "return_dict" in self._parameters:
            given["return_dict"] = True
        timestep, sample = given["timestep"], given["sample"]
        if not self.steps:
            self.steps = len(self.scheduler.timesteps) - self._start(timestep)
        output = self._step(*bound.args, **bound.kwargs)
        self.done += 1
        if self.pause is not None and self.done < self.steps:
            model_output = given["model_output"]
            self.clean = predicted_clean(self.scheduler, output, model_output, timestep, sample)
            positions = self.pause(self)
            if len(positions) < len(sample):
                self._shrink(len(sample), positions)
        return output.to_tuple() if wants_tuple and hasattr(output, "to_tuple") else output

    def _start(self, timestep: Any) -> int:
        """Index of the first step in the schedule; above 0 where an image is the start."""
        begin = getattr(self.scheduler, "begin_index", None)
        if begin is not None:
            return int(begin)
        same = (self.scheduler.timesteps == timestep).nonzero()
        return int(same[0]) if len(same) else 0

    def _shrink(self, rows: int, positions: Sequence[int]) -> None:
        """Drop rows from the scheduler's state; the callback drops them from the other tensors."""
        self._leaving = (rows, positions)
        self.generators = [self.generators[k] for k in positions]
        for name, value in vars(self.scheduler).items():
            if isinstance(value, list) or _has_rows(value, rows):
                setattr(self.scheduler, name, _rows_that_stay(value, rows, positions))

    def shrink_call(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        """As `callback_on_step_end`: the tensors without the rows that left in this step."""
        if self._leaving is None:
            return tensors
        rows, positions = self._leaving
        self._leaving = None
        return {name: _groups_that_stay(value, rows, positions) for name, value in tensors.items()}


def _has_rows(value: Any, rows: int) -> bool:
    # latents have three dimensions or more; times and noise levels have one
    return isinstance(value, Tensor) and value.ndim >= 3 and len(value) == rows


def _rows_that_stay(value: Any, rows: int, positions: Sequence[int]) -> Any:
    if isinstance(value, list):
        return [_rows_that_stay(item, rows, positions) for item in value]
    return value[list(positions)] if _has_rows(value, rows) else value


def _groups_that_stay(value: Any, rows: int, positions: Sequence[int]) -> Any:
    """Rows of (k · rows, …): guidance stacks the batch k times."""
    if not isinstance(value, Tensor) or len(value) % rows:
        return value
    groups = range(0, len(value), rows)
    return value[[first + k for first in groups for k in positions]]


class PausedCall(Generic[Result]):
    """A function in a thread that runs only while `advance` waits for it.

    Args:
        work: Gets a function that pauses: it hands a value to `advance`, and returns what the next
            `advance` is given.
    """

    def __init__(self, work: Callable[[Callable[[Any], Any]], Result]) -> None:
        self._work = work
        self._orders: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        self._results: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._autocast = [
            torch.autocast(device, dtype=torch.get_autocast_dtype(device))
            for device in ("cpu", "cuda")
            if torch.is_autocast_enabled(device)
        ]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.finished = False

    def advance(self, order: Any = None) -> Any:
        """Go on until the next pause, or to the end.

        Returns:
            What the pause hands over, or the result when `finished`.

        Raises:
            BaseException: Whatever the function raises.
        """
        if self.finished:
            raise RuntimeError("This call has already ended.")
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._orders.put((True, order))
        kind, value = self._results.get()
        self.finished = kind != "paused"
        if kind == "failed":
            try:
                raise value
            finally:
                del value  # its traceback holds this frame, and so everything in it
        return value

    def close(self) -> None:
        """End the function at its pause, and wait until it is gone."""
        if self._thread.is_alive():
            self._orders.put((False, None))
            self._thread.join()
        self.finished = True

    def _pause(self, value: Any) -> Any:
        self._results.put(("paused", value))
        go_on, order = self._orders.get()
        if not go_on:
            raise Ended
        return order

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                for context in self._autocast:  # a new thread has none of its caller's contexts
                    stack.enter_context(context)
                result = self._work(self._pause)
            self._results.put(("done", result))
        except Ended:
            self._results.put(("ended", None))
        except BaseException as error:
            self._results.put(("failed", error))
