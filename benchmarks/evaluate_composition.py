"""What composing adds to the best single candidate, on photos damaged differently by half.

    python -m benchmarks.evaluate_composition --photos PHOTOS --count 24 --seed 0

The left and the right half of every 256 x 256 centre crop are damaged by two different presets, or
one of them not at all; the pairs take turns. Each photo is searched once and composed once. Prints
means and differences with 95 % bootstrap intervals and writes them, with every photo's figures, as
JSON. Terms:

- single: the search's choice; composed: the choice after composing, which is the single one where
  judge, fidelity and seam did not agree;
- mixed winners: photos whose candidate nearest to the clean crop, by PSNR, is not the same in both
  halves (the input counts as a candidate);
- second judge: BRISQUE (lower is better), or any other judge by name (higher is better), which took
  no part in the choice.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks import tables
from benchmarks.damaged_photos import Photo, damage, read_photos
from benchmarks.peers import brisque
from benchmarks.searches import search_config, search_options, searched
from restoration_guide.fidelity.full_reference import psnr, reference_figures
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.compose import ComposeConfig, compose_regions
from restoration_guide.search.selection import Index, Selection
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap
from zoomiqa_core.scorer import load_scorer

KINDS = ("undamaged", "noise_jpeg", "blur", "x4")
PAIRS = tuple(itertools.permutations(KINDS, 2))
STRIDE = 5
"""Through the pairs, so that a few photos see every kind on every side; 5 and 12 are coprime."""


@dataclass(frozen=True)
class Trial:
    """One photo before and after composing."""

    name: str
    left: str
    right: str
    status: str
    """Of the composition's row; "none" when nothing was composed."""
    detail: str
    mixed: bool
    single: dict[str, float]
    composed: dict[str, float]
    seconds: float
    """Of composing alone."""


def damaged_halves(photo: Photo, kinds: tuple[str, str], seed: int) -> Tensor:
    """(3, SIDE, SIDE): the left half of one damaged version beside the right half of another."""
    left, right = (
        photo.clean if kind == "undamaged" else damage(photo, kind, seed=seed) for kind in kinds
    )
    middle = left.shape[-1] // 2
    return torch.cat([left[..., :middle], right[..., middle:]], dim=-1)


def winner_by_half(selection: Selection, clean: Tensor) -> tuple[Index, Index]:
    """Index of the image nearest to the clean one in the left and in the right half."""
    middle = clean.shape[-1] // 2
    rows = [row for row in selection.rows if row.index == "input" or row.fidelity is not None]
    indices: list[Index] = [row.index for row in rows]

    def nearest(half: slice) -> Index:
        return max(
            indices,
            key=lambda index: float(psnr(selection.image(index)[..., half], clean[..., half])),
        )

    return nearest(slice(0, middle)), nearest(slice(middle, None))


def run_trial(
    search: BestOfN,
    config: ComposeConfig,
    photo: Photo,
    kinds: tuple[str, str],
    seed: int,
    second: Callable[[Tensor], float],
) -> Trial:
    """Search and compose one photo."""
    halves = damaged_halves(photo, kinds, seed)
    selection = searched(search, halves, name=photo.name, seed=seed)
    after = compose_regions(selection, config)
    row = after.rows[-1] if after is not selection else None
    winners = winner_by_half(selection, photo.clean)
    return Trial(
        photo.name,
        *kinds,
        "none" if row is None else row.status,
        "" if row is None else row.detail,
        winners[0] != winners[1],
        _figures(selection, photo.clean, second),
        _figures(after, photo.clean, second),
        after.timing.total - selection.timing.total,
    )


def summary(trials: Sequence[Trial]) -> dict[str, dict[str, Estimate]]:
    """Means of both and of their difference, by figure."""
    found = {}
    for name in trials[0].single if trials else ():
        single = [trial.single[name] for trial in trials]
        composed = [trial.composed[name] for trial in trials]
        found[name] = {
            "single": bootstrap(np.mean, single),
            "composed": bootstrap(np.mean, composed),
            "difference": bootstrap(lambda a, b: float(np.mean(a) - np.mean(b)), composed, single),
        }
    return found


def main() -> None:
    """Run the comparison and write it down."""
    options = search_options(
        __doc__,
        out="runs/evaluate_composition.json",
        count=24,
        second="brisque",
        temperature=ComposeConfig.temperature,
    )
    search = search_config(options).build()
    config = ComposeConfig(temperature=options.temperature)
    second = _second_judge(options.second)
    trials: list[Trial] = []
    for place, photo in enumerate(track(read_photos(options.photos, options.count), "photos")):
        kinds = PAIRS[place * STRIDE % len(PAIRS)]
        trials.append(run_trial(search, config, photo, kinds, options.seed, second))
    found = {
        f"{name}, {len(group)} photos: {column}": {f: row[column] for f, row in rows.items()}
        for name, group in grouped(trials).items()
        for rows in [summary(group)]
        for column in ("single", "composed", "difference")
    }
    text = tables.side_by_side(found, digits=4)
    text += f"\n\n{dict(Counter(trial.status for trial in trials))}, "
    text += f"{np.mean([trial.seconds for trial in trials]):.2f} s a composition"
    tables.finish(options, text, tables=found, trials=[asdict(trial) for trial in trials])


def grouped(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """All photos, those of mixed winners, and those whose composition was kept."""
    return {
        "all": list(trials),
        "mixed winners": [trial for trial in trials if trial.mixed],
        "composed": [trial for trial in trials if trial.status == "ok"],
    }


def _second_judge(name: str) -> Callable[[Tensor], float]:
    if name == "brisque":
        judge = brisque()
        return lambda image: float(judge(image[None]))
    scorer = load_scorer(name)
    return lambda image: scorer.assess(image).rating


def _figures(
    selection: Selection, clean: Tensor, second: Callable[[Tensor], float]
) -> dict[str, float]:
    row, figures = selection.row(selection.choice), reference_figures(selection.best, clean)
    return {
        "PSNR, dB": figures.psnr,
        "MS-SSIM": float(figures.ms_ssim or 0.0),
        "second judge": second(selection.best),
        "rating": row.rating,
    }


if __name__ == "__main__":
    main()
