"""What tells damage from the softening of an undamaged photo, and where the two limits belong.

    python -m benchmarks.measure_guard --photos PHOTOS --undamaged 443 --seeds 8 --damaged 300

``PHOTOS`` is a folder of photos other than those a result is reported on: ``min_change`` and
``min_grid`` of ``restoration_guide.search.choice.ChoiceRule`` are read off the table. One random
256 x 256 crop of each of ``--undamaged`` photos is drawn with each of ``--seeds`` seeds, and one of
``--damaged`` photos with one more seed, every other ``mixed``, the rest of the other presets in
turn. Crops that the judge's rating leaves alone are set aside; the others are restored and what the
restoration changes is measured.

Only the first candidate is made. What the default of eight agree on lies near it: with
``--check 60`` the correlation of both figures between one and eight candidates is printed, over the
crops that ``measure_choice`` restores, whose candidates are kept in ``--keep``.

Each row of the table is a pair of limits: of the undamaged crops that the judge alone would have
changed how many are kept, and how many of those that change by less than 40 dB (the visible ones);
of the damaged ones how many are kept, and the mean PSNR by which they would have gained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.kept_restorer import KeptRestorer
from benchmarks.training_crops import MIXED, OTHERS, UNDAMAGED, crops, kind_of
from restoration_guide.fidelity.full_reference import psnr
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.base import Restorer
from restoration_guide.search.changes import Change, measure_change
from restoration_guide.search.choice import ChoiceRule
from restoration_guide.search.selection import Row
from zoomiqa_core.scorer import Scorer, load_scorer

MIN_CHANGES, MIN_GRIDS = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3), (1.15, 1.25, 1.5, np.inf)
VISIBLE_DB = 40.0


@dataclass(frozen=True)
class Restored:
    """A crop that the judge's rating lets through, and what its first candidate does to it."""

    kind: str
    change: Change
    psnr: float
    """Of the candidate to the clean crop, dB."""
    gain: float
    """The same less that of the input; -inf for an undamaged crop."""


def restored_crops(
    photos: Path,
    count: int,
    seed: int,
    kind: Callable[[int], str],
    restorer: Restorer,
    scorer: Scorer,
) -> list[Restored]:
    """Restore those crops of ``count`` photos that the default rule does not leave alone."""
    rule, found = ChoiceRule(), []
    drawn = crops(photos, count, seed, kind)
    for crop in track(drawn, f"seed {seed}", total=count, console=Console(stderr=True)):
        if rule.may_be_good(Row("input").judged(scorer.assess(crop.image))):
            continue
        candidate = next(iter(restorer.restore(crop.image[None], n=1, seed=0))).image
        change = measure_change(crop.image, [candidate])
        after = psnr(candidate, crop.clean)
        gain = after - psnr(crop.image, crop.clean)
        found.append(Restored(crop.kind, change, after, gain))
    return found


def guard_record(found: Sequence[Restored], rule: ChoiceRule) -> dict[str, float]:
    """What a pair of limits keeps."""
    kept = [crop for crop in found if rule.nothing_repaired(Row("input", change=crop.change))]
    undamaged = [crop for crop in kept if crop.kind == UNDAMAGED]
    damaged = [crop for crop in kept if crop.kind != UNDAMAGED]
    return {
        "undamaged": len(undamaged),
        "of these visible": sum(crop.psnr < VISIBLE_DB for crop in undamaged),
        "mixed": sum(crop.kind == MIXED for crop in damaged),
        "others": sum(crop.kind != MIXED for crop in damaged),
        "gain lost, dB": float(np.mean([crop.gain for crop in damaged])) if damaged else np.nan,
    }


def damage_of(number: int) -> str:
    """Every other crop ``mixed``, the rest of the other presets in turn."""
    return MIXED if number % 2 else OTHERS[number // 2 % len(OTHERS)]


def agreement(photos: Path, count: int, restorer: Restorer) -> tuple[float, float]:
    """Correlation over crops of both figures, of one candidate and of eight."""
    pairs = []
    for crop in crops(photos, count, 0, kind_of):
        images = [c.image for c in restorer.restore(crop.image[None], n=8, seed=0)]
        pairs.append([*measure_change(crop.image, images[:1]), *measure_change(crop.image, images)])
    table = np.corrcoef(np.array(pairs).T)
    return float(table[0, 2]), float(table[1, 3])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--undamaged", type=int, default=443)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--damaged", type=int, default=300)
    parser.add_argument("--check", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/measure_choice"))
    options = parser.parse_args()
    restorer, scorer, console = load_restorer(), load_scorer("proxy"), Console(width=120)

    found = restored_crops(options.photos, options.damaged, 100, damage_of, restorer, scorer)
    for seed in range(options.seeds):
        found += restored_crops(
            options.photos, options.undamaged, seed, lambda _: UNDAMAGED, restorer, scorer
        )
    kinds = [crop.kind for crop in found]
    clean = [crop for crop in found if crop.kind == UNDAMAGED]
    table = Table(
        title=f"let through by the rating: {len(clean)} undamaged of "
        f"{options.seeds * options.undamaged} ({sum(crop.psnr < VISIBLE_DB for crop in clean)} "
        f"changed visibly), {kinds.count(MIXED)} mixed and "
        f"{len(kinds) - len(clean) - kinds.count(MIXED)} others of {options.damaged}; kept:"
    )
    records = {
        (change, grid): guard_record(found, ChoiceRule(min_change=change, min_grid=grid))
        for change in MIN_CHANGES
        for grid in MIN_GRIDS
    }
    for heading in ("min change", "min grid", *next(iter(records.values()))):
        table.add_column(heading)
    for limits, record in records.items():
        table.add_row(*(f"{value:.3g}" for value in (*limits, *record.values())))
    console.print(table)
    if options.check:
        kept = KeptRestorer(restorer, options.keep)
        detail, grid = agreement(options.photos, options.check, kept)
        console.print(f"one candidate and eight: detail {detail:.3f}, grid {grid:.3f}")


if __name__ == "__main__":
    main()
