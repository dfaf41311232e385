"""A function or network as a restorer, e.g. a GAN, with or without noise at test time."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from restoration_guide.restorers.base import (
    Candidate,
    Observer,
    candidate_generator,
    check_request,
)
from zoomiqa_core.images.sources import ImageLimits, read_image

RestoringFunction = Callable[..., Any]
"""`f(image)`, `f(image, generator)` or `f(image, seed)`, with the plan's settings by keyword: a
(1, 3, H, W) tensor in [0, 1], and a CPU generator or an int, to a tensor (1, 3, H, W) or (3, H, W)
in [0, 1], a PIL image or an array."""


class CallableRestorer:
    """Candidates from a function, one call each, without gradients.

    A tensor it returns is neither clamped nor resized: a search names a wrong size or range. A
    function is a single step, so there is nothing to preview: an observer is never called, and a
    deadline takes effect between candidates.

    >>> restorer = CallableRestorer(lambda image, gain=1.0: image * gain, plan=[{}, {"gain": 0.5}])
    >>> [float(c.image.max()) for c in restorer.restore(torch.ones(1, 3, 8, 8), n=2)]
    [1.0, 0.5]
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
            function: Randomness must come from what it is given: a parameter called `seed` gets an
                int in [0, 2³¹), one for each candidate; otherwise a second positional parameter
                gets a generator. A function without either is given neither. A network
                (`nn.Module`) gets the image on its device and in its dtype; it must be in
                evaluation mode.
            plan: Keyword arguments the candidates cycle through.
            limits: Sizes to read.
            name: In reports and configurations; the function's or class's name by default.

        Raises:
            TypeError: A class instead of an instance, or a function that cannot be called so.
            ValueError: An empty plan, or a network in training mode.
        """
        if not plan:
            raise ValueError("The plan needs at least one entry; {} for no settings.")
        self.name = name or getattr(function, "__name__", type(function).__name__)
        if inspect.isclass(function):
            raise TypeError(f"{self.name} is a class: give an instance, such as {self.name}().")
        if isinstance(function, nn.Module) and function.training:
            raise ValueError(
                f"{self.name} is in training mode, in which dropout and batch statistics change "
                "the image: call its .eval() first."
            )
        self.function = function
        self.plan = tuple(plan)
        self.limits = ImageLimits() if limits is None else limits
        self._takes_seed = self._has_seed()
        self._takes_generator = self._check_signature()

    @property
    def config(self) -> dict[str, Any]:
        """What determines the candidates beside the function: a plan other than the default."""
        plan = [dict(entry) for entry in self.plan]
        return {} if plan == [{}] else {"plan": plan}

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
            ValueError: See `check_request`.
            TypeError: The image is no float tensor, or the function returns no image.
        """
        check_request(image, n=n, seed=seed, batch_size=batch_size)
        return self._restore(image, n, seed)

    def _restore(self, image: Tensor, n: int, seed: int) -> Iterator[Candidate]:
        failure: Exception | None = None
        for index in range(n):
            started = time.perf_counter()
            settings = self.plan[index % len(self.plan)]
            try:
                restored = self._call(image.clone(), candidate_generator(seed, index), settings)
            except Exception as error:  # the others may be made all the same
                failure = failure or error
                continue
            yield Candidate(index, seed, settings, restored, time.perf_counter() - started)
        if failure is not None:
            raise failure

    @torch.no_grad()
    def _call(
        self, image: Tensor, generator: torch.Generator, settings: Mapping[str, Any]
    ) -> Tensor:
        """(3, H, W) float32 on the CPU."""
        if isinstance(self.function, nn.Module):
            parameter = next(self.function.parameters(), None)
            image = image if parameter is None else image.to(parameter)
        arguments = (image, generator) if self._takes_generator else (image,)
        if self._takes_seed:
            settings = {"seed": int(torch.randint(2**31, (), generator=generator)), **settings}
        restored = self.function(*arguments, **settings)
        if isinstance(restored, Image.Image | np.ndarray):
            return read_image(restored).pixels
        if not isinstance(restored, Tensor) or not restored.is_floating_point():
            kind = restored.dtype if isinstance(restored, Tensor) else type(restored).__name__
            raise TypeError(
                f"{self.name} returned {kind}; expected a float tensor (1, 3, H, W) in [0, 1], a "
                "PIL image or an array."
            )
        restored = restored[0] if restored.ndim == 4 and len(restored) == 1 else restored
        return restored.detach().to("cpu", torch.float32)

    def _signature(self) -> inspect.Signature | None:
        called = self.function
        called = called.forward if isinstance(called, nn.Module) else called
        try:
            return inspect.signature(called)
        except ValueError:  # compiled functions may have none
            return None

    def _has_seed(self) -> bool:
        signature = self._signature()
        seed = None if signature is None else signature.parameters.get("seed")
        return seed is not None and seed.kind in (seed.POSITIONAL_OR_KEYWORD, seed.KEYWORD_ONLY)

    def _check_signature(self) -> bool:
        """Whether the function takes a generator; every entry of the plan must fit."""
        signature = self._signature()
        if signature is None:
            return not isinstance(self.function, nn.Module)
        seed = {"seed": 0} if self._takes_seed else {}
        for generator in ((None,), ()):
            try:
                for settings in self.plan:
                    signature.bind(None, *generator, **{**seed, **settings})
            except TypeError:
                continue
            # a setting with a default is no place for a generator
            if not generator or _second_is_generator(signature):
                return bool(generator)
        raise TypeError(
            f"Cannot call {self.name}{signature} as f(image) or f(image, generator), or with a "
            "parameter called seed, with the settings of the plan, "
            f"{[dict(entry) for entry in self.plan]}."
        )


def _second_is_generator(signature: inspect.Signature) -> bool:
    """Whether the second positional argument is required, or named like a generator."""
    positional = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) < 2:  # *args
        return True
    second = positional[1]
    return second.default is second.empty or "gen" in second.name or second.name == "rng"
