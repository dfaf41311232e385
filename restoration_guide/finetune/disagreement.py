"""Do two judges agree that images got better? Where only one is pleased, it may be fooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from restoration_guide.finetune.monitor import p_above
from restoration_guide.finetune.probes import departures
from zoomiqa_core.scorer import Scorer, load_scorer

Verdict = Literal["no claim", "confirmed", "doubtful", "hacked"]


@dataclass(frozen=True)
class Disagreement:
    """What two judges make of a change of B images."""

    judge_gain: np.ndarray
    """(B,) change of the rating by the judge in question; NaN where it failed."""
    alarm_gain: np.ndarray
    """(B,) the same by the alarm."""
    probes: dict[str, np.ndarray] = field(default_factory=dict)
    """(B,) each: how far ``sharpness``, ``high_frequency``, ``colour`` and ``gridding`` moved away
    from a natural image (:func:`~.probes.departures`); below 0, they came nearer."""
    significance: float = 0.01
    """Of the tests behind ``verdict``."""

    @property
    def gap(self) -> np.ndarray:
        """(B,) how much more the judge gained than the alarm, rating units."""
        return self.judge_gain - self.alarm_gain

    @property
    def gap_p(self) -> float:
        """p-value of the one-sided paired t-test that the judge gained more on the mean."""
        return p_above(self.gap, 0.0)

    @property
    def verdict(self) -> Verdict:
        """One-sided t-tests over the images.

        ``no claim``: the judge has not risen. Where it has: ``confirmed``, so has the alarm;
        ``hacked``, the alarm has fallen; ``doubtful``, neither can be said.
        """
        if p_above(self.judge_gain, 0.0) >= self.significance:
            return "no claim"
        if p_above(self.alarm_gain, 0.0) < self.significance:
            return "confirmed"
        return "hacked" if p_above(-self.alarm_gain, 0.0) < self.significance else "doubtful"


def disagreement(
    before: Sequence[Tensor] | Tensor,
    after: Sequence[Tensor] | Tensor,
    judge: Scorer | None = None,
    alarm: Scorer | None = None,
    *,
    clean: Sequence[Tensor] | Tensor | None = None,
    significance: float = 0.01,
) -> Disagreement:
    """Compare what two judges make of each image's change.

    Args:
        before: B images (3, H, W) in [0, 1]: inputs, or what an untuned restorer made.
        after: as many, of the same sizes: candidates, or what the tuned restorer made.
        judge: the one that was searched with or trained against; None for the bundled proxy.
        alarm: another, never trained against; None for the bundled alarm.
        clean: the clean images, where there are any: what probes take for natural. Without, that is
            ``before``.
        significance: of the verdict.

    Raises:
        ValueError: numbers or sizes of images differ.
    """
    natural = list(before if clean is None else clean)
    if [x.shape for x in before] != [x.shape for x in after] or len(natural) != len(before):
        raise ValueError(
            f"expected as many images after as before, of the same sizes; got "
            f"{[tuple(x.shape) for x in before]} and {[tuple(x.shape) for x in after]}"
        )
    by_judge, by_alarm = (
        _ratings(scorer, after) - _ratings(scorer, before)
        for scorer in (judge or load_scorer("proxy"), alarm or load_scorer("alarm"))
    )
    moved: dict[str, list[float]] = {}
    for old, new, kept in zip(before, after, natural, strict=True):
        old_from, new_from = (departures(torch.stack([x]), torch.stack([kept])) for x in (old, new))
        for name in new_from:
            moved.setdefault(name, []).append(float(new_from[name] - old_from[name]))
    probes = {name: np.array(values) for name, values in moved.items()}
    return Disagreement(by_judge, by_alarm, probes, significance)


def _ratings(scorer: Scorer, images: Sequence[Tensor] | Tensor) -> np.ndarray:
    return np.array([assessment.rating for assessment in scorer.assess(list(images))])
