"""Images with human labels, and the scales those labels are on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING


@dataclass(frozen=True)
class Scale:
    """What a dataset's labels mean: unit, range and direction.

    >>> scale = Scale("DMOS", 0, 1, lower_is_better=True)
    >>> scale.mos(0.25), scale.rating(0.25)
    (0.75, 4.0)
    """

    unit: str
    """The dataset's name for it, e.g. ``"MOS"`` or ``"Elo"``."""
    low: float = -math.inf
    high: float = math.inf
    """The range the dataset declares (not the range its labels happen to fill)."""
    lower_is_better: bool = False

    @property
    def bounded(self) -> bool:
        """Whether the dataset declares a range."""
        return math.isfinite(self.high - self.low)

    def mos(self, label: float) -> float:
        """The label with higher meaning better: a lower-is-better label is ``low + high − label``.

        Correlations are the same for any constant in place of ``low + high``.
        """
        return self.low + self.high - label if self.lower_is_better else label

    def rating(self, label: float) -> float:
        """The label mapped linearly to 1–5, higher is better; NaN without a declared range."""
        if not self.bounded:
            return math.nan
        share = (self.mos(label) - self.low) / (self.high - self.low)
        return MIN_RATING + (MAX_RATING - MIN_RATING) * share

    def __str__(self) -> str:
        if self.lower_is_better:
            return f"{self.low + self.high:g} − {self.unit}, {self.low:g}–{self.high:g}"
        return f"{self.unit}, {self.low:g}–{self.high:g}" if self.bounded else self.unit


@dataclass(frozen=True)
class RatedImage:
    """One image and people's rating of it.

    >>> image = RatedImage.from_label(Path("a.png"), 75.0, Scale("MOS", 0, 100), split="test")
    >>> image.rating, image.split
    (4.0, 'test')
    """

    path: Path
    """Its path in the dataset's layout; it need not exist until it is judged."""
    mos: float
    """Mean opinion in the dataset's own unit and range, higher is better (:meth:`Scale.mos`)."""
    rating: float
    """The same mapped linearly to 1–5; NaN if the dataset declares no range."""
    split: str = ""
    """``training``, ``validation`` or ``test``; empty where the dataset has no split."""
    subset: str = ""
    """Part of the dataset with a provenance or a distortion of its own, e.g. ``ss01``."""
    reference: str = ""
    """Name of the undistorted original; empty where there is none."""

    @classmethod
    def from_label(cls, path: Path, label: float, scale: Scale, **parts: str) -> RatedImage:
        """An image by its label as distributed; ``parts`` are split, subset and reference."""
        return cls(path, scale.mos(label), scale.rating(label), **parts)
