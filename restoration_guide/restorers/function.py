"""A plain function as a restorer, e.g. a GAN that draws noise at test time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from restoration_guide.restorers.base import Candidate, Observer, candidate_generator
from zoomiqa_core.images.sources import ImageLimits

RestoringFunction = Callable[..., Tensor]
"""`f(image, generator, **settings)`: (1, 3, H, W) in [0, 1] and a CPU generator to (1, 3, H, W) or
(3, H, W) in [0, 1]."""


class CallableRestorer:
    """Candidates from a function, one call each, without gradients.

    What it returns is neither clamped nor resized: a search names a wrong size or range. There are
    no steps to look at, so an observer is refused.
    """

    def __init__(
        self,
        function: RestoringFunction,
        *,
        plan: Sequence[Mapping[str, Any]] = ({},),
        limits: ImageLimits | None = None,
        name: str | None = None,
    ) -> None:
        """Wrap a function.

        Args:
            function: All chance must come from the generator it is given.
            plan: Keyword arguments the candidates cycle through.
            limits: Sizes to read.
            name: In reports and configurations; the function's or class's name by default.

        Raises:
            ValueError: An empty plan.
        """
        if not plan:
            raise ValueError("The plan needs at least one entry; {} for no settings.")
        self.function = function
        self.plan = tuple(plan)
        self.limits = ImageLimits() if limits is None else limits
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def restore(
        self,
        image: Tensor,
        *,
        n: int,
        seed: int = 0,
        batch_size: int = 1,
        observer: Observer | None = None,
    ) -> Iterator[Candidate]:
        """Yield candidates 0 … n - 1 of (1, 3, H, W) in [0, 1]; `batch_size` has no effect.

        Raises:
            ValueError: n or batch_size below 1, or an observer.
            TypeError: The function returns no tensor.
        """
        if n < 1 or batch_size < 1:
            raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}.")
        if observer is not None:
            raise ValueError(
                f"{self.name} shows no previews, because it has no steps: search without them."
            )
        return self._restore(image, n, seed)

    def _restore(self, image: Tensor, n: int, seed: int) -> Iterator[Candidate]:
        for index in range(n):
            started = time.perf_counter()
            settings = self.plan[index % len(self.plan)]
            with torch.no_grad():
                made = self.function(image.clone(), candidate_generator(seed, index), **settings)
            if not isinstance(made, Tensor):
                raise TypeError(
                    f"{self.name} returned {type(made).__name__}; expected a tensor (1, 3, H, W) "
                    "in [0, 1] from f(image, generator)."
                )
            made = made[0] if made.ndim == 4 and len(made) == 1 else made
            seconds = time.perf_counter() - started
            yield Candidate(index, seed, settings, made.detach().to("cpu", torch.float32), seconds)
