"""A group of candidates on their way through a pipeline, shown after every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from restoration_guide.restorers.base import Preview, candidate_generator
from restoration_guide.restorers.pipeline_adapter import PipelineAdapter, Restored
from restoration_guide.restorers.stepping import PausedCall, StepWatch


class LazyPreview(Preview):
    """A preview whose image is decoded when it is looked at: a decoding costs like a step."""

    def __init__(self, index: int, step: int, steps: int, draw: Callable[[], Tensor]) -> None:
        for name, value in (("index", index), ("step", step), ("steps", steps), ("nfe", step)):
            object.__setattr__(self, name, value)  # Preview is frozen
        object.__setattr__(self, "_draw", draw)

    @cached_property
    def image(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(3, H, W) float32 in [0, 1] on the input's grid."""
        return self._draw()  # pyright: ignore[reportAttributeAccessIssue]


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

    def advance(self, going_on: Collection[int]) -> Restored | None:
        """One more step of those that go on; the result once they are finished."""
        started = time.perf_counter()
        positions = [k for k, index in enumerate(self.alive) if index in going_on]
        self.alive = [self.alive[k] for k in positions]
        news = self._call.advance(positions)
        self.seconds += (time.perf_counter() - started) / len(self.alive)
        if self._call.finished:
            return news
        self._watch = news
        return None

    def previews(self) -> Iterator[Preview]:
        """What the candidates of the call are heading for."""
        watch = self._watch
        if watch is None or watch.clean is None:
            return
        for row, index in zip(watch.clean, self.alive, strict=True):
            yield LazyPreview(index, watch.done, watch.steps, self._drawing(row[None]))

    def close(self) -> None:
        """End the call."""
        self._call.close()

    def _drawing(self, clean: Tensor) -> Callable[[], Tensor]:
        def draw() -> Tensor:
            with torch.no_grad():
                return self.adapter.preview(clean, self.size)[0]

        return draw
