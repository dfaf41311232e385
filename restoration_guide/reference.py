"""Candidates against the clean image, where there is one: full-reference figures and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from restoration_guide.fidelity import PSNR_CAP_DB
from restoration_guide.selection import OK, Index, Selection

MS_SSIM_MIN_SIDE = 176
"""Smallest side torchmetrics accepts for five scales of an 11-pixel window: ⌊side / 16⌋ > 10."""


@dataclass(frozen=True)
class ReferenceFigures:
    """How near one image comes to the clean one; higher is better."""

    psnr: float
    """dB for a peak of 1, at most ``PSNR_CAP_DB`` (identical images)."""
    ms_ssim: float | None
    """Multi-scale SSIM in [0, 1]; None for sides below 176 px."""


def reference_figures(image: Tensor, reference: Tensor) -> ReferenceFigures:
    """PSNR and MS-SSIM (torchmetrics) of (3, H, W) in [0, 1] to a reference of the same shape.

    Negative contrast terms of MS-SSIM count as zero (``normalize="relu"``).

    Raises:
        ValueError: shapes differ.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    distance = psnr(image, reference)
    if min(image.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return ReferenceFigures(distance, None)
    with torch.no_grad():
        similarity = multiscale_structural_similarity_index_measure(
            image[None].float(), reference[None].float(), data_range=1.0, normalize="relu"
        )
    return ReferenceFigures(distance, float(similarity))


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio of two images of one shape in [0, 1]: dB, at most 100.

    Raises:
        ValueError: shapes differ.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    if image.shape != reference.shape:
        raise ValueError(
            f"the reference is {tuple(reference.shape)} and the image {tuple(image.shape)}; "
            "give the clean image on the same pixel grid."
        )
    with torch.no_grad():
        value = peak_signal_noise_ratio(image.float(), reference.float(), data_range=1.0)
    return min(float(value), PSNR_CAP_DB)


def compare_with_reference(
    selection: Selection, reference: Tensor
) -> dict[Index, ReferenceFigures]:
    """Figures of the input and of every candidate that may be chosen or was judged unfaithful.

    Args:
        selection: the outcome of a search.
        reference: (3, H, W) in [0, 1] on the input's grid.
    """
    return {
        row.index: reference_figures(selection.image(row.index), reference)
        for row in selection.rows
        if row.index == "input" or row.fidelity is not None
    }


def rank_of_choice(
    selection: Selection, figures: Mapping[Index, ReferenceFigures]
) -> dict[str, int | None]:
    """Place of the chosen image among the input and all usable candidates, 1 = nearest.

    Returns:
        ``{"psnr": …, "ms_ssim": …, "of": …}``; equal figures share the better place.
    """
    usable: list[Index] = [
        row.index for row in selection.rows if row.status == OK or row.index == "input"
    ]
    chosen = figures[selection.choice]
    psnr = 1 + sum(figures[index].psnr > chosen.psnr for index in usable)
    own = chosen.ms_ssim
    others = [figures[index].ms_ssim for index in usable]
    ms_ssim = None if own is None else 1 + sum(o is not None and o > own for o in others)
    return {"psnr": psnr, "ms_ssim": ms_ssim, "of": len(usable)}
