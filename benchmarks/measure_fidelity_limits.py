"""Where the limits of fidelity belong: what must pass them beside what must not.

    python -m benchmarks.measure_fidelity_limits --photos PHOTOS --count 60 --seed 0

``PHOTOS`` is a folder of clean photos, other than those a result is reported on. Their 256 x 256
centre crops are degraded by every preset; every term of ``restoration_guide.fidelity.terms`` is
then measured against the degraded crop, a restorer's input:

- of the clean crop, the perfect restoration, which must pass: the worst figures of each preset;
- of the clean crop altered in a way no restorer may, and of another photo: the share of pairs that
  would pass if a term had the tightest limit that all clean crops keep, alone and with the others.
  A term earns a limit where it stops what the others let pass.

Prints both tables, with the share of pairs that pass the default limits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.damaged_photos import damage, read_photos
from restoration_guide.fidelity.terms import TERMS, Fidelity, FidelityLimits, measure_fidelity
from zoomiqa_core.data.damage.restoration import PRESETS

PATCH = 64
"""Side of the foreign patch in pixels."""


def alterations(clean: Tensor, other: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
    """What must not pass for a restoration of ``clean``, all in [0, 1].

    Args:
        clean: (3, H, W) in [0, 1], sides ≥ 64 px.
        other: another photo of the same shape.
        generator: draws where the patch of the other photo lies, in both photos.
    """
    red = torch.tensor([0.1, 0.0, 0.0])[:, None, None]
    mean = clean.mean()
    places = [
        int(torch.randint(size - PATCH + 1, (), generator=generator)) for size in clean.shape[-2:]
    ]
    window = (..., *(slice(start, start + PATCH) for start in places))
    patched = clean.clone()
    patched[window] = other[window]
    changed = {
        "brightness + .08": clean + 0.08,
        "red + .1": clean + red,
        "contrast × 1.3": (clean - mean) * 1.3 + mean,
        "foreign 64² patch": patched,
        "another photo": other,
    }
    return {name: image.clamp(0, 1) for name, image in changed.items()}


def lower_is_better(term: str) -> bool:
    """Direction of a term of ``fidelity.TERMS``."""
    return TERMS[term][1] == "lower is better"


def worst(group: Sequence[Fidelity]) -> dict[str, float]:
    """The figure of each term that is farthest from perfect."""
    columns = {name: [getattr(terms, name) for terms in group] for name in TERMS}
    return {
        name: max(column) if lower_is_better(name) else min(column)
        for name, column in columns.items()
    }


def keeps(terms: Fidelity, limits: dict[str, float]) -> bool:
    """Whether no term is worse than its limit; terms without a limit are free."""
    return all(
        getattr(terms, name) <= limit if lower_is_better(name) else getattr(terms, name) >= limit
        for name, limit in limits.items()
    )


def passing_shares(group: Sequence[Fidelity], tightest: dict[str, float]) -> dict[str, float]:
    """Shares of a group that pass: each term's tightest limit alone, all of them, the defaults."""
    shares = {
        name: sum(keeps(terms, {name: limit}) for terms in group) / len(group)
        for name, limit in tightest.items()
    }
    shares["all terms"] = sum(keeps(terms, tightest) for terms in group) / len(group)
    defaults = FidelityLimits()
    shares["defaults"] = sum(terms.is_faithful(defaults) for terms in group) / len(group)
    return shares


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    photos = read_photos(options.photos, options.count)
    if len(photos) < 2:
        parser.error(f"two photos are needed, one to stand for the other; got {len(photos)}")
    generator = torch.Generator().manual_seed(options.seed)
    wanted: dict[str, list[Fidelity]] = {preset: [] for preset in PRESETS}
    unwanted: dict[str, list[Fidelity]] = {}
    for place, photo in enumerate(track(photos, "photos", console=Console(stderr=True))):
        changed = alterations(photo.clean, photos[place - 1].clean, generator=generator)
        candidates = torch.stack([photo.clean, *changed.values()])
        for preset in PRESETS:
            damaged = damage(photo, preset, seed=options.seed)
            own, *others = measure_fidelity(candidates, damaged[None])
            wanted[preset].append(own)
            for name, terms in zip(changed, others, strict=True):
                unwanted.setdefault(name, []).append(terms)

    everything = [terms for group in wanted.values() for terms in group]
    tightest = worst(everything)
    clean = Table(title=f"must pass: the clean photo, {len(photos)} photos, worst figures")
    altered = Table(
        title="must not pass: share that passes the tightest limit all clean photos keep"
    )
    for heading in ("", *TERMS, "defaults"):
        clean.add_column(heading)
    for name, group in (*wanted.items(), ("all", everything)):
        passed = passing_shares(group, tightest)["defaults"]
        figures = (f"{value:.4g}" for value in worst(group).values())
        clean.add_row(name, *figures, f"{passed:.1%} of {len(group)}")
    for heading in ("", *TERMS, "all terms", "defaults"):
        altered.add_column(heading)
    for name, group in unwanted.items():
        altered.add_row(name, *(f"{s:.1%}" for s in passing_shares(group, tightest).values()))
    console = Console(width=140)
    console.print(clean)
    console.print(altered)


if __name__ == "__main__":
    main()
