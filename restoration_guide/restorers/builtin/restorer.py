"""Restorer around the bundled `TinyRestorationPipeline`, or another pipeline of its class."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import Tensor

from restoration_guide.restorers.base import (
    Candidate,
    Observer,
    Preview,
    Settings,
    ask_observer,
    candidate_generator,
    check_request,
    plan_with,
)
from restoration_guide.restorers.builtin.pipeline import (
    MIN_RESTORED_SIDE,
    RestorationOutput,
    TinyRestorationPipeline,
    check_image,
)
from restoration_guide.restorers.builtin.sampler import Chain, Sampler, grouped
from zoomiqa_core.images.sources import ImageLimits

__all__ = [
    "DEFAULT_LIMITS",
    "DEFAULT_PLAN",
    "BuiltinRestorer",
    "RestorationOutput",
    "TinyRestorationPipeline",
    "WeightsError",
    "load_builtin_pipeline",
]

DEFAULT_PLAN: tuple[Settings, ...] = (
    Settings(steps=1, strength=1.0, temperature=0.0, churn=False),
    Settings(steps=5, strength=1.0, temperature=0.5, churn=True),
    Settings(steps=2, strength=0.25, temperature=0.5, churn=False),
    Settings(steps=5, strength=0.95, temperature=0.0, churn=False),
    Settings(steps=2, strength=0.8, temperature=1.0, churn=False),
    Settings(steps=4, strength=1.0, temperature=1.0, churn=False),
    Settings(steps=3, strength=0.6, temperature=0.3, churn=True),
    Settings(steps=4, strength=0.9, temperature=0.7, churn=True),
    Settings(steps=3, strength=1.0, temperature=0.3, churn=False),
    Settings(steps=4, strength=0.55, temperature=0.2, churn=True),
    Settings(steps=5, strength=1.0, temperature=0.3, churn=True),
    Settings(steps=1, strength=0.7, temperature=0.0, churn=False),
)
"""From careful to bold: the one-step estimate, weak corrections for nearly clean inputs,
noise-free chains, textured samples. The first eight cover the range; the others fill the gaps.
Seeds alone hardly change a candidate's quality, settings do. No strength exceeds 1: the bundled
judge rates over-sharpened edges too high and would choose them."""

DEFAULT_LIMITS = ImageLimits(max_pixels=4_000_000, min_side=MIN_RESTORED_SIDE)
"""Sizes to read: 4 megapixels need about 4 GB in one pass."""


class WeightsError(FileNotFoundError):
    """The weights are missing or not those of a `TinyRestorationPipeline`."""


def load_builtin_pipeline(folder: str | Path | None = None) -> TinyRestorationPipeline:
    """Load a pipeline folder, the bundled one by default; fp32, on the CPU, without network access.

    >>> pipe = load_builtin_pipeline()
    >>> pipe(torch.rand(1, 3, 32, 32), num_inference_steps=1, output_type="pt").images.shape
    torch.Size([1, 3, 32, 32])

    Raises:
        WeightsError: The folder is missing or holds no pipeline.
    """
    if folder is None:
        with as_file(files("restoration_guide") / "weights" / "builtin") as bundled:
            return load_builtin_pipeline(bundled)
    path = Path(folder)
    if not (path / "model_index.json").is_file():
        raise WeightsError(
            f"No restorer in {path}: expected a diffusers pipeline folder with model_index.json. "
            "Reinstall the package for the bundled weights, or train your own with "
            "recipes.train_builtin_restorer."
        )
    with _no_loading_bar():
        pipe = TinyRestorationPipeline.from_pretrained(path, local_files_only=True)
    pipe.unet.float()  # saved in fp16; whether loading widens depends on the version
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """No progress bar for two small files, whatever the user's setting."""
    shown = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            diffusers_logging.enable_progress_bar()


class BuiltinRestorer:
    """Candidates from a `TinyRestorationPipeline`, varied by seed and by plan.

    >>> restorer = BuiltinRestorer()
    >>> made = restorer.restore(torch.rand(1, 3, 32, 32), n=3, seed=1)
    >>> [(candidate.index, candidate.settings.steps) for candidate in made]
    [(0, 1), (1, 5), (2, 2)]

    Candidate i uses `plan[i % len(plan)]` and its own generator, so it is the same image whatever
    `n` and `batch_size`. On the CPU every candidate goes through the network alone, because
    convolutions there round differently with the batch size (about 5e-7); `batch_size` then has no
    effect. On other devices neighbours of equal steps and churn are batched, and their equality
    holds up to rounding. The first network evaluation sees no noise and is shared by all
    candidates of an image.

    The whole image is processed at once; see `TinyRestorationPipeline` for its memory. `limits` are
    the sizes that callers read; change them with the memory there is.
    """

    def __init__(
        self,
        pipe: TinyRestorationPipeline | None = None,
        *,
        plan: Sequence[Settings | Mapping[str, Any]] = DEFAULT_PLAN,
        options: Mapping[str, Any] | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        name: str = "builtin",
    ) -> None:
        """Wrap a pipeline; the bundled one by default.

        Args:
            pipe: The pipeline.
            plan: Settings the candidates cycle through; mappings as a report records them.
            options: Settings of every candidate, in place of the plan's, e.g. `{"steps": 3}`.
            limits: Sizes to read.
            name: In reports and configurations.

        Raises:
            TypeError: A mapping with other keys than those of `Settings`.
            ValueError: An empty plan, or a setting out of range.
        """
        if not plan:
            raise ValueError("The plan needs at least one Settings.")
        self.pipe = pipe if pipe is not None else load_builtin_pipeline()
        entries = [asdict(entry) if isinstance(entry, Settings) else entry for entry in plan]
        self.plan = tuple(Settings(**entry) for entry in plan_with(entries, options or {}))
        self.limits = limits
        self.name = name

    @property
    def config(self) -> dict[str, Any]:
        """What determines the candidates beside the name: a plan other than the default."""
        return {} if self.plan == DEFAULT_PLAN else {"plan": [asdict(entry) for entry in self.plan]}

    def settings(self, index: int) -> Settings:
        """Settings of candidate `index`."""
        return self.plan[index % len(self.plan)]

    def group_limit(self, batch_size: int) -> int:
        """How many candidates may go through the network together: one on the CPU."""
        return 1 if self.pipe.device.type == "cpu" else batch_size

    def restore(
        self,
        image: Tensor,
        *,
        n: int,
        seed: int = 0,
        batch_size: int = 1,
        observer: Observer | None = None,
    ) -> Iterator[Candidate]:
        """Yield candidates 0 … n - 1 of (1, 3, H, W) float in [0, 1], sides of at least 8 px.

        In order of their index, group after group. With an `observer` all candidates advance
        together, one evaluation at a time, so that it can compare all of them: they come in the
        order in which they are finished, those of fewest steps first, before the observer sees the
        others' previews. That holds the states of all candidates in memory, n times the image.

        Raises:
            ValueError: Bad shape, n or batch_size; an observer names a candidate it was not shown.
            TypeError: The image is not a float tensor.
        """
        check_request(image, n=n, seed=seed, batch_size=batch_size)
        check_image(image)
        return self._restore(image, n, seed, self.group_limit(batch_size), observer)

    @torch.no_grad()
    def _restore(
        self, image: Tensor, n: int, seed: int, limit: int, observer: Observer | None
    ) -> Iterator[Candidate]:
        started = time.perf_counter()
        sampler = Sampler(self.pipe, image)
        shared = (time.perf_counter() - started) / n
        chains = [
            Chain(index, self.settings(index), candidate_generator(seed, index), seconds=shared)
            for index in range(n)
        ]
        chains[0].nfe = 1  # the shared evaluation
        for alive in [chains] if observer is not None else grouped(chains, limit):
            while alive:
                for group in grouped(alive, limit):
                    sampler.advance(group)
                for chain in (chain for chain in alive if chain.finished):
                    yield Candidate(
                        chain.index,
                        seed,
                        chain.settings,
                        sampler.image(chain),
                        chain.seconds,
                        chain.nfe,
                    )
                alive = [chain for chain in alive if not chain.finished]
                if observer is not None and alive:
                    shown = [
                        Preview(c.index, c.step, c.steps, sampler.image(c), c.nfe) for c in alive
                    ]
                    going_on = ask_observer(observer, shown)
                    alive = [chain for chain in alive if chain.index in going_on]
        self.pipe.maybe_free_model_hooks()
