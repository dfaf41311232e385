"""The learning-rate schedule of all trainings: a linear warm-up, then a cosine."""

from __future__ import annotations

import math


def warmup_cosine(step: float, *, warmup: int, progress: float, floor: float = 0.0) -> float:
    """Learning rate as a share of its peak: linear warm-up times cosine decay.

    ``min(1, (step + 1) / warmup) · (floor + (1 − floor) · ½ (1 + cos(π · progress)))``

    Args:
        step: Steps taken so far; below 0 the share is 0.
        warmup: Steps of the warm-up; 0 begins at the peak.
        progress: How much of the decay is over, clamped to [0, 1]. It is the caller's to define,
            because some trainings are limited by time and some begin to decay late.
        floor: Share of the peak at the end.

    >>> [warmup_cosine(step, warmup=2, progress=step / 8) for step in (0, 4, 8)]
    [0.5, 0.5, 0.0]
    """
    warm = min(1.0, max(0, step + 1) / max(1, warmup))
    decay = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return warm * (floor + (1.0 - floor) * decay)
