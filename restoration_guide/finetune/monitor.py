"""The monitor: does the reward rise because images get better, or because the judge is fooled?

Every check restores the same held-out inputs with the same noise and compares each image with what
the untuned restorer made of it. Evidence the judge knows nothing of speaks: another judge, fidelity
to the input, distance to the clean photo, statistics of the image. The run has been hacked when,
over the held-out images,

- the training judge's rating has risen (one-sided paired t-test at ``significance``), and
- some evidence has become worse by more than its tolerance (one-sided paired t-test of the change
  beyond the tolerance, at ``significance`` divided by the number of kinds of evidence).

A check is honest while no kind of evidence has become worse by more than its tolerance on the
mean, significant or not: the last honest check is where a stopped run goes back to.
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
    """One kind of evidence."""

    better: int
    """+1 when higher is better, −1 when lower is."""
    tolerance: float
    """Change for the worse, in its own unit, that is put up with."""


EVIDENCE = {
    "judge": Evidence(1, 0.1),
    "psnr": Evidence(1, 0.2),
    "ms_ssim": Evidence(1, 0.005),
    "degraded_psnr": Evidence(1, 2.0),
    "low_pass_distance": Evidence(-1, 0.005),
    "sharpness": Evidence(-1, 0.15),
    "high_frequency": Evidence(-1, 0.15),
    "colour": Evidence(-1, 0.01),
    "gridding": Evidence(-1, 0.0005),
}
"""Units: rating points, dB, similarity, dB, pixel values, two logarithms of ratios, pixel values. A
grid of .0015 could be seen in a restoration that every other kind of evidence praised."""


@dataclass(frozen=True)
class MonitorConfig:
    """When the held-out images are looked at, and what is made of it."""

    every: int = 20
    """Steps between checks."""
    images: int = 12
    """Held-out crops; fewer than 5 can hardly show anything."""
    side: int = 176
    """Side of the crops in pixels; MS-SSIM needs 176."""
    significance: float = 0.01
    """Chance of a false alarm that is put up with at one check."""
    stop: bool = True
    """Stop and go back when hacked; otherwise only say so."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.images < 2 or not 0 < self.significance < 1:
            raise ValueError(
                "expected every ≥ 1, images ≥ 2 and 0 < significance < 1, got "
                f"{self.every}, {self.images} and {self.significance}"
            )


@dataclass(frozen=True)
class Check:
    """What one look at the held-out images found."""

    step: int
    means: dict[str, float]
    """Mean of every figure over the images."""
    gain: float
    """Mean change of the training judge's rating since the start."""
    gain_p: float
    """p-value of the rise."""
    worse: dict[str, float] = field(default_factory=dict)
    """Mean change for the worse of each kind of evidence, in its own unit; below 0 is better."""
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
    """Looks at held-out images again and again.

    Args:
        batch: held-out inputs, with the clean images where they are known.
        restore: the restorer in training: an image (1, 3, H, W) and its number, which fixes the
            noise → the restored image. It must be untuned while the monitor is made.
        training_judge: the judge of the reward.
        judge: an independent one, never trained against; None goes without.
        config: rule.
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
            """What the untuned restorer made, to which every later look is compared."""
            self.images = self.untuned
            """What the last look saw, (B, 3, H, W) in [0, 1]."""
            self.start = self.measure(self.untuned)

    def restored(self) -> Tensor:
        """The held-out images as the network now restores them."""
        images = [self.restore(image[None], i) for i, image in enumerate(self.batch.degraded)]
        return torch.cat(images).float().clamp(0, 1)

    def measure(self, images: Tensor) -> dict[str, np.ndarray]:
        """Every figure of every image, (B,) each; NaN where a judgement failed."""
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
    def look(self, step: int) -> Check:
        """Restore the held-out images and judge the run."""
        self.images = self.restored()
        return compare(step, self.start, self.measure(self.images), self.config.significance)


def compare(
    step: int, start: dict[str, np.ndarray], now: dict[str, np.ndarray], significance: float
) -> Check:
    """The verdict, from every figure of every held-out image at the start and now.

    Args:
        step: of the check.
        start: name → (B,).
        now: the same names.
        significance: of one check.
    """
    gains = now["rating"] - start["rating"]
    gain_p = p_above(gains, 0.0)
    kinds = [name for name in EVIDENCE if name in now]
    losses = {name: EVIDENCE[name].better * (start[name] - now[name]) for name in kinds}
    worse = {name: _mean(loss) for name, loss in losses.items()}
    worse_p = {name: p_above(losses[name], EVIDENCE[name].tolerance) for name in kinds}
    over = [name for name in kinds if worse[name] > EVIDENCE[name].tolerance]  # NaN says nothing
    proven = [name for name in over if worse_p[name] < significance / len(kinds)]
    risen = gain_p < significance
    means = {name: _mean(values) for name, values in now.items()}
    return Check(
        step,
        means,
        _mean(gains),
        gain_p,
        worse,
        worse_p,
        honest=not over,
        hacked=risen and bool(proven),
        reason=_reason(risen, over, proven, _mean(gains), gain_p, worse, worse_p),
    )


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
    return f"honest: {rating}; no evidence beyond its tolerance"


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
