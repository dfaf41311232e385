"""The monitor: does the reward rise because images get better, or because the judge is exploited?

Every check restores the same held-out inputs with the same noise and compares each image with the
untuned restorer's result by figures that are not in the judge's supervision: another judge,
fidelity to the input, distance to the clean photo, statistics of the image. :mod:`.checks` has the
rules of the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from restoration_guide.fidelity.full_reference import reference_figures
from restoration_guide.fidelity.terms import degrade_and_compare, low_pass_distance
from restoration_guide.finetune.checks import IN_SAMPLE, STATISTIC, Check, compare
from restoration_guide.finetune.methods import Batch
from restoration_guide.finetune.probes import departures, statistics
from zoomiqa_core.restoration.model import on_grid
from zoomiqa_core.scorer import Scorer

GROUPS = 6
"""Held-out images that are restored a second time with other noise, for the group variance."""


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


class Monitor:
    """Checks held-out images during a training.

    Args:
        batch: held-out inputs, with the clean images where they are known.
        restore: the restorer in training: an image (1, 3, H, W) and its number, which fixes the
            noise → the restored image. It must be untuned while the monitor is made.
        in_sample: restored images and their inputs → ratings (B,) by each judge of the reward
            (:meth:`.rewards.Reward.ratings`).
        config: interval and size of the checks.
        judge: an independent one, never trained against; None leaves it out.
    """

    def __init__(
        self,
        batch: Batch,
        restore: Callable[[Tensor, int], Tensor],
        in_sample: Callable[[Tensor, Tensor], dict[str, Tensor]],
        config: MonitorConfig,
        *,
        judge: Scorer | None = None,
    ) -> None:
        self.batch, self.restore, self.config = batch, restore, config
        self.in_sample, self.judge = in_sample, judge
        with torch.no_grad():
            self.untuned = self.restored()
            """Results of the untuned restorer, to which every check is compared."""
            self.images = self.untuned
            """Results at the last check, (B, 3, H, W) in [0, 1]."""
            self.degraded = on_grid(batch.degraded, self.untuned)
            """The inputs on the grid of the results."""
            self.start = self.measure(self.untuned)
        self.floor = {name: self.start[name] for name in self.start if name.startswith(STATISTIC)}
        """Statistics below which a run may have collapsed: the lower of the untuned restorer's and
        the clean photo's."""
        if batch.truth is not None:
            for name, values in _named(STATISTIC, statistics(batch.truth)).items():
                self.floor[name] = np.minimum(self.floor[name], values)

    def restored(self) -> Tensor:
        """The held-out images, restored by the current network."""
        return self._restored(len(self.batch.degraded), 0)

    def _restored(self, count: int, offset: int) -> Tensor:
        """The first ``count`` images by the noise of their numbers plus ``offset``."""
        inputs = self.batch.degraded[:count]
        images = [self.restore(image[None], i + offset) for i, image in enumerate(inputs)]
        return torch.cat(images).float().clamp(0, 1)

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, np.ndarray]:
        """Every figure of every image of the current network, (B,) each; NaN where one failed.

        An image that is not finite has NaN in every figure. The group variance is known of the
        first ``GROUPS`` images of a restorer whose samples differ.
        """
        finite = images.flatten(1).isfinite().all(1)
        found = self._measure(torch.where(finite.view(-1, 1, 1, 1), images, 0.5))
        found |= _named(STATISTIC, {"group_variance": self._group_variance(images)})
        broken = (~finite).cpu().numpy()
        return {name: np.where(broken, math.nan, values) for name, values in found.items()}

    def _group_variance(self, images: Tensor) -> Tensor:
        """Logarithm of the variance between two samples of an input; NaN where they are equal."""
        again = self._restored(min(GROUPS, len(images)), len(images))
        variance = (images[: len(again)] - again).square().flatten(1).mean(1) / 2
        known = torch.where(variance > 0, variance.clamp_min(1e-12).log(), math.nan)
        return torch.cat([known, known.new_full((len(images) - len(again),), math.nan)])

    def _measure(self, images: Tensor) -> dict[str, np.ndarray]:
        inputs, truth = self.degraded, self.batch.truth
        pairs = list(zip(images, inputs, strict=True))
        rated = [self.in_sample(image[None], given[None]) for image, given in pairs]
        in_sample = {name: torch.cat([each[name] for each in rated]) for name in rated[0]}
        found: dict[str, Tensor] = {
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
        named = _named(IN_SAMPLE, in_sample) | _named("", found)
        return named | _named(STATISTIC, statistics(images))

    @torch.no_grad()
    def check(self, step: int) -> Check:
        """Restore the held-out images and compare them with the start."""
        self.images = self.restored()
        return compare(step, self.start, self.measure(self.images), floor=self.floor)


def _named(prefix: str, found: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": values.double().cpu().numpy() for name, values in found.items()}
