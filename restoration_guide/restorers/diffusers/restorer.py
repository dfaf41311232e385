"""Any supported diffusers pipeline as a restorer: candidates, batches, tiles, previews."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from restoration_guide.restorers.base import (
    Candidate,
    Observer,
    candidate_generator,
    check_request,
)
from restoration_guide.restorers.diffusers.adapter import RESERVED, PipelineAdapter, Restored
from restoration_guide.restorers.diffusers.contract import Contract, read_contract
from restoration_guide.restorers.diffusers.observed_run import ObservedRun, observe, without_locals
from restoration_guide.restorers.grid import tile_corners, tile_weight
from zoomiqa_core.images.sources import ImageLimits

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

WHOLE_LIMITS = ImageLimits(max_pixels=4_000_000, min_side=8)
"""Sizes a caller should read when images are restored whole."""
TILED_LIMITS = ImageLimits(min_side=8)
"""Sizes a caller should read when large images are restored in tiles."""

TILES = "it works in tiles: search without them"
STRENGTHS = (0.3, 0.5, 0.2, 0.4)
"""Default plan of pipelines that have a `strength`: small changes, because a restorer should keep
the picture; the pipelines' defaults, 0.6 to 0.8, repaint it."""


class PipelineRestorer:
    """Candidates from a diffusers pipeline, varied by seed and by plan.

    Candidate i uses `plan[i % len(plan)]` and draws from its own generator, so it is the same image
    whatever `n` and `batch_size`. On the CPU every candidate goes through the pipeline alone,
    because convolutions there round differently with the batch size; `batch_size` then has no
    effect. On an accelerator candidates of equal settings are batched, and their equality holds up
    to rounding; a batch that does not fit in memory is halved.

    With an observer all candidates advance together, one step at a time. Where the contract says
    that the batch shrinks, an ended candidate leaves its batch; elsewhere each candidate is a
    separate call, which is ended. A candidate that fails does not end the others.

    Noise drawn from torch's global generator is not controlled by the seed (schedulers that sample
    without a generator, such as `DPMSolverSDEScheduler` without a seed).

    >>> from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
    >>> plan = [{"num_inference_steps": 1}, {"num_inference_steps": 3}]
    >>> restorer = PipelineRestorer(load_builtin_pipeline(), plan=plan)
    >>> [c.nfe for c in restorer.restore(torch.rand(1, 3, 32, 32), n=3)]
    [1, 3, 1]
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        prompt: str = "",
        negative_prompt: str = "",
        plan: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        contract: Contract | None = None,
        tile: int | None = None,
        limits: ImageLimits | None = None,
        name: str | None = None,
    ) -> None:
        """Wrap a pipeline.

        Args:
            pipe: Left as it is; its models are shared.
            prompt: Description of the result; left out of pipelines without a prompt, and noted.
                A prompt in `options` or `plan` overrides it.
            negative_prompt: What to avoid, likewise.
            plan: Settings the candidates cycle through: arguments of the pipeline's call, e.g.
                `{"strength": 0.3, "guidance_scale": 5.0}`. By default careful strengths where the
                pipeline has a strength, and seeds alone where not.
            options: Arguments of every call, e.g. `{"num_inference_steps": 20}`.
            contract: What the call takes and allows, for pipelines that `read_contract` misjudges.
            tile: Side in pixels of square tiles for images larger than that; they overlap by a
                quarter and are blended. No previews then.
            limits: Sizes to read; without tiles 4 megapixels at most by default.
            name: In reports and configurations; the class's name by default.

        Raises:
            TypeError: See `read_contract`.
            ValueError: An empty plan; arguments that the call does not have, or that determine
                what the seed and `n` do (`generator`, `num_images_per_prompt` …); a tile smaller
                than four units of the pipeline's grid.
        """
        options = _with_tuples(pipe, options or {})
        contract = read_contract(pipe, options) if contract is None else contract
        self.adapter = PipelineAdapter(pipe, contract, prompt, negative_prompt, options)
        self.plan = _default_plan(pipe, options) if plan is None else tuple(plan)
        self.plan = tuple(_with_tuples(pipe, entry) for entry in self.plan)
        if not self.plan:
            raise ValueError("The plan needs at least one entry; {} for the defaults.")
        _check_names(pipe, options, *self.plan)
        smallest = 4 * contract.multiple * contract.scale
        if tile is not None and tile < smallest:
            raise ValueError(f"tile must be at least {smallest} px for this pipeline, got {tile}.")
        self.tile = tile
        default = WHOLE_LIMITS if tile is None else TILED_LIMITS
        self.limits = default if limits is None else limits
        self.name = type(pipe).__name__ if name is None else name

    @property
    def contract(self) -> Contract:
        """What the pipeline's call takes and allows."""
        return self.adapter.contract

    @property
    def config(self) -> dict[str, Any]:
        """What determines the candidates beside the name, in the form that reports store."""
        return {
            "plan": [dict(entry) for entry in self.plan],
            "prompt": self.adapter.prompt,
            "negative_prompt": self.adapter.negative_prompt,
            "options": dict(self.adapter.options),
            "tile": self.tile,
        }

    def with_prompts(self, positive: str, negative: str = "") -> PipelineRestorer:
        """The same restorer with other prompts, in place of those among the options too."""
        other = copy.copy(self)
        other.adapter = self.adapter.with_prompts(positive, negative)
        return other

    def settings(self, index: int) -> Mapping[str, Any]:
        """Settings of candidate `index`."""
        return self.plan[index % len(self.plan)]

    def group_limit(self, batch_size: int) -> int:
        """How many candidates may go through the pipeline together: one on the CPU."""
        alone = self.adapter.device.type == "cpu" or self.contract.as_pil
        return 1 if alone else batch_size

    def restore(
        self,
        image: Tensor,
        *,
        n: int,
        seed: int = 0,
        batch_size: int = 1,
        observer: Observer | None = None,
    ) -> Iterator[Candidate]:
        """Yield candidates 0 … n - 1 of (1, 3, H, W) float in [0, 1].

        Those of equal settings come together, with an observer those of fewest steps first.

        Raises:
            TypeError: The image is no float tensor.
            ValueError: See `check_request`; an observer where there are no previews, or one that
                names a candidate it was not shown.
        """
        check_request(image, n=n, seed=seed, batch_size=batch_size)
        limit = self.group_limit(batch_size)
        if observer is None:
            return self._restore(image, n, seed, limit)
        reason = self._refusal() or (TILES if self._tiled(image) else None)
        if reason is not None:
            raise ValueError(f"{self.name} shows no previews, because {reason}.")
        if not self.contract.shrinks:
            limit = 1
        return self._observed(image, n, seed, limit, observer)

    def _restore(self, image: Tensor, n: int, seed: int, limit: int) -> Iterator[Candidate]:
        waiting = self._groups(n, limit)
        failure: Exception | None = None
        while waiting:
            group = waiting.pop(0)
            started = time.perf_counter()
            made, too_large = None, False
            try:
                made = self._make(image, group, seed)
            except Exception as error:  # the other groups may be made all the same
                too_large = len(group) > 1 and isinstance(error, torch.OutOfMemoryError)
                without_locals(error)
                failure = failure if too_large else failure or error
            if made is None:
                torch.cuda.empty_cache()  # here the error and what it held are gone
                if too_large:
                    limit = len(group) // 2
                    waiting = [part for whole in (group, *waiting) for part in _parts(whole, limit)]
                continue
            seconds = (time.perf_counter() - started) / len(group)
            yield from self._candidates(group, seed, made, seconds)
        if failure is not None:
            raise failure

    def _make(self, image: Tensor, group: Sequence[int], seed: int) -> Restored:
        """One call for a group of candidates, or one per tile."""
        settings = self.settings(group[0])
        generators = [candidate_generator(seed, index) for index in group]
        batch = image.expand(len(group), -1, -1, -1)
        if not self._tiled(image):
            return self.adapter.run(batch, settings, generators)
        height, width = image.shape[-2:]
        side = (min(self.tile or height, height), min(self.tile or width, width))
        weight = tile_weight(*side)
        total, weights = torch.zeros(batch.shape), torch.zeros(height, width)
        notes, steps = [()] * len(group), 0
        for top, left in tile_corners((height, width), self.tile or max(height, width)):
            rows, columns = slice(top, top + side[0]), slice(left, left + side[1])
            part = self.adapter.run(batch[..., rows, columns], settings, generators)
            total[..., rows, columns] += weight * part.images.float().cpu()
            weights[rows, columns] += weight
            notes = [tuple(dict.fromkeys(a + b)) for a, b in zip(notes, part.notes, strict=True)]
            steps += part.steps
        notes = [(f"in tiles of {side[1]}×{side[0]}", *said) for said in notes]
        return Restored(total / weights, tuple(notes), steps)

    def _observed(
        self, image: Tensor, n: int, seed: int, limit: int, observer: Observer
    ) -> Iterator[Candidate]:
        def start(group: Sequence[int]) -> ObservedRun:
            return ObservedRun(self.adapter, image, group, self.settings(group[0]), seed)

        for run, made in observe(start, self._groups(n, limit), observer):
            yield from self._candidates(run.alive, seed, made, run.seconds)

    def _candidates(
        self, group: Sequence[int], seed: int, made: Restored, seconds: float
    ) -> Iterator[Candidate]:
        images = made.images.detach().to("cpu", torch.float32)
        for index, image, notes in zip(group, images, made.notes, strict=True):
            yield Candidate(
                index, seed, self.settings(index), image, seconds, made.steps or None, notes
            )

    def _groups(self, n: int, limit: int) -> list[list[int]]:
        """Candidates of equal settings, at most `limit` together."""
        entries = [list(range(first, n, len(self.plan))) for first in range(min(n, len(self.plan)))]
        return sorted(part for entry in entries for part in _parts(entry, limit))

    @property
    def unobservable(self) -> str | None:
        """Why there are no previews, of any image or of those larger than a tile; else None."""
        return self._refusal() or (None if self.tile is None else TILES)

    def _refusal(self) -> str | None:
        """Why there are no previews of any image."""
        if not self.contract.previews:
            return "of its scheduler or attention: search without them"
        parts = list(self.adapter.pipe.components.values())
        if any(getattr(part, "is_cache_enabled", False) for part in parts):
            return "a cache keeps one call's state: disable_cache() of its network, or do without"
        if self.adapter.device.type == "cuda" and any(_is_compiled(part) for part in parts):
            return (
                "the CUDA graphs of a compiled network belong to one thread, and previews run "
                "each call in its own: do without, or load the network uncompiled"
            )
        return None

    def _tiled(self, image: Tensor) -> bool:
        return self.tile is not None and max(image.shape[-2:]) > self.tile


def _is_compiled(part: Any) -> bool:
    return hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None


def _parts(group: list[int], limit: int) -> list[list[int]]:
    return [group[first : first + limit] for first in range(0, len(group), limit)]


def _check_names(pipe: DiffusionPipeline, *given: Mapping[str, Any]) -> None:
    """Refuse unknown arguments, which calls with `**kwargs` would swallow, and reserved ones."""
    for name, reason in RESERVED.items():
        values = [entry[name] for entry in given if entry.get(name) is not None]
        if any(not isinstance(value, int) or value != 1 for value in values):
            raise ValueError(f"{name} is no option of a restorer: {reason}.")
    parameters = inspect.signature(type(pipe).__call__).parameters
    unknown = sorted({name for entry in given for name in entry} - set(parameters))
    if unknown:
        raise ValueError(
            f"The call of {type(pipe).__name__} has no {', '.join(unknown)}; it has "
            f"{', '.join(name for name in parameters if name not in ('self', 'kwargs'))}."
        )


def _with_tuples(pipe: DiffusionPipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with tuples where the call wants them: a file of settings has only lists."""
    parameters = inspect.signature(type(pipe).__call__).parameters

    def wants_tuple(name: str) -> bool:
        kinds = str(parameters[name].annotation).lower() if name in parameters else ""
        return "tuple[" in kinds and "list[" not in kinds

    return {
        name: tuple(value) if isinstance(value, list) and wants_tuple(name) else value
        for name, value in given.items()
    }


def _default_plan(
    pipe: DiffusionPipeline, options: Mapping[str, Any]
) -> tuple[Mapping[str, Any], ...]:
    has_strength = "strength" in inspect.signature(type(pipe).__call__).parameters
    if has_strength and "strength" not in options:
        return tuple({"strength": strength} for strength in STRENGTHS)
    return ({},)
