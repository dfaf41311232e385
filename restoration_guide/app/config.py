"""What the page offers, and how much it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoomiqa_core.images.errors import ImageLimits

BUNDLED_JUDGES = ("restoration", "proxy", "alarm", "tiny")


@dataclass(frozen=True)
class AppConfig:
    """Settings of the page.

    >>> config = AppConfig(restorers=("builtin", "upscaler.safetensors"), max_megapixels=2)
    >>> config.limits.max_pixels
    2000000
    """

    restorers: Sequence[Any] = ("builtin",)
    """Names for :func:`~restoration_guide.load_restorer`, or restorers; the first is the default.
    Visitors choose among these, so that nobody makes the page load other files."""
    scorers: Sequence[Any] = BUNDLED_JUDGES
    """Names for :func:`~zoomiqa_core.load_scorer`, or judges; the first is the default."""
    device: str = "cpu"
    """Where models that are given by name compute."""
    max_n: int = 16
    """Most candidates of a search."""
    max_megapixels: float = 4.0
    """Largest photo, in millions of pixels."""
    max_megabytes: float = 32.0
    """Largest file."""

    def __post_init__(self) -> None:
        if not self.restorers or not self.scorers:
            raise ValueError("the page needs at least one restorer and one judge to offer.")
        if self.max_n < 1 or self.max_megapixels <= 0 or self.max_megabytes <= 0:
            raise ValueError(
                f"max_n, max_megapixels and max_megabytes must be positive; got {self.max_n}, "
                f"{self.max_megapixels} and {self.max_megabytes}."
            )

    @property
    def limits(self) -> ImageLimits:
        """Sizes of photos that the page takes."""
        return ImageLimits(max_pixels=round(self.max_megapixels * 1e6), min_side=16)
