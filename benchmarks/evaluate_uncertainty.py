"""What the judge's standard deviation is worth: intervals, ranks of errors, unfamiliar images.

    python -m benchmarks.evaluate_uncertainty --biq2021 BIQ2021 --photos PHOTOS [--weights DIR]

Intervals are Gaussian around the rating. Their coverage and calibration error are counted on a
split of BIQ2021; beside them, how the std ranks the errors. Images no judge was trained on (noise,
pages of text, flat fields, photos under two heavy distortions of types held out) should be doubted
more than photos. Prints the figures, writes them and ``reliability.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.evaluate_proxy import judge_rated, read_crop
from zoomiqa_core.data.damage.kadid import HELD_OUT, distort
from zoomiqa_core.evaluation.correlation import (
    Estimate,
    auc,
    bootstrap,
    interval_calibration_error,
    interval_coverage,
    srcc,
)
from zoomiqa_core.images.sources import find_images, to_batch
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.runs.files import atomic_path, to_json, write_text_atomic
from zoomiqa_core.runs.folder import versions
from zoomiqa_core.runs.random import below

LEVELS = (0.5, 0.8, 0.9, 0.95)
SIDE = 384
"""Of the images made here, pixels."""
WORDS = ("the", "image", "page", "quality", "of", "reading", "light", "a", "sharp", "photograph")

Table = dict[str, Estimate | float]


def interval_table(error: np.ndarray, std: np.ndarray, seed: int) -> Table:
    """Coverage of the intervals and their calibration error, of (N,) errors and deviations."""
    table: Table = {
        f"coverage of the {level:.0%} interval".replace("%", " %"): bootstrap(
            lambda e, s, level=level: interval_coverage(e, s, level), error, std, seed=seed
        )
        for level in LEVELS
    }
    table["calibration error of intervals"] = bootstrap(
        interval_calibration_error, error, std, resamples=200, seed=seed
    )
    table["SRCC of std with |error|"] = bootstrap(srcc, std, abs(error), seed=seed)
    return table


def draw_reliability(error: np.ndarray, std: np.ndarray, path: Path) -> None:
    """Coverage against level, and the mean |error| of ten groups of images by their std."""
    from matplotlib.figure import Figure

    levels = np.linspace(0.02, 0.98, 49)
    covered = [interval_coverage(error, std, level) for level in levels]
    groups = np.array_split(np.argsort(std), 10)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="grey", linewidth=1)
    left.plot(levels, covered, marker=".")
    left.set(xlabel="level of the interval", ylabel="share of images inside", aspect="equal")
    rms = [float(np.sqrt(np.mean(error[group] ** 2))) for group in groups]
    said = [float(np.sqrt(np.mean(std[group] ** 2))) for group in groups]
    limit = 1.1 * max(*rms, *said)
    right.plot([0, limit], [0, limit], color="grey", linewidth=1)
    right.plot(said, rms, marker="o")
    right.set(xlabel="std, rating points", ylabel="root mean square error", aspect="equal")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def text_page(generator: torch.Generator) -> Tensor:
    """(1, 3, SIDE, SIDE): black words on white, of one size."""
    page = Image.new("RGB", (SIDE, SIDE), "white")
    draw, height = ImageDraw.Draw(page), below(16, generator) + 12
    font = ImageFont.load_default(size=height)
    for top in range(8, SIDE - height, round(1.4 * height)):
        line = " ".join(WORDS[below(len(WORDS), generator)] for _ in range(30))
        draw.text((8, top), line, fill="black", font=font)
    return to_batch(page)


def twice_distorted(photo: Path, generator: torch.Generator) -> Tensor:
    """A photo under two distortions of types held out, both at the highest level."""
    first, second = torch.randperm(len(HELD_OUT), generator=generator)[:2].tolist()
    image = read_crop(photo, SIDE)
    for index in (first, second):
        image = distort(image, HELD_OUT[index], 5, generator=generator)
    return image


def unfamiliar(photos: Sequence[Path], seed: int) -> dict[str, list[Tensor]]:
    """Images of each kind, as many as there are photos."""
    made: dict[str, list[Tensor]] = {}
    for index, photo in enumerate(photos):
        generator = torch.Generator().manual_seed(seed + index)
        colour = torch.rand(1, 3, 1, 1, generator=generator)
        images = {
            "noise": torch.rand(1, 3, SIDE, SIDE, generator=generator),
            "text pages": text_page(generator),
            "flat fields": colour.expand(1, 3, SIDE, SIDE).contiguous(),
            "two heavy distortions": twice_distorted(photo, generator),
        }
        for kind, image in images.items():
            made.setdefault(kind, []).append(image)
    return made


def out_of_distribution_table(proxy: QualityProxy, photos: Sequence[Path], seed: int) -> Table:
    """Mean std of each kind, and how surely it exceeds that of photos (AUC, chance .5)."""

    def stds(images: Sequence[Tensor]) -> list[float]:
        return [float(proxy(image).rating_std) for image in images]

    familiar = stds([read_crop(photo, SIDE) for photo in photos])
    table: Table = {"std on photos": float(np.mean(familiar))}
    least = 1.0
    for kind, images in unfamiliar(photos, seed).items():
        found = stds(images)
        table[f"std on {kind}"] = float(np.mean(found))
        table[f"std on {kind}, AUC against photos"] = auc(familiar, found)
        least = min(least, auc(familiar, found))
    return {**table, "std apart from photos, least AUC": least}


def main(arguments: list[str] | None = None) -> None:
    """Judge the split and the unfamiliar images, print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--biq2021", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--weights", default=None, help="default: the bundled proxy")
    parser.add_argument("--split", default="test", choices=("training", "validation", "test"))
    parser.add_argument("--count", type=int, default=41)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/uncertainty"))
    args = parser.parse_args(arguments)

    proxy = QualityProxy.from_pretrained(args.weights)
    with torch.no_grad():
        judged = judge_rated(proxy, args.biq2021, args.split)
        photos = find_images([args.photos])[: args.count]
        apart = out_of_distribution_table(proxy, photos, args.seed)
    error = judged.rating - judged.people
    table = {**interval_table(error, judged.std, args.seed), **apart}
    for name, value in table.items():
        print(f"{name:52s} {value if isinstance(value, Estimate) else format(value, '.3f')}")
    draw_reliability(error, judged.std, args.out / "reliability.png")
    record = {"split": args.split, "seed": args.seed, "versions": versions(), "table": table}
    print(f"written: {write_text_atomic(args.out / 'table.json', to_json(record))}")


if __name__ == "__main__":
    main()
