"""Where the limits of fidelity belong: what must pass them beside what must not.

    python -m benchmarks.measure_fidelity_limits --photos PHOTOS --count 60 --seed 0

``PHOTOS`` is a folder of clean photos, other than those a result is reported on. Their 256 x 256
centre crops are degraded by every preset; both terms of ``restoration_guide.fidelity`` are then
measured against the degraded crop, a restorer's input:

- of the clean crop, the perfect restoration, which must pass: the worst figures of each preset;
- of the clean crop altered in a way no restorer may, and of another photo: the figures nearest to
  passing, over all photos and presets.

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
from restoration_guide.fidelity import Fidelity, FidelityLimits, measure_fidelity
from zoomiqa_core.data.degradations import PRESETS

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


def summary(group: Sequence[Fidelity], *, must_pass: bool) -> tuple[float, float, float]:
    """Distance and PSNR (dB) nearest to the limits, and the share that passes the defaults.

    Args:
        group: terms of one preset or of one alteration.
        must_pass: nearest means the largest distance and the smallest PSNR; otherwise the smallest
            distance and the largest PSNR.
    """
    distances = [terms.low_pass_distance for terms in group]
    psnrs = [terms.degraded_psnr for terms in group]
    passed = sum(terms.is_faithful(FidelityLimits()) for terms in group) / len(group)
    if must_pass:
        return max(distances), min(psnrs), passed
    return min(distances), max(psnrs), passed


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

    console = Console()
    console.print(_table(f"must pass: the clean photo, {len(photos)} photos", wanted, True))
    console.print(_table("must not pass, all presets", unwanted, False))


def _table(title: str, groups: dict[str, list[Fidelity]], must_pass: bool) -> Table:
    table = Table(title=title)
    largest, smallest = ("largest", "smallest") if must_pass else ("smallest", "largest")
    for heading in ("", f"{largest} distance", f"{smallest} PSNR, dB", "pass the defaults"):
        table.add_column(heading)
    everything = [terms for group in groups.values() for terms in group]
    for name, group in (*groups.items(), ("all", everything)):
        distance, psnr, passed = summary(group, must_pass=must_pass)
        table.add_row(name, f"{distance:.4f}", f"{psnr:.2f}", f"{passed:.1%} of {len(group)}")
    return table


if __name__ == "__main__":
    main()
