"""Measure the fidelity of restored candidates to their degraded input, and limit it.

The terms are in :mod:`restoration_guide.fidelity.terms`. Comparison with a clean image:
:mod:`restoration_guide.fidelity.full_reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from restoration_guide.fidelity.colour import added_colour
from restoration_guide.fidelity.full_reference import PSNR_CAP_DB
from restoration_guide.fidelity.terms import (
    colour_drift,
    degrade_and_compare,
    explained_psnr,
    ll_distance,
    low_pass_distance,
    structure,
)

TERMS = {
    "low_pass_distance": ("RMS of pixel values in [0, 1]", "lower is better"),
    "degraded_psnr": (f"dB, at most {PSNR_CAP_DB:g}", "higher is better"),
    "explained_psnr": (f"dB, at most {PSNR_CAP_DB:g}", "higher is better"),
    "ll_distance": ("RMS of pixel values in [0, 1]", "lower is better"),
    "structure": ("SSIM of the low band, at most 1", "higher is better"),
    "colour_drift": ("RMS of a*b* in CIELAB units", "lower is better"),
    "added_colour": ("pixel values in [0, 1]", "lower is better"),
}
"""Unit and direction of each term of :class:`Fidelity`."""

LIMITED = ("low_pass_distance", "degraded_psnr", "added_colour")
"""The terms that :class:`FidelityLimits` limits."""


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "low_pass_distance": low_pass_distance,
    "degraded_psnr": degrade_and_compare,
    "explained_psnr": explained_psnr,
    "ll_distance": ll_distance,
    "structure": structure,
    "colour_drift": colour_drift,
    "added_colour": added_colour,
}
"""The function behind each term."""


@dataclass(frozen=True)
class FidelityLimits:
    """Limits beyond which a candidate counts as another picture.

    The defaults were measured on 256² centre crops of 60 training photos, each degraded by the six
    presets of ``zoomiqa_core.data.damage.restoration`` (seed 0).
    The clean photo must pass as a restoration: over the 360 pairs its largest low-pass distance was
    .028 and its smallest coarse PSNR 26.5 dB. Altered clean photos must not pass: another photo
    (distance ≥ .127, ≤ 16.7 dB) never did, a foreign 64² patch in 2.8 % of the pairs, brightness
    + .08 in 4.7 %, red + .1 in 5.0 %, contrast × 1.3 in 11.4 %. No threshold separates them
    perfectly: in a nearly white chart, clipping undoes the alteration, and contrast changes a flat
    or dark photo little. Further terms have no limit: the tightest ones that pass every clean photo
    reject nothing more.

    >>> Fidelity(low_pass_distance=0.05, degraded_psnr=31.0).violations(FidelityLimits())
    ('low_pass_distance 0.0500 > 0.04',)
    """

    max_low_pass_distance: float = 0.04
    """Largest low-pass distance, in pixel values of [0, 1]."""
    min_degraded_psnr: float = 24.0
    """Smallest PSNR on the coarse grid, in dB."""
    max_added_colour: float = 6 / 255
    """Most colour added to a greyscale input, in pixel values: six 8-bit steps, a barely visible
    cast."""

    def __post_init__(self) -> None:
        if not self.max_low_pass_distance >= 0:
            got = f"got {self.max_low_pass_distance}; inf switches the limit off."
            raise ValueError(f"max_low_pass_distance is a distance ≥ 0 in pixel values, {got}")
        if not self.max_added_colour >= 0:
            got = f"got {self.max_added_colour}; inf switches the limit off."
            raise ValueError(f"max_added_colour is a difference ≥ 0 in pixel values, {got}")
        if math.isnan(self.min_degraded_psnr):
            raise ValueError("min_degraded_psnr is a number of dB, not NaN; -inf switches it off.")


@dataclass(frozen=True)
class Fidelity:
    """The terms of one candidate; units and directions in :data:`TERMS`. NaN: not measured.

    >>> Fidelity(low_pass_distance=0.01, degraded_psnr=38.0).is_faithful(FidelityLimits())
    True
    """

    low_pass_distance: float
    """RMS difference of the Gaussian low-pass, pixel values of [0, 1]; lower is better."""
    degraded_psnr: float
    """PSNR on the coarse grid, dB; higher is better."""
    explained_psnr: float = math.nan
    """PSNR of the candidate, blurred as the input seems to be, dB; higher is better."""
    ll_distance: float = math.nan
    """RMS difference of the wavelet's low band, pixel values of [0, 1]; lower is better."""
    structure: float = math.nan
    """SSIM of the low band, at most 1; higher is better."""
    colour_drift: float = math.nan
    """RMS difference of the coarse a*b*, CIELAB units; lower is better."""
    added_colour: float = math.nan
    """Colour added to a greyscale input, pixel values of [0, 1]; NaN where the input has colour."""

    def violations(self, limits: FidelityLimits) -> tuple[str, ...]:
        """The limits this candidate breaks, in words; empty when it is faithful.

        A NaN low-pass distance or PSNR breaks its limit.
        """
        broken = []
        if not self.low_pass_distance <= limits.max_low_pass_distance:
            broken.append(
                f"low_pass_distance {self.low_pass_distance:.4f} > {limits.max_low_pass_distance:g}"
            )
        if not self.degraded_psnr >= limits.min_degraded_psnr:
            broken.append(
                f"degraded_psnr {self.degraded_psnr:.2f} dB < {limits.min_degraded_psnr:g} dB"
            )
        if self.added_colour > limits.max_added_colour:
            broken.append(
                f"added_colour {self.added_colour:.4f} > {limits.max_added_colour:.4g}: "
                "the input is greyscale"
            )
        return tuple(broken)

    def is_faithful(self, limits: FidelityLimits) -> bool:
        """Whether no limit is broken."""
        return not self.violations(limits)

    def to_dict(self) -> dict[str, float | None]:
        """Terms by name; None where one was not measured."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def measure_fidelity(
    candidates: Tensor, degraded: Tensor, *, terms: Collection[str] = LIMITED
) -> list[Fidelity]:
    """Fidelity of each of a batch of candidates, in fp32 and without gradients.

    Args:
        candidates: (B, 3, H, W) in [0, 1].
        degraded: (B, 3, H, W), or (1, 3, H, W) for candidates of one input.
        terms: names of :data:`TERMS`. By default those that have limits, which must be among them;
            ``TERMS`` measures all, in about three times the time.

    Raises:
        ValueError: shapes differ, an unknown term, or a limited term is missing.

    >>> photo = torch.rand(3, 32, 32)
    >>> found, = measure_fidelity(photo[None], photo[None], terms=TERMS)
    >>> found.low_pass_distance, found.degraded_psnr, found.is_faithful(FidelityLimits())
    (0.0, 100.0, True)
    """
    if not set(LIMITED) <= set(terms) <= set(TERMS):
        raise ValueError(
            f"terms names {', '.join(LIMITED)} and any others of {', '.join(TERMS)}; got "
            f"{', '.join(terms)}."
        )
    with torch.no_grad():
        candidates = candidates.float()
        degraded = degraded.float().expand_as(candidates)
        found = {name: FUNCTIONS[name](candidates, degraded).tolist() for name in terms}
    columns = zip(*found.values(), strict=True)
    return [Fidelity(**dict(zip(found, column, strict=True))) for column in columns]
