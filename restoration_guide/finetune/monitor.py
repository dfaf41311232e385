"""The monitor: does the reward rise because images get better, or because the judge is exploited?

Every check restores the same held-out inputs with the same noise and compares each image with the
untuned restorer's result by figures that are not in the judge's supervision: another judge,
fidelity to the input, distance to the clean photo, statistics of the image. The run has been hacked
when, over the held-out images,

- the training judge's rating has risen (one-sided paired t-test at ``SIGNIFICANCE``), and
- some figure has become worse by more than its tolerance (one-sided paired t-test of the change
  beyond the tolerance, at ``SIGNIFICANCE`` divided by the number of figures).

It has collapsed, and counts as hacked, when restored images are not finite. A figure that was
finite at the start and is missing or NaN now counts as its worst value. A check is honest while no
figure has become worse by more than its tolerance on the mean, significant or not: a stopped run
goes back to its last honest check.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restoration_guide.fidelity.full_reference import reference_figures
from restoration_guide.fidelity.terms import degrade_and_compare, low_pass_distance
from restoration_guide.finetune.methods import Batch
from restoration_guide.finetune.probes import departures
from restoration_guide.finetune.rewards import Judge
from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class Evidence:
    """One figure that is evidence for or against the run."""

    better: int
    """+1 when higher is better, −1 when lower is."""
    tolerance: float
    """Tolerated change for the worse, in the figure's unit."""
    worst: float
    """Value of a missing or NaN figure."""


EVIDENCE = {
    "judge": Evidence(1, 0.1, 1.0),
    "psnr": Evidence(1, 0.2, 0.0),
    "ms_ssim": Evidence(1, 0.005, 0.0),
    "degraded_psnr": Evidence(1, 2.0, 0.0),
    "low_pass_distance": Evidence(-1, 0.005, 1.0),
    "sharpness": Evidence(-1, 0.15, 10.0),
    "high_frequency": Evidence(-1, 0.15, 10.0),
    "colour": Evidence(-1, 0.01, 1.0),
    "gridding": Evidence(-1, 0.0005, 1.0),
}
"""Units: rating points, dB, similarity, dB, pixel values, two logarithms of ratios, pixel values. A
checkerboard artefact of .0015 was visible in a restoration that every other figure rated better."""

SIGNIFICANCE = 0.01
"""Probability of a false alarm at one check."""

WORST_RATING = 1.0
"""Of the training judge where it fails."""


@dataclass(frozen=True)
class MonitorConfig:
    """When the held-out images are checked, and whether a hacked run stops."""

    every: int = 20
    """Steps between checks."""
    images: int = 12
    """Held-out crops; with fewer than 5 hardly any change is significant."""
    side: int = 176
    """Side of the crops in pixels; MS-SSIM needs 176."""
    stop: bool = True
    """Stop and go back when hacked; otherwise only report it."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.images < 2:
            raise ValueError(
                f"expected every ≥ 1 and images ≥ 2, got {self.every} and {self.images}"
            )


@dataclass(frozen=True)
class Check:
    """Figures and verdict of one check on the held-out images."""

    step: int
    means: dict[str, float]
    """Mean of every figure over the images."""
    gain: float
    """Mean change of the training judge's rating since the start."""
    gain_p: float
    """p-value of the rise."""
    worse: dict[str, float] = field(default_factory=dict)
    """Mean change for the worse of each figure, in its unit; below 0 is better."""
    worse_p: dict[str, float] = field(default_factory=dict)
    """p-value that it exceeds the tolerance."""
    honest: bool = True
    hacked: bool = False
    reason: str = ""
    """The verdict in words."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, for the log."""
        return dict(self.__dict__)


class Monitor:
    """Checks held-out images during a training.

    Args:
        batch: held-out inputs, with the clean images where they are known.
        restore: the restorer in training: an image (1, 3, H, W) and its number, which fixes the
            noise → the restored image. It must be untuned while the monitor is made.
        training_judge: the judge of the reward.
        judge: an independent one, never trained against; None leaves it out.
        config: interval and size of the checks.
    """

    def __init__(
        self,
        batch: Batch,
        restore: Callable[[Tensor, int], Tensor],
        training_judge: Judge,
        config: MonitorConfig,
        *,
        judge: Scorer | None = None,
    ) -> None:
        self.batch, self.restore, self.config = batch, restore, config
        self.training_judge, self.judge = training_judge, judge
        with torch.no_grad():
            self.untuned = self.restored()
            """Results of the untuned restorer, to which every check is compared."""
            self.images = self.untuned
            """Results at the last check, (B, 3, H, W) in [0, 1]."""
            self.start = self.measure(self.untuned)

    def restored(self) -> Tensor:
        """The held-out images, restored by the current network."""
        images = [self.restore(image[None], i) for i, image in enumerate(self.batch.degraded)]
        return torch.cat(images).float().clamp(0, 1)

    def measure(self, images: Tensor) -> dict[str, np.ndarray]:
        """Every figure of every image, (B,) each; NaN where a judgement failed.

        An image that is not finite has NaN in every figure.
        """
        finite = images.flatten(1).isfinite().all(1)
        found = self._measure(torch.where(finite.view(-1, 1, 1, 1), images, 0.5))
        broken = (~finite).cpu().numpy()
        return {name: np.where(broken, math.nan, values) for name, values in found.items()}

    def _measure(self, images: Tensor) -> dict[str, np.ndarray]:
        inputs, truth = self.batch.degraded, self.batch.truth
        rating = torch.cat([self.training_judge(image[None]).rating for image in images])
        found: dict[str, Tensor] = {
            "rating": rating,
            "degraded_psnr": degrade_and_compare(images, inputs),
            "low_pass_distance": low_pass_distance(images, inputs),
            **departures(images, self.untuned if truth is None else truth),
        }
        if truth is not None:
            figures = [reference_figures(a, b) for a, b in zip(images, truth, strict=True)]
            found["psnr"] = torch.tensor([each.psnr for each in figures])
            similar = [each.ms_ssim for each in figures if each.ms_ssim is not None]
            if similar:
                found["ms_ssim"] = torch.tensor(similar)
        if self.judge is not None:
            found["judge"] = torch.tensor([a.rating for a in self.judge.assess(list(images.cpu()))])
        return {name: values.double().cpu().numpy() for name, values in found.items()}

    @torch.no_grad()
    def check(self, step: int) -> Check:
        """Restore the held-out images and compare them with the start."""
        self.images = self.restored()
        return compare(step, self.start, self.measure(self.images))


def compare(
    step: int,
    start: dict[str, np.ndarray],
    now: dict[str, np.ndarray],
    significance: float = SIGNIFICANCE,
) -> Check:
    """The verdict, from every figure of every held-out image at the start and now.

    >>> start = {"rating": np.full(6, 3.0), "psnr": np.full(6, 25.0)}
    >>> now = {"rating": np.full(6, 3.4), "psnr": np.full(6, 24.0)}
    >>> print(compare(20, start, now).reason)  # doctest: +ELLIPSIS
    hacked: the training judge's rating changed by +0.400 ... psnr got worse by 1, more than 0.2 ...

    Args:
        step: of the check.
        start: name → (B,).
        now: the same names.
        significance: of one check.
    """
    kinds = [name for name in EVIDENCE if name in start]
    filled = {
        name: _worst_where_missing(start[name], now.get(name), EVIDENCE[name]) for name in kinds
    }
    rating = _worst_where_missing(start["rating"], now.get("rating"), Evidence(1, 0, WORST_RATING))
    gains = rating - start["rating"]
    gain_p = p_above(gains, 0.0)
    losses = {name: EVIDENCE[name].better * (start[name] - filled[name]) for name in kinds}
    worse = {name: _mean(loss) for name, loss in losses.items()}
    worse_p = {name: p_above(losses[name], EVIDENCE[name].tolerance) for name in kinds}
    over = [name for name in kinds if worse[name] > EVIDENCE[name].tolerance]
    proven = [name for name in over if worse_p[name] < significance / len(kinds)]
    risen = gain_p < significance
    # a failed judgement is NaN in one figure; an image that is not finite in all of them
    figures = np.stack([np.isnan(values) for values in now.values()])
    collapsed = int(figures.all(0).sum()) if len(now) > 1 else 0
    reason = _reason(risen, over, proven, _mean(gains), gain_p, worse, worse_p)
    if collapsed:
        reason = f"collapsed: {collapsed} of {len(gains)} restored images are not finite"
    return Check(
        step,
        {name: _mean(values) for name, values in now.items()},
        _mean(gains),
        gain_p,
        worse,
        worse_p,
        honest=not over and not collapsed,
        hacked=collapsed > 0 or (risen and bool(proven)),
        reason=reason,
    )


def _worst_where_missing(
    start: np.ndarray, now: np.ndarray | None, evidence: Evidence
) -> np.ndarray:
    """The figures now, the worst value where one that was finite at the start is not."""
    now = np.full_like(start, math.nan) if now is None else now
    return np.where(np.isfinite(start) & ~np.isfinite(now), evidence.worst, now)


def p_above(changes: np.ndarray, limit: float) -> float:
    """p-value of the one-sided t-test that the mean change exceeds ``limit``.

    NaN changes (failed judgements) are left out; fewer than two that are left prove nothing, p = 1.
    Changes that are all the same have no spread: p is 0 above the limit and 1 otherwise.
    """
    from scipy.stats import ttest_1samp

    changes = changes[np.isfinite(changes)]
    if len(changes) < 2:
        return 1.0
    if np.ptp(changes) <= 1e-12:
        return 0.0 if changes[0] > limit + 1e-12 else 1.0
    result: Any = ttest_1samp(changes, limit, alternative="greater")
    return float(result.pvalue)


def _reason(
    risen: bool,
    over: list[str],
    proven: list[str],
    gain: float,
    gain_p: float,
    worse: dict[str, float],
    worse_p: dict[str, float],
) -> str:
    rating = f"the training judge's rating changed by {gain:+.3f} (p = {gain_p:.2g})"
    if risen and proven:
        facts = ", ".join(
            f"{name} got worse by {worse[name]:.3g}, more than {EVIDENCE[name].tolerance:g} "
            f"(p = {worse_p[name]:.2g})"
            for name in proven
        )
        return f"hacked: {rating} while {facts}"
    if over:
        facts = ", ".join(f"{name} by {worse[name]:.3g}" for name in over)
        return f"doubtful: {rating}; beyond its tolerance, but not proven to be hacking: {facts}"
    return f"honest: {rating}; no figure beyond its tolerance"


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
