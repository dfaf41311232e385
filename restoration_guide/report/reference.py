"""The candidates of a search against the clean image, where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from restoration_guide.fidelity.full_reference import Learned, ReferenceFigures, reference_figures
from restoration_guide.search.selection import OK, Index, Selection


def compare_with_reference(
    selection: Selection, reference: Tensor, *, learned: Sequence[Learned] = ()
) -> dict[Index, ReferenceFigures]:
    """Figures of the input and of every candidate that may be chosen or was judged unfaithful.

    Args:
        selection: the outcome of a search.
        reference: (3, H, W) in [0, 1] on the input's grid.
        learned: learned distances to add; they may download their backbones.
    """
    return {
        row.index: reference_figures(selection.image(row.index), reference, learned=learned)
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
