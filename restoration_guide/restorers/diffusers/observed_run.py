"""Candidates that advance through a pipeline step by step, with a preview after every step."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from restoration_guide.restorers.base import (
    Observer,
    Preview,
    ask_observer,
    candidate_generator,
)
from restoration_guide.restorers.diffusers.adapter import PipelineAdapter, Restored
from restoration_guide.restorers.diffusers.stepping import PausedCall, StepWatch


class LazyPreview(Preview):
    """A preview whose image is decoded when it is first read: decoding costs as much as a step."""

    def __init__(self, index: int, step: int, steps: int, draw: Callable[[], Tensor]) -> None:
        for name, value in (("index", index), ("step", step), ("steps", steps), ("nfe", step)):
            object.__setattr__(self, name, value)  # Preview is frozen
        object.__setattr__(self, "_draw", draw)

    @cached_property
    def image(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(3, H, W) float32 in [0, 1] on the input's grid."""
        return self._draw()  # pyright: ignore[reportAttributeAccessIssue]


def observe(
    start: Callable[[Sequence[int]], ObservedRun],
    groups: Sequence[Sequence[int]],
    observer: Observer,
) -> Iterator[tuple[ObservedRun, Restored]]:
    """Advance all groups together, one step at a time, and yield those that are finished.

    An error ends its group alone; the first is raised when the others are finished. A group that
    runs out of memory at its first step is halved.

    Args:
        start: Makes the run of a group; nothing is computed yet.
        groups: Indices of candidates.
        observer: Sees the previews of all groups after every step.

    Raises:
        ValueError: The observer names a candidate that it was not shown.
    """
    waiting, paused = [start(group) for group in groups], list[ObservedRun]()
    alive: set[int] = {index for group in groups for index in group}
    failure: Exception | None = None
    try:
        while waiting or paused:
            if not waiting:
                previews = [preview for run in paused for preview in run.previews()]
                alive = ask_observer(observer, previews)
                for run in paused:
                    if alive.isdisjoint(run.alive):
                        run.close()
                waiting = [run for run in paused if not alive.isdisjoint(run.alive)]
                paused = []
                continue
            run = waiting.pop(0)
            halves: tuple[list[int], ...] = ()
            try:
                restored = run.advance(alive)
            except Exception as error:
                halves = run.halves() if run.can_be_halved(error) else ()
                without_locals(error)
                failure = failure if halves else failure or error
                restored = None
            except BaseException:  # Ctrl-C
                run.close()
                raise
            if run.failed:
                torch.cuda.empty_cache()  # here the error and what it held are gone
                waiting[:0] = [start(part) for part in halves]
            elif restored is None:
                paused.append(run)
            else:
                yield run, restored
    finally:
        for run in (*waiting, *paused):
            run.close()
    if failure is not None:
        raise failure


def without_locals(error: Exception) -> None:
    """Clear the local variables of an error's traceback, so that it holds no tensors."""
    traceback.clear_frames(error.__traceback__)


class ObservedRun:
    """One call of a pipeline for a group of candidates of equal settings."""

    def __init__(
        self,
        adapter: PipelineAdapter,
        image: Tensor,
        group: Sequence[int],
        settings: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.adapter = adapter
        self.size = (image.shape[-2], image.shape[-1])
        self.alive = list(group)
        """Indices of the candidates still in the call."""
        self.seconds = 0.0
        """Of each candidate so far."""
        self._watch: StepWatch | None = None

        def work(pause: Callable[[StepWatch], Any]) -> Restored:
            generators = [candidate_generator(seed, index) for index in group]
            batch = image.expand(len(group), -1, -1, -1)
            return adapter.run(batch, settings, generators, pause=pause)

        self._call = PausedCall(work)
        self.failed = False

    def advance(self, going_on: Collection[int]) -> Restored | None:
        """One more step of those that go on; the result once they are finished."""
        started = time.perf_counter()
        positions = [k for k, index in enumerate(self.alive) if index in going_on]
        self.alive = [self.alive[k] for k in positions]
        try:
            result = self._call.advance(positions)
        except BaseException:
            self.failed = True
            raise
        self.seconds += (time.perf_counter() - started) / len(self.alive)
        if self._call.finished:
            return result
        self._watch = result
        return None

    def previews(self) -> Iterator[Preview]:
        """The clean images predicted for the candidates of the call."""
        watch = self._watch
        if watch is None or watch.clean is None:
            return
        for row, index in zip(watch.clean, self.alive, strict=True):
            yield LazyPreview(index, watch.done, watch.steps, self._drawing(row[None]))

    def can_be_halved(self, error: Exception) -> bool:
        """Whether the memory ran out before anything was shown, with more than one candidate."""
        early = self._watch is None and len(self.alive) > 1
        return early and isinstance(error, torch.OutOfMemoryError)

    def halves(self) -> tuple[list[int], list[int]]:
        """Indices of each half of the group."""
        middle = len(self.alive) // 2
        return self.alive[:middle], self.alive[middle:]

    def close(self) -> None:
        """End the call."""
        self._call.close()

    def _drawing(self, clean: Tensor) -> Callable[[], Tensor]:
        def draw() -> Tensor:
            with torch.no_grad():
                return self.adapter.preview(clean, self.size)[0]

        return draw
