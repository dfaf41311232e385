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

from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks import tables
from restoration_guide.gate.calibration import calibrate, check
from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.evaluation.correlation import Estimate
from zoomiqa_core.evaluation.run import evaluate, sample
from zoomiqa_core.scorer import Scorer, load_scorer

BAND = 0.02
"""Distance from the target up to which a measured false-accept rate counts as kept."""


def judge_split(
    judge: Scorer, folder: Path, split: str, out: Path, seed: int
) -> tuple[list[RatedImage], np.ndarray]:
    """Images of a split and the judge's ratings of them (NaN where it failed)."""
    images = sample(read_biq2021(folder, split), None, seed)
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
        rates.append(check(ratings[others], good[others], found.threshold).false_accept.value)
    low, high = np.percentile(rates, [2.5, 97.5])
    kept = np.abs(np.array(rates) - target) <= BAND
    return {"mean": float(np.mean(rates)), "low": low, "high": high, "kept": float(kept.mean())}


def main() -> None:
    """Calibrate, check and print."""
    parser = tables.arguments(
        __doc__,
        out="runs/evaluate_gate",
        biq2021=...,
        acceptable=3.5,
        target=0.05,
        split="validation",
        divisions=1000,
    )
    args = parser.parse_args()
    judge = load_scorer("proxy")
    splits = [
        judge_split(judge, args.biq2021, split, args.out, args.seed)
        for split in (args.split, "test")
    ]
    (ours, our_ratings), (others, other_ratings) = splits
    our_good, other_good = (
        np.array([image.rating >= args.acceptable for image in images]) for images, _ in splits
    )
    found = calibrate(our_ratings, our_good, target_false_accept=args.target, seed=args.seed)
    threshold = Estimate(found.threshold, *found.interval)
    lines = [
        f"acceptable: people's rating ≥ {args.acceptable:g}; target {args.target:.0%}",
        f"threshold {threshold} from {len(ours)} images, {found.unacceptable} unacceptable",
        "expected false accepts {:.1%}, 95 % of calibrations {:.1%} – {:.1%}\n".format(
            *found.expected
        ),
    ]
    rates: dict[str, Any] = {}
    subsets = np.array([image.subset for image in others])
    for name in ("all", *sorted(set(subsets))):
        part = np.full(len(subsets), True) if name == "all" else subsets == name
        rates[name] = check(other_ratings[part], other_good[part], found.threshold)
    head = ["test photos", *(column.replace("_", " ") for column in rates["all"]._fields)]
    lines.append(tables.table(head, ([n, *map(str, row)] for n, row in rates.items())))
    again = divisions(
        np.concatenate([our_ratings, other_ratings]),
        np.concatenate([our_good, other_good]),
        len(ours),
        args.target,
        count=args.divisions,
        seed=args.seed,
    )
    lines.append(
        f"\n{args.divisions} random divisions: false accepts {again['mean']:.1%} on average, "
        f"95 % in {again['low']:.1%} – {again['high']:.1%}, within ± {BAND:.0%} of the target in "
        f"{again['kept']:.0%}"
    )
    record = {"calibration": found.to_dict(), "rates": rates, "divisions": again}
    file = args.out / f"{args.split}-{args.acceptable:g}.json"
    tables.finish(args, "\n".join(lines), file, **record)


if __name__ == "__main__":
    main()
