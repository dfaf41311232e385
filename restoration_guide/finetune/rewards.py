"""The reward of a restored image: named terms, each logged, and their weighted total.

Every term is one number per image, higher is better:

===============  ====================================================================  ==========
term             meaning                                                               unit
===============  ====================================================================  ==========
restoration      the restoration judge's gain: candidate against its degraded input    rating
rating           a no-reference judge's lower bound over random views                  rating
map              mean of that judge's quality map, where it has one                    rating
worst_region     mean of the worst fifth of the map                                    rating
low_pass         − RMS difference of the low-pass to the input's                       pixel value
degraded_psnr    degrade-and-compare with the input                                    dB
reference        − RMS difference to the untuned restorer's result for the same        pixel value
unchanged        − RMS difference to the input                                         pixel value
truth            PSNR to the clean image, where there is one                           dB
truth_ms_ssim    MS-SSIM to the clean image, of as many scales as fit                  0 to 1
truth_rating     full-reference rating by the distance to the clean image              rating
truth_texture    1 − deep structure and texture distance to the clean image            at most 1
===============  ====================================================================  ==========

The lower bound is that of :func:`zoomiqa_core.proxy.model.lower_bound`, ``truth_rating`` that of
:func:`zoomiqa_core.alarm.reference.reference_rating`.

Methods that use the reward's gradient normalise each term's image gradient (:mod:`.gradients`).
Black-box methods normalise each term within the candidates of an input
(:meth:`Reward.group_total`). The gate g in (0, 1) of an image comes from the rating of its *input*:
quality terms count g times, and ``unchanged`` 1 − g times, so that good inputs are left alone.

Penalties for artefacts are no terms: one of them became the whole gradient, and training followed
it instead of the judge. The monitor watches artefacts (:mod:`.probes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from restoration_guide.fidelity.full_reference import ms_ssim, psnr
from restoration_guide.fidelity.terms import degrade_and_compare, low_pass_distance, rms
from restoration_guide.finetune.gradients import RunningRms
from restoration_guide.finetune.groups import group_advantages
from restoration_guide.finetune.terms import map_terms, restoration_gain, texture_similarity
from restoration_guide.restorers.base import RANGE_TOLERANCE
from zoomiqa_core.alarm.reference import reference_rating
from zoomiqa_core.proxy.model import QualityProxy, Rated, lower_bound
from zoomiqa_core.proxy.views import ViewConfig, random_views
from zoomiqa_core.restoration.model import RestorationJudge, on_grid

RATED = ("rating", "map", "worst_region")
"""Terms of the no-reference judge."""

QUALITY = ("restoration", *RATED)
"""Terms that come from a judge."""

SMALLEST_SPREAD = {
    "restoration": 0.1,
    "rating": 0.1,
    "map": 0.1,
    "worst_region": 0.1,
    "low_pass": 0.005,
    "degraded_psnr": 1.0,
    "reference": 0.01,
    "unchanged": 0.01,
    "truth": 1.0,
    "truth_ms_ssim": 0.02,
    "truth_rating": 0.1,
    "truth_texture": 0.01,
}
"""Least spread of a group's candidates by which a term is divided, in its own unit."""

GATE_WIDTH = 0.25
"""Rating points over which the gate closes."""

Judge = Callable[[Tensor], Rated]
"""A judge of (B, 3, H, W) in [0, 1]: ``QualityProxy`` and ``Alarm`` (no map), which have a gradient
in the image, or a black box (:class:`.candidates.BlackBoxJudge`)."""


@dataclass(frozen=True)
class Weights:
    """Weight of each normalised term; 0 leaves a term out.

    >>> Weights(restoration=0.3, truth=4.0).truth
    4.0
    """

    restoration: float = 1.0
    rating: float = 0.0
    map: float = 0.0
    worst_region: float = 0.0
    low_pass: float = 0.0
    degraded_psnr: float = 0.0
    reference: float = 0.0
    unchanged: float = 0.0
    truth: float = 0.0
    truth_ms_ssim: float = 0.0
    truth_rating: float = 0.0
    truth_texture: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"weights are finite numbers ≥ 0; got {name}={weight}")
        if not any(asdict(self).values()):
            raise ValueError("every weight is 0: give at least one term a weight")


@dataclass(frozen=True)
class RewardConfig:
    """How the terms are combined into one number."""

    weights: Weights = field(default_factory=Weights)
    confidence: float = 0.5
    """k of the lower bound."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """Random views that the judges see."""
    gate_rating: float | None = None
    """Input rating at which the gate is ½; None counts quality fully for every input."""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence < math.inf:
            raise ValueError(f"expected confidence ≥ 0, got {self.confidence}")

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the weighted terms."""
        return tuple(name for name, weight in asdict(self.weights).items() if weight)

    @property
    def needs_judge(self) -> bool:
        """Whether a term or the gate needs the no-reference judge."""
        return self.gate_rating is not None or any(name in RATED for name in self.terms)

    @property
    def needs_restoration(self) -> bool:
        """Whether a term needs the restoration judge, or its features."""
        return not {"restoration", "truth_texture"}.isdisjoint(self.terms)


class Reward:
    """Rewards restored images.

    >>> reward = Reward(RewardConfig(Weights(restoration=1.0, low_pass=0.5)))
    >>> degraded = torch.rand(2, 3, 64, 64)
    >>> restored = degraded.clone().requires_grad_()
    >>> terms = reward.terms(restored, degraded, generator=torch.Generator().manual_seed(0))
    >>> sorted(terms), reward.total(terms, reward.gate(degraded)).shape
    (['low_pass', 'restoration'], torch.Size([2]))

    Args:
        config: terms and weights.
        judge: the no-reference judge, with frozen weights; None takes the bundled proxy where a
            term needs it.
        restoration: the restoration judge, likewise.
        check_range: refuse images outside [0, 1]; the check waits for the device once per call.
    """

    def __init__(
        self,
        config: RewardConfig,
        judge: Judge | None = None,
        restoration: RestorationJudge | None = None,
        *,
        check_range: bool = True,
    ) -> None:
        if judge is None and config.needs_judge:
            judge = QualityProxy.from_pretrained().eval().requires_grad_(False)
        if restoration is None and config.needs_restoration:
            restoration = RestorationJudge.from_pretrained().eval().requires_grad_(False)
        self.judge: Any = judge
        self.restoration: Any = restoration
        self.config, self.check_range, self.names = config, check_range, config.terms
        self.scale = RunningRms()
        """Of the terms' image gradients."""

    def terms(
        self,
        restored: Tensor,
        degraded: Tensor,
        *,
        generator: torch.Generator,
        reference: Tensor | None = None,
        truth: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms of a batch, (B,) each, differentiable in ``restored``.

        Args:
            restored: (B, 3, H, W) in [0, 1].
            degraded: the restorer's input, of the same size or smaller by an integer factor.
            generator: draws the views.
            reference: the untuned restorer's result, for the term of that name.
            truth: the clean image, for the terms of that name.

        Raises:
            ValueError: pixels outside [0, 1]; a weighted term lacks its image, or the judge has no
                map for it.
        """
        if self.check_range:
            images = {"restored": restored, "degraded": degraded}
            for name, each in (images | {"reference": reference, "truth": truth}).items():
                if each is not None:
                    _check_range(each, name)
        if degraded.shape != restored.shape:
            degraded = on_grid(degraded, restored)
        config, found = self.config, dict[str, Tensor]()
        if "restoration" in self.names:
            found["restoration"] = restoration_gain(
                self.restoration, restored, degraded, config.views, generator
            )
        if any(name in self.names for name in RATED):
            views = random_views(restored, config.views, generator)
            outputs = [self.judge(view) for view in views]
            found["rating"] = lower_bound(outputs, config.confidence)
            if "map" in self.names or "worst_region" in self.names:
                found |= map_terms(outputs)
        measures: dict[str, Callable[[], Tensor]] = {
            "low_pass": lambda: -low_pass_distance(restored, degraded),
            "degraded_psnr": lambda: degrade_and_compare(restored, degraded),
            "unchanged": lambda: -rms(restored - degraded),
            "reference": lambda: -rms(restored - _image(reference, "reference")),
            "truth": lambda: psnr(restored, _image(truth, "truth")),
            "truth_ms_ssim": lambda: ms_ssim(restored, _image(truth, "truth_ms_ssim")),
            "truth_rating": lambda: reference_rating(restored, _image(truth, "truth_rating")),
            "truth_texture": lambda: texture_similarity(
                self.restoration, restored, _image(truth, "truth_texture")
            ),
        }
        found |= {name: measure() for name, measure in measures.items() if name in self.names}
        return {name: found[name] for name in self.names}

    def gate(self, degraded: Tensor) -> Tensor:
        """g of every input, (B,) in (0, 1); ones without a gate."""
        if self.config.gate_rating is None:
            return degraded.new_ones(len(degraded))
        with torch.no_grad():
            rating = self.judge(degraded).rating
        return torch.sigmoid((self.config.gate_rating - rating) / GATE_WIDTH)

    def weights(self, gate: Tensor) -> dict[str, Tensor]:
        """Weight of each term for every image, (B,) each.

        Args:
            gate: result of :meth:`gate`.
        """
        weights = asdict(self.config.weights)
        gates = {**dict.fromkeys(QUALITY, gate), "unchanged": 1 - gate}
        return {name: weights[name] * gates.get(name, torch.ones_like(gate)) for name in self.names}

    def total(self, terms: Mapping[str, Tensor], gate: Tensor) -> Tensor:
        """Weighted sum of the terms over the RMS of their image gradients, (B,).

        Its image gradient is the sum of the normalised gradients; NaN where a term is.
        """
        weights = self.weights(gate)
        parts = [weights[name] / self.scale[name] * value for name, value in terms.items()]
        return torch.stack(parts).sum(0)

    def group_total(self, terms: Mapping[str, Tensor], gate: Tensor) -> Tensor:
        """Weighted sum of the terms, each standardised within the candidates of an input.

        >>> reward = Reward(RewardConfig(Weights(restoration=0.0, low_pass=1.0, truth=2.0)))
        >>> low_pass, truth = torch.tensor([[-0.02, -0.04]]), torch.tensor([[25.0, 29.0]])
        >>> reward.group_total({"low_pass": low_pass, "truth": truth}, torch.ones(1))
        tensor([[-1.,  1.]])

        Args:
            terms: (G, N) each, of N candidates for each of G inputs.
            gate: (G,), result of :meth:`gate`.

        Returns:
            (G, N); NaN where a term is.
        """
        weights = self.weights(gate)
        parts = [
            weights[name][:, None] * group_advantages(value, SMALLEST_SPREAD[name])
            for name, value in terms.items()
        ]
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def ratings(self, restored: Tensor, degraded: Tensor) -> dict[str, Tensor]:
        """Ratings (B,) by every judge that the reward uses, without views; for the monitor."""
        found: dict[str, Tensor] = {}
        if "restoration" in self.names:
            found["restoration"] = self.restoration(restored, degraded).rating
        if any(name in self.names for name in RATED):
            found["rating"] = self.judge(restored).rating
        return found


def _check_range(images: Tensor, name: str) -> None:
    known = images.detach()[images.detach().isfinite()]  # NaN is a failed sample, not a mistake
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"{name} must lie in [0, 1], got {low:.4g} to {high:.4g}: divide 8-bit values by 255; "
            "of [-1, 1], take image / 2 + 0.5; clamp what a sampler overshoots"
        )


def _image(image: Tensor | None, term: str) -> Tensor:
    if image is None:
        kind = "reference" if term == "reference" else "truth"
        raise ValueError(
            f"the term {term!r} has a weight but there is no {kind} image to compare with; "
            f"give one, or set weights.{term}=0"
        )
    return image
