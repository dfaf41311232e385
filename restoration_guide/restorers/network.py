"""A network without noise as a restorer: variants by reduction and strength, in tiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from restoration_guide.restorers.base import Candidate, Observer, check_request, plan_with
from restoration_guide.restorers.grid import Grid, restore_in_tiles
from zoomiqa_core.images.sources import ImageLimits

STRENGTHS = (1.0, 0.5, 0.75, 0.25)
"""Strengths of the default plan."""
DEFAULT_TILE = 512
"""Side of a tile in px of the input."""
MIN_TILE = 64
LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in the luma of BT.601, which networks for one channel are trained on."""


@dataclass(frozen=True)
class Network:
    """A network that restores or enlarges.

    >>> Network(lambda image: image.clamp(0.1, 0.9)).scale
    1
    """

    run: Callable[[Tensor], Tensor]
    """(1, C, h, w) float32 in [0, 1] on the CPU → (1, C, h·scale, w·scale)."""
    scale: int = 1
    """Output pixels per input pixel, along a side."""
    channels: int = 3
    """C: 3 for RGB, 1 for luma."""


class NetworkRestorer:
    """Candidates from a network on the input's own grid, one network evaluation per reduction.

    The input is reduced by `reduce`, runs through the network and is resized to its own size;
    `strength` is the part of the change that is added to the input. Nothing is random: candidates
    differ by the plan alone, the seed has no effect, and the network runs once per `reduce` of the
    plan. A network for one channel restores the luma; the colour stays the input's.

    >>> restorer = NetworkRestorer(Network(lambda image: 1 - image), plan=[{}, {"strength": 0.25}])
    >>> negative, grey = restorer.restore(torch.ones(1, 3, 16, 16), n=2)
    >>> float(negative.image.max()), float(grey.image.max()), negative.nfe, grey.nfe
    (0.0, 0.75, 1, 0)
    """

    unobservable = "a network restores in a single step: search without them"

    def __init__(
        self,
        network: Network,
        *,
        plan: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        tile: int | None = DEFAULT_TILE,
        limits: ImageLimits | None = None,
        name: str = "network",
    ) -> None:
        """Wrap a network.

        Args:
            network: What restores.
            plan: Settings the candidates cycle through, `{"reduce": 2, "strength": 0.5}`: a whole
                number ≥ 1 (by default the network's scale) and a number in [0, 2] (1 by default).
                By default four strengths of each of two reductions, the network's scale and half.
            options: Settings of every candidate, in place of those in the plan.
            tile: Side in px of square tiles for images larger than that; they overlap by a quarter
                and are blended. None restores every image whole.
            limits: Sizes to read.
            name: In reports and configurations.

        Raises:
            ValueError: An empty plan, a setting that is unknown or out of range, or a tile below
                64 px.
        """
        self.network = network
        entries = plan_with(default_plan(network.scale) if plan is None else plan, options or {})
        if not entries:
            raise ValueError("The plan needs at least one entry; {} for the defaults.")
        for entry in entries:
            _check_settings(entry)
        if tile is not None and tile < MIN_TILE:
            raise ValueError(f"tile must be at least {MIN_TILE} px, or None, got {tile}.")
        self.plan: tuple[Mapping[str, Any], ...] = tuple(entries)
        self.tile = tile
        self.limits = ImageLimits(min_side=16) if limits is None else limits
        self.name = name

    @property
    def config(self) -> dict[str, Any]:
        """What determines the candidates beside the name."""
        return {"plan": [dict(entry) for entry in self.plan], "tile": self.tile}

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
            TypeError: The image is no float tensor.
            ValueError: See `check_request`; an observer.
        """
        check_request(image, n=n, seed=seed, batch_size=batch_size)
        if observer is not None:
            raise ValueError(f"{self.name} shows no previews, because {self.unobservable}.")
        return self._restore(image.detach().to("cpu", torch.float32).clamp(0, 1), n, seed)

    @torch.no_grad()
    def _restore(self, image: Tensor, n: int, seed: int) -> Iterator[Candidate]:
        made: dict[int, Tensor | Exception] = {}
        for index in range(n):
            started = time.perf_counter()
            settings = self.plan[index % len(self.plan)]
            reduce = settings.get("reduce", self.network.scale)
            nfe, notes = 0, ()
            if reduce not in made:
                try:
                    made[reduce], nfe = self._changed(image, reduce)
                except Exception as error:  # another reduction may fit all the same
                    made[reduce] = error
            restored = made[reduce]
            if isinstance(restored, Exception):
                continue
            if index >= len(self.plan):
                notes = (f"the same as candidate {index % len(self.plan)}: nothing is random",)
            strength = settings.get("strength", 1.0)
            blended = image + strength * (restored - image) if strength != 1 else restored
            seconds = time.perf_counter() - started
            yield Candidate(
                index, seed, settings, blended[0].clamp(0, 1), seconds, nfe=nfe, notes=notes
            )
        for failure in made.values():
            if isinstance(failure, Exception):
                raise failure

    def _changed(self, image: Tensor, reduce: int) -> tuple[Tensor, int]:
        """(1, 3, H, W) at full strength, and the number of evaluations."""
        size = (image.shape[-2], image.shape[-1])
        seen = image
        if self.network.channels == 1:
            seen = (image * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        small = Grid(multiple=1, scale=reduce).fit(seen)

        def enlarged(part: Tensor) -> Tensor:
            full = (part.shape[-2] * reduce, part.shape[-1] * reduce)
            out = self.network.run(part)
            if out.shape[-2:] != full:
                out = F.interpolate(out, full, mode="bicubic", antialias=True)
            return out.clamp(0, 1)

        tile = None if self.tile is None else max(MIN_TILE // 4, self.tile // reduce)
        out, count = restore_in_tiles(small, tile, enlarged)
        out = out[..., : size[0], : size[1]]
        return (image + (out - seen) if self.network.channels == 1 else out), count


def default_plan(scale: int) -> list[dict[str, Any]]:
    """Every strength of two reductions: half the network's scale, which keeps more detail, first.

    >>> [entry["reduce"] for entry in default_plan(scale=4)][:4]
    [2, 4, 2, 4]
    """
    reductions = sorted({max(1, scale // 2), scale})
    return [{"reduce": each, "strength": part} for part in STRENGTHS for each in reductions]


def _check_settings(entry: Mapping[str, Any]) -> None:
    unknown = sorted(set(entry) - {"reduce", "strength"})
    if unknown:
        raise ValueError(f"A network has no setting {', '.join(unknown)}: reduce, strength.")
    reduce, strength = entry.get("reduce", 1), entry.get("strength", 1.0)
    if not isinstance(reduce, int) or reduce < 1:
        raise ValueError(f"reduce must be a whole number from 1, got {reduce!r}.")
    if not isinstance(strength, int | float) or not 0 <= strength <= 2:
        raise ValueError(f"strength must lie in [0, 2], got {strength!r}.")
