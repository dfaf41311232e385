"""Does a gate calibrated at 5 % false accepts keep to it on other images? People decide.

    python -m benchmarks.evaluate_gate --biq2021 BIQ2021 --acceptable 3.5 --target 0.05 --seed 0

``BIQ2021`` is the dataset's folder. An image is acceptable when people's mean rating, on 1–5, is at
least ``--acceptable``. The threshold comes from the validation split, which the bundled judge was
not trained on (``--split training`` shows what it costs to forget that), and is checked on the test
split; since both are of a few hundred images, random divisions of the two together show how much of
one figure is chance. Judgements are kept under ``--out`` and not made again. Prints the figures and
writes them as JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from restoration_guide.gate.calibration import calibrate, check
from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.evaluation.run import evaluate, sample
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import versions
from zoomiqa_core.scorer import Scorer, load_scorer

BAND = 0.02
"""Distance from the target up to which a measured false-accept rate counts as kept."""


def judge_split(
    judge: Scorer, folder: Path, split: str, count: int | None, out: Path, seed: int
) -> tuple[list[RatedImage], np.ndarray]:
    """Images of a split and the judge's ratings of them (NaN where it failed)."""
    images = sample(read_biq2021(folder, split), count, seed)
    judgements = evaluate(
        images,
        judge,
        out / split,
        root=folder,
        config={"dataset": "BIQ2021", "split": split, "scorer": judge.name},
        progress=lambda chunks: track(chunks, f"BIQ2021 {split}"),
    )
    return images, np.array([j["rating"] if j["valid"] else np.nan for j in judgements], float)


def divisions(
    ratings: np.ndarray, good: np.ndarray, size: int, target: float, *, count: int, seed: int
) -> dict[str, float]:
    """False accepts over random divisions into ``size`` images to calibrate on, others to check.

    Args:
        ratings: (n,) of all images.
        good: (n,) whether people accept them.
        size: images to calibrate on.
        target: wanted rate.
        count: divisions.
        seed: of the divisions.
    """
    random = np.random.default_rng(seed)
    rates = []
    for _ in range(count):
        order = random.permutation(len(ratings))
        ours, others = order[:size], order[size:]
        found = calibrate(ratings[ours], good[ours], target_false_accept=target, resamples=1)
        rates.append(check(ratings[others], good[others], found.min_rating).false_accept.value)
    low, high = np.percentile(rates, [2.5, 97.5])
    kept = np.abs(np.array(rates) - target) <= BAND
    return {"mean": float(np.mean(rates)), "low": low, "high": high, "kept": float(kept.mean())}


def main() -> None:
    """Calibrate, check and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--biq2021", required=True, type=Path)
    parser.add_argument("--acceptable", type=float, default=3.5, help="people's rating, 1–5")
    parser.add_argument("--target", type=float, default=0.05, help="wanted false-accept rate")
    parser.add_argument("--split", default="validation", help="to calibrate on")
    parser.add_argument("--count", type=int, default=None, help="images of a split; default: all")
    parser.add_argument("--divisions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate_gate"))
    args = parser.parse_args()

    judge = load_scorer("proxy")
    splits = [
        judge_split(judge, args.biq2021, split, args.count, args.out, args.seed)
        for split in (args.split, "test")
    ]
    (ours, our_ratings), (others, other_ratings) = splits
    our_good, other_good = (
        np.array([image.rating >= args.acceptable for image in images]) for images, _ in splits
    )
    found = calibrate(our_ratings, our_good, target_false_accept=args.target, seed=args.seed)
    low, high = found.interval
    print(f"acceptable: people's rating ≥ {args.acceptable:g}; target {args.target:.0%}")
    print(
        f"threshold {found.min_rating:.3f} [{low:.3f}, {high:.3f}] from {len(ours)} images, "
        f"{found.unacceptable} unacceptable"
    )
    print(
        "expected false accepts {:.1%}, 95 % of calibrations {:.1%} – {:.1%}".format(
            *found.expected
        )
    )
    table: dict[str, Any] = {"calibration": found.to_dict()}
    subsets = np.array([image.subset for image in others])
    for name in ("all", *sorted(set(subsets))):
        part = np.full(len(subsets), True) if name == "all" else subsets == name
        rates = check(other_ratings[part], other_good[part], found.min_rating)
        table[f"test {name}"] = rates
        for label, rate in rates._asdict().items():
            print(f"test {name:5s} {label.replace('_', ' '):22s} {rate}")
    again = divisions(
        np.concatenate([our_ratings, other_ratings]),
        np.concatenate([our_good, other_good]),
        len(ours),
        args.target,
        count=args.divisions,
        seed=args.seed,
    )
    table["random divisions"] = again
    print(
        f"{args.divisions} random divisions: false accepts {again['mean']:.1%} on average, 95 % in "
        f"{again['low']:.1%} – {again['high']:.1%}, within ± {BAND:.0%} of the target in "
        f"{again['kept']:.0%}"
    )
    record = {"seed": args.seed, "acceptable": args.acceptable, "versions": versions(), **table}
    path = args.out / f"{args.split}-{args.acceptable:g}.json"
    print(f"written: {write_text_atomic(path, to_json(record, sort_keys=False))}")


if __name__ == "__main__":
    main()
