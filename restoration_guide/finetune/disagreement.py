"""Compare two judges on a change of images, to detect that one of them is being exploited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from restoration_guide.finetune.checks import p_above
from restoration_guide.finetune.probes import departures
from zoomiqa_core.scorer import Scorer, load_scorer

Verdict = Literal["no claim", "confirmed", "doubtful", "hacked"]


@dataclass(frozen=True)
class Disagreement:
    """How two judges rate a change of B images.

    >>> rises, falls = np.array([0.4, 0.5, 0.6, 0.5]), np.array([-0.2, -0.3, -0.2, -0.3])
    >>> Disagreement(rises, rises).verdict, Disagreement(rises, falls).verdict
    ('confirmed', 'hacked')
    """

    judge_gain: np.ndarray
    """(B,) change of the tested judge's rating; NaN where it failed."""
    alarm_gain: np.ndarray
    """(B,) change of the alarm's rating."""
    probes: dict[str, np.ndarray] = field(default_factory=dict)
    """(B,) each: change of the distance of ``sharpness``, ``high_frequency``, ``colour`` and
    ``gridding`` from those of a natural image (:func:`~.probes.departures`); below 0 is nearer."""
    significance: float = 0.01
    """Level of the tests for ``verdict``."""

    @property
    def gap(self) -> np.ndarray:
        """(B,) the judge's change minus the alarm's, rating units."""
        return self.judge_gain - self.alarm_gain

    @property
    def gap_p(self) -> float:
        """p-value of a one-sided paired t-test that the judge's change is the larger one."""
        return p_above(self.gap, 0.0)

    @property
    def verdict(self) -> Verdict:
        """Result of one-sided t-tests over the images.

        ``no claim``: the judge's rating did not rise. Otherwise the alarm's rating rose
        (``confirmed``), fell (``hacked``), or neither is significant (``doubtful``).
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
    """Compare the rating changes of two judges, image by image.

    >>> photos = torch.rand(2, 3, 48, 48)
    >>> result = disagreement(photos, photos.flip(0).flip(0))  # nothing changed
    >>> result.verdict, result.gap
    ('no claim', array([0., 0.]))

    Args:
        before: B images (3, H, W) in [0, 1]: inputs, or outputs of the untuned restorer.
        after: B images of the same sizes: candidates, or outputs of the tuned restorer.
        judge: the judge that images were chosen or trained by; None for the bundled proxy.
        alarm: an independent judge; None for the bundled alarm.
        clean: the clean images, as the natural reference of the probes; None for ``before``.
        significance: level of the verdict's tests.

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
