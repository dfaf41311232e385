"""How well each teacher of the restoration judge agrees with people on KADID-10k's cells.

    python -m benchmarks.check_restoration_teachers --photos PHOTOS --mos KADID_MOS_CSV

The 125 cells are made again on clean photos; a teacher's mean over the photos is compared with
people's mean for the cell in ``mos.csv`` (columns ``dist_image``, ``mos``). Kinds of damage that
restorers do not make (misplaced patches, colour blocks, shifted brightness) are in it, too.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import arguments, finish, table
from zoomiqa_core.data.damage.kadid import DISTORTIONS, LEVELS, distort
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.images.sources import find_images
from zoomiqa_core.restoration.labels import TEACHERS, mixture_rating
from zoomiqa_core.restoration.measured import imagenet_backbone, measure
from zoomiqa_core.restoration.model import RestorationJudge


def people(path: Path) -> dict[tuple[int, int], float]:
    """Mean opinion of every (type, level)."""
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    with path.open(newline="") as rows:
        for row in csv.DictReader(rows):
            _, kind, level = Path(row["dist_image"]).stem.split("_")
            found[int(kind), int(level)].append(float(row["mos"]))
    return {cell: float(np.mean(values)) for cell, values in found.items()}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(
        __doc__, out="runs/check_restoration_teachers.json", photos=None, mos="", count=3, crop=192
    )
    options = parser.parse_args(argv)
    judge = RestorationJudge()
    imagenet_backbone(judge)
    pool = PhotoPool(find_images([options.photos]), min_side=options.crop, skip_small=True)
    generator = torch.Generator().manual_seed(options.seed)
    means = people(Path(options.mos))
    cells = [(d, level) for d in DISTORTIONS.values() for level in LEVELS]
    found = []
    for index in torch.randperm(len(pool), generator=generator)[: options.count].tolist():
        clean = pool.crop(index, options.crop, generator=generator)
        made = [distort(clean[None], d.name, level, generator=generator) for d, level in cells]
        rows = [measure(judge, image, clean, clean)[1] for image in made]
        found.append(torch.cat(rows))
    distances = torch.stack(found).mean(0)
    target = np.array([means[d.number, level] for d, level in cells])
    first = [i for i, (d, _) in enumerate(cells) if d.number in RESTORED]
    rated = {t: -distances[:, i] for i, t in enumerate(TEACHERS)}
    rated["mixture"] = torch.stack([mixture_rating(d) for d in found]).mean(0)
    rows = [
        [name, float(srcc(r, target)), float(srcc(r[first], target[first]))]
        for name, r in rated.items()
    ]
    error = float(np.sqrt(np.mean((rated["mixture"].numpy() - target) ** 2)))
    text = table(["SRCC with people's means", "125 cells", "blur, noise, codecs, sharpening"], rows)
    finish(options, f"{text}\n\nroot mean square error of the mixture's rating: {error:.2f}")


RESTORED = (1, 2, 3, 9, 10, 11, 12, 13, 14, 15, 24)
"""KADID's numbers of damage that restorers meet or leave."""


if __name__ == "__main__":
    main()
