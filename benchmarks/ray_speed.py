"""Images per second of `--engine ray` with 1 and 2 workers, beside the same judge without Ray.

    python -m benchmarks.ray_speed --photos PHOTOS

Crops of the photos are judged in parts; of each part, the plain run and the two runs on Ray follow
each other, so that a slow phase of the machine affects all three, and the ratios of a part vary
less than the rates. A rate is of what comes after the first result; the seconds until then (workers
start, load the judge) are a column of their own, because a longer run has them once.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import tables


class Run(NamedTuple):
    """One part of the images, judged once."""

    start_seconds: float
    """Until the first result."""
    rate: float
    """Images per second after the first result."""


def rate_of(arrivals: list[tuple[float, int]]) -> Run:
    """A run from the seconds at which results came, with the number of all results by then.

    >>> rate_of([(2.0, 10), (3.0, 30), (4.0, 50)])
    Run(start_seconds=2.0, rate=20.0)
    """
    (first, before), (last, total) = arrivals[0], arrivals[-1]
    return Run(first, (total - before) / (last - first))


def plain(paths: list[str]) -> Run:
    """The loop of `zoomiqa score`: one image after the other, in this process."""
    import zoomiqa_core as zi

    start = time.perf_counter()
    judge = zi.load_scorer("proxy")
    arrivals = []
    for count, path in enumerate(paths, 1):
        judge.assess([path])
        arrivals.append((time.perf_counter() - start, count))
    return rate_of(arrivals)


def on_ray(paths: list[str], workers: int, out: Path) -> Run:
    """The same images with `--engine ray --actors WORKERS`."""
    from zoomiqa_core.scale.ray_data import JudgeBatch
    from zoomiqa_core.scale.results import ResultFolder
    from zoomiqa_core.scale.run import Pool, run_on_ray
    from zoomiqa_core.scale.sources import file_units

    arrivals: list[tuple[float, int]] = []
    start = time.perf_counter()
    run_on_ray(
        file_units((path, path) for path in paths),
        partial(JudgeBatch, "proxy"),
        JudgeBatch.fields,
        ResultFolder(str(out), {}),
        Pool(workers),
        progress=lambda rows, _: arrivals.append((time.perf_counter() - start, rows)),
    )
    if arrivals[-1][1] != len(paths):
        raise RuntimeError(f"{arrivals[-1][1]} results of {len(paths)} images")
    return rate_of(arrivals)


def write_crops(photos: Path, folder: Path, count: int, side: int) -> list[str]:
    """Squares cut from the photos in turn, as JPEG files."""
    from PIL import Image

    from zoomiqa_core.images.folders import find_images

    sources = find_images(photos)
    share = 2 * -(-count // len(sources))  # small photos hold fewer
    paths: list[str] = []
    for source in sources:
        with Image.open(source) as opened:
            photo = opened.convert("RGB")
        across, down = photo.width // side, photo.height // side
        for index in range(min(across * down, share, count - len(paths))):
            left, top = index % across * side, index // across * side
            path = folder / f"{len(paths):06d}.jpg"
            photo.crop((left, top, left + side, top + side)).save(path, quality=95)
            paths.append(str(path))
    if len(paths) < count:
        raise ValueError(f"{photos} gives {len(paths)} crops of {side}², not {count}")
    return paths


def main() -> None:
    """Measure both sizes and print one table."""
    parser = tables.arguments(__doc__, out="runs/ray_speed.json", photos=None, rounds=5)
    parser.add_argument("--sets", nargs="+", default=["10000x64", "300x512"], metavar="COUNTxPX")
    options = parser.parse_args()
    from zoomiqa_core.scale.run import ray_started

    rows, record = [], {}
    with tempfile.TemporaryDirectory() as folder, ray_started(num_cpus=2):
        for name in options.sets:
            count, side = map(int, name.split("x"))
            crops = Path(folder, name)
            crops.mkdir()
            paths = write_crops(options.photos, crops, count, side)
            parts = [paths[part :: options.rounds] for part in range(options.rounds)]
            runs: dict[str, list[Run]] = {"plain": [], "1 worker": [], "2 workers": []}
            for index, part in enumerate(parts):
                runs["plain"].append(plain(part))
                for workers, label in ((1, "1 worker"), (2, "2 workers")):
                    out = Path(folder, f"{name}-{index}-{workers}")
                    runs[label].append(on_ray(part, workers, out))
            record[name] = runs
            for label, measured in runs.items():
                ratios = [a.rate / b.rate for a, b in zip(measured, runs["plain"], strict=True)]
                rows.append(
                    [
                        f"{count} × {side}², {label}",
                        f"{median(run.rate for run in measured):.1f}",
                        f"{median(ratios):.2f}",
                        f"{min(ratios):.2f}–{max(ratios):.2f}",
                        f"{median(run.start_seconds for run in measured):.1f}",
                    ]
                )
    head = ["run", "images/s", "to plain", "range", "s to the first result"]
    tables.finish(options, tables.table(head, rows), runs=record)


if __name__ == "__main__":
    main()
