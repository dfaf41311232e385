"""The reward of a restored image: named terms, each logged, and their weighted total.

Every term is one number per image, higher is better:

===============  ====================================================================  ==========
term             meaning                                                               unit
===============  ====================================================================  ==========
rating           the judge's lower bound over random views                             rating
map              mean of the judge's quality map, where it has one                     rating
worst_region     mean of the worst fifth of the map                                    rating
low_pass         − RMS difference of the low-pass to the input's                       pixel value
degraded_psnr    degrade-and-compare with the input                                    dB
reference        − RMS difference to the untuned restorer's result for the same        pixel value
unchanged        − RMS difference to the input                                         pixel value
grid             − RMS of the pattern that repeats every two pixels                    pixel value
truth            PSNR to the clean image, where there is one                           dB
truth_ms_ssim    MS-SSIM to the clean image, of as many scales as fit                  0 to 1
===============  ====================================================================  ==========

The lower bound is that of :func:`zoomiqa_core.proxy.model.lower_bound`.

Terms have different units and spreads, so each is divided by its scale before the sum. The gate g
in (0, 1) of an image comes from the rating of its *input*: quality terms count g times, and
``unchanged`` 1 − g times, so that good inputs are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.fidelity.full_reference import ms_ssim, psnr
from restoration_guide.fidelity.terms import degrade_and_compare, low_pass_distance, rms
from restoration_guide.restorers.base import RANGE_TOLERANCE
from zoomiqa_core.proxy.model import Rated, lower_bound
from zoomiqa_core.proxy.views import ViewConfig, random_views

QUALITY = ("rating", "map", "worst_region")
"""Terms that come from the judge."""

SMALLEST_SCALE = {
    "rating": 0.1,
    "map": 0.1,
    "worst_region": 0.1,
    "low_pass": 0.005,
    "degraded_psnr": 1.0,
    "reference": 0.01,
    "unchanged": 0.01,
    "grid": 0.0003,
    "truth": 1.0,
    "truth_ms_ssim": 0.02,
}
"""Floor of each term's scale in its own unit: a term that hardly varies is not amplified."""

WORST_SHARE = 0.2
"""Share of the map's cells that ``worst_region`` averages."""

GATE_WIDTH = 0.25
"""Rating points over which the gate closes."""

MOMENTUM = 0.98
"""Share of the running variance that a step keeps."""

Judge = Callable[[Tensor], Rated]
"""A judge of (B, 3, H, W) in [0, 1]: ``QualityProxy`` and ``Alarm`` (no map), which have a gradient
in the image, or a black box (:class:`.candidates.BlackBoxJudge`)."""


@dataclass(frozen=True)
class Weights:
    """Weight of each normalised term; 0 leaves a term out.

    >>> Weights(rating=0.3, truth=4.0).truth
    4.0
    """

    rating: float = 1.0
    map: float = 0.0
    worst_region: float = 0.0
    low_pass: float = 0.0
    degraded_psnr: float = 0.0
    reference: float = 0.0
    unchanged: float = 0.0
    grid: float = 0.0
    truth: float = 0.0
    truth_ms_ssim: float = 0.0

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
    """Random views that the judge rates."""
    gate_rating: float | None = None
    """Input rating at which the gate is ½; None counts quality fully for every input."""
    normalise: Literal["running", "none"] = "running"
    """Scale of a term: its running standard deviation, or 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence < math.inf:
            raise ValueError(f"expected confidence ≥ 0, got {self.confidence}")


@dataclass(frozen=True, eq=False)
class Rewarded:
    """The reward of a batch."""

    terms: dict[str, Tensor]
    """Each weighted term as it is, (B,), with its graph."""
    total: Tensor
    """Weighted sum of the normalised terms, (B,), with its graph; NaN where a term is."""

    @property
    def valid(self) -> Tensor:
        """Which images have a finite reward, (B,) bool."""
        return torch.isfinite(self.total.detach())


class RunningScale:
    """Standard deviation of each term over the recent batches; the same on every process.

    Args:
        momentum: share of the old variance that an update keeps.
    """

    def __init__(self, momentum: float = MOMENTUM) -> None:
        self.momentum = momentum
        self.variance: dict[str, float] = {}

    def __getitem__(self, term: str) -> float:
        """The term's scale; its floor before the first update."""
        return max(math.sqrt(self.variance.get(term, 0.0)), SMALLEST_SCALE[term])

    def update(self, terms: Mapping[str, Tensor]) -> None:
        """Update with (N,) values of each term; non-finite ones, and a single one, are ignored."""
        for name, values in terms.items():
            values = values.detach().double().flatten()
            values = values[torch.isfinite(values)]
            if len(values) < 2:
                continue
            new = float(values.var())
            old = self.variance.get(name, new)
            self.variance[name] = self.momentum * old + (1 - self.momentum) * new


class Reward:
    """Rewards restored images.

    >>> from zoomiqa_core.proxy.model import QualityProxy
    >>> weights = Weights(rating=1.0, low_pass=0.5)
    >>> reward = Reward(QualityProxy.from_pretrained().eval(), RewardConfig(weights))
    >>> degraded = torch.rand(2, 3, 64, 64)
    >>> restored = degraded.clone().requires_grad_()
    >>> result = reward(restored, degraded, generator=torch.Generator().manual_seed(0))
    >>> sorted(result.terms), result.total.shape
    (['low_pass', 'rating'], torch.Size([2]))

    Args:
        judge: rates images; its parameters should not require gradients.
        config: terms and weights.
        check_range: refuse images outside [0, 1]; the check waits for the device once per call.
    """

    def __init__(self, judge: Judge, config: RewardConfig, *, check_range: bool = True) -> None:
        self.judge, self.config, self.check_range = judge, config, check_range
        self.scale = RunningScale()
        self.names = tuple(name for name, weight in asdict(config.weights).items() if weight)

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
            degraded: the restorer's input, of the same shape.
            generator: draws the views.
            reference: the untuned restorer's result, for the term of that name.
            truth: the clean image, for the term of that name.

        Raises:
            ValueError: pixels outside [0, 1]; a weighted term lacks its image, or the judge has no
                map for it.
        """
        if self.check_range:
            images = {"restored": restored, "degraded": degraded}
            for name, each in (images | {"reference": reference, "truth": truth}).items():
                if each is not None:
                    _check_range(each, name)
        found: dict[str, Tensor] = {}
        if any(name in self.names for name in QUALITY):
            views = random_views(restored, self.config.views, generator)
            outputs = [self.judge(view) for view in views]
            found["rating"] = lower_bound(outputs, self.config.confidence)
            if "map" in self.names or "worst_region" in self.names:
                found |= map_terms(outputs)
        if "low_pass" in self.names:
            found["low_pass"] = -low_pass_distance(restored, degraded)
        if "degraded_psnr" in self.names:
            found["degraded_psnr"] = degrade_and_compare(restored, degraded)
        if "unchanged" in self.names:
            found["unchanged"] = -rms(restored - degraded)
        if "grid" in self.names:
            found["grid"] = -rms(two_pixel_pattern(restored))
        if "reference" in self.names:
            found["reference"] = -rms(restored - _given(reference, "reference"))
        if "truth" in self.names:
            found["truth"] = psnr(restored, _given(truth, "truth"))
        if "truth_ms_ssim" in self.names:
            found["truth_ms_ssim"] = ms_ssim(restored, _given(truth, "truth"))
        return {name: found[name] for name in self.names}

    def gate(self, degraded: Tensor) -> Tensor:
        """g of every input, (B,) in (0, 1); ones without a gate."""
        if self.config.gate_rating is None:
            return degraded.new_ones(len(degraded))
        with torch.no_grad():
            rating = self.judge(degraded).rating
        return torch.sigmoid((self.config.gate_rating - rating) / GATE_WIDTH)

    def total(self, terms: Mapping[str, Tensor], gate: Tensor) -> Tensor:
        """Weighted sum of the normalised terms, (B,).

        Args:
            terms: result of :meth:`terms`.
            gate: result of :meth:`gate`.
        """
        weights = asdict(self.config.weights)
        parts = []
        for name, values in terms.items():
            scale = 1.0 if self.config.normalise == "none" else self.scale[name]
            share = gate if name in QUALITY else 1 - gate if name == "unchanged" else 1.0
            parts.append(weights[name] / scale * share * values)
        return torch.stack(parts).sum(0)

    def __call__(
        self,
        restored: Tensor,
        degraded: Tensor,
        *,
        generator: torch.Generator,
        reference: Tensor | None = None,
        truth: Tensor | None = None,
    ) -> Rewarded:
        """Terms and total at once; arguments as in :meth:`terms` and :meth:`total`."""
        terms = self.terms(
            restored, degraded, generator=generator, reference=reference, truth=truth
        )
        return Rewarded(terms, self.total(terms, self.gate(degraded)))


def map_terms(views: Sequence[Rated], worst_share: float = WORST_SHARE) -> dict[str, Tensor]:
    """Terms of the judge's quality map from its outputs for several views of a batch, (B,) each.

    Raises:
        ValueError: the judge has no map.
    """
    maps = [getattr(view, "map", None) for view in views]
    cells = [each.flatten(1) for each in maps if each is not None]  # (B, n) each
    if len(cells) < len(maps):
        raise ValueError(
            "this judge rates the whole image and has no quality map; set weights.map=0 and "
            "weights.worst_region=0, or take judge=proxy"
        )
    worst = [worst_mean(each, worst_share) for each in cells]
    return {
        "map": torch.stack([each.mean(1) for each in cells]).mean(0),
        "worst_region": torch.stack(worst).mean(0),
    }


def worst_mean(cells: Tensor, share: float) -> Tensor:
    """Mean of the lowest ``share`` of each row of (B, n), at least one of them: (B,)."""
    count = max(1, round(share * cells.shape[1]))
    return cells.topk(count, dim=1, largest=False).values.mean(1)


def two_pixel_pattern(images: Tensor) -> Tensor:
    """Checkerboard artefact, (B, 12): the mean detail at each position of a 2 × 2 period.

    Over-trained networks that end in a pixel-shuffle produce one, and judges rate it as detail.
    Detail is the difference from the 3 × 3 mean.

    Args:
        images: (B, 3, H, W), sides ≥ 2; an odd last row or column is left out.
    """
    detail = images - functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    height, width = (side // 2 * 2 for side in detail.shape[-2:])
    return functional.pixel_unshuffle(detail[..., :height, :width], 2).mean((2, 3))


def _check_range(images: Tensor, name: str) -> None:
    known = images.detach()[images.detach().isfinite()]  # NaN is a failed sample, not a mistake
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"{name} must lie in [0, 1], got {low:.4g} to {high:.4g}: divide 8-bit values by 255; "
            "of [-1, 1], take image / 2 + 0.5; clamp what a sampler overshoots"
        )


def _given(image: Tensor | None, term: str) -> Tensor:
    if image is None:
        raise ValueError(
            f"the term {term!r} has a weight but there is no {term} image to compare with; "
            f"give one, or set weights.{term}=0"
        )
    return image
