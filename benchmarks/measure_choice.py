"""What says which image to keep, and where the numbers of the choice belong.

    python -m benchmarks.measure_choice --photos PHOTOS --count 60 --inputs 200 --seed 0

``PHOTOS`` is a folder of photos other than those a result is reported on: the defaults of
``restoration_guide.search.choice.ChoiceRule`` are read off these tables. Random 256 x 256 crops are
judged undamaged and damaged (``--inputs``), and ``--count`` others are restored 8 ways: of every
five, two undamaged, two ``mixed``, one of another preset. Candidates are kept in ``--keep``, so a
second run takes minutes and a killed one goes on. Four tables:

- inputs: undamaged crops that would not be left alone, and damaged ones that would, by the judge of
  the input alone, for each ``confidence`` and ``good_rating``;
- pairs: how well statistics of a candidate order a photo's damaged versions. SRCC with the MS-SSIM
  to the clean crop over the candidates of one photo, averaged; the share of the oracle's headroom
  that the best by this statistic wins; and how often the sign of a gain over the input is right
  (``always better``: how often a candidate is nearer to the clean crop than its input);
- errors: three figures for the judge's error on a pair of versions of one photo;
- rules: the whole choice for each ``temperature`` and ``min_gain``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.kept_restorer import KeptRestorer
from benchmarks.training_crops import MIXED, OTHERS, UNDAMAGED, Crop, crops, kind_of
from restoration_guide.fidelity.full_reference import ReferenceFigures
from restoration_guide.fidelity.terms import TERMS
from restoration_guide.report.reference import compare_with_reference
from restoration_guide.restorers import load_restorer
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.choice import ChoiceRule, choose, consensus_distances
from restoration_guide.search.selection import Row
from zoomiqa_core.assessment import lower_bound
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.proxy.scorer import ProxyScorer
from zoomiqa_core.scorer import load_scorer

N = 8
GAINS = (
    "rating",
    "rating - .5 std",
    "rating, two views",
    "map difference",
    "map difference / its error",
)
"""Statistics that are zero where a candidate is as good as its input."""
CONFIDENCES, GOOD_RATINGS = (0.0, 0.5, 1.0, 1.5, 2.0), (3.8, 4.0, 4.2, 4.4, 4.5, 4.6, 4.8)
TEMPERATURES, MIN_GAINS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, math.inf), (0.0, 0.1, 0.2)


@dataclass(frozen=True)
class Case:
    """A crop that was restored N ways, without its pixels."""

    kind: str
    rows: tuple[Row, ...]
    """The input first."""
    figures: tuple[ReferenceFigures, ...]
    """To the clean crop, in the order of ``rows``."""
    statistics: dict[str, list[float]]
    """By name, of the candidates in order; the higher, the better the candidate should be."""
    consensus: dict[float, list[float]]
    """Distances of the candidates in order, by temperature."""

    def metric(self, name: str) -> np.ndarray:
        """A figure of every row."""
        return np.array([getattr(figures, name) for figures in self.figures])

    def with_consensus(self, temperature: float) -> list[Row]:
        """The rows with the distances of a temperature."""
        distances = self.consensus[temperature]
        source, *others = self.rows
        return [
            source,
            *(
                replace(row, consensus_distance=distance)
                for row, distance in zip(others, distances, strict=True)
            ),
        ]


def measure_case(search: BestOfN, scorer: ProxyScorer, crop: Crop, seed: int) -> Case:
    """Restore a crop and measure every statistic of every candidate."""
    selection = search(crop.image, seed=seed)
    if selection.error is not None or selection.skipped:
        raise RuntimeError(f"not every candidate came: {selection.error}, {selection.skipped}")
    figures = compare_with_reference(selection, crop.clean)
    source, *others = selection.rows
    images = [selection.image(row.index) for row in others]
    ratings = [row.rating for row in others]

    with torch.no_grad():
        before, *after = (scorer.model(image[None]) for image in (crop.image, *images))
        mirrored = [
            float(scorer.model(image.flip(-1)[None]).rating) for image in (crop.image, *images)
        ]
    weight = (before.weight / before.weight.sum()).flatten()
    changes = [(out.map - before.map).flatten() for out in after]
    gains = [float((weight * change).sum()) for change in changes]
    errors = [
        float((weight.square() * (change - gain).square()).sum().sqrt())
        for change, gain in zip(changes, gains, strict=True)
    ]
    views = [(rating + view) / 2 for rating, view in zip(ratings, mirrored[1:], strict=True)]
    statistics = {
        "rating": [row.rating - source.rating for row in others],
        "rating - .5 std": [
            lower_bound(row.rating, row.rating_std, 0.5) - source.rating for row in others
        ],
        "rating, two views": [view - (source.rating + mirrored[0]) / 2 for view in views],
        "map difference": gains,
        "map difference / its error": [
            g / max(e, 1e-6) for g, e in zip(gains, errors, strict=True)
        ],
        "- distance to the input": [
            -float((image - crop.image).square().mean().sqrt()) for image in images
        ],
        "first candidate": [float(row.index == 0) for row in others],
        "map error": errors,
        "mirrored gain": [view - mirrored[0] for view in mirrored[1:]],
    }
    for name, (_, direction) in TERMS.items():
        sign = -1 if direction == "lower is better" else 1
        statistics[f"fidelity: {name}"] = [
            sign * getattr(row.fidelity, name) for row in others if row.fidelity
        ]
    consensus = {t: consensus_distances(images, ratings, t) for t in TEMPERATURES}
    for temperature, distances in consensus.items():
        statistics[f"- consensus distance, temperature {temperature:g}"] = [-d for d in distances]
    return Case(
        crop.kind,
        selection.rows,
        tuple(figures[row.index] for row in selection.rows),
        statistics,
        consensus,
    )


def share(cases: Sequence[Case], picks: Sequence[int], metric: str) -> float:
    """Share of the oracle's headroom over a random candidate; picks are places in ``rows``."""
    values = [case.metric(metric) for case in cases]
    random = np.mean([value[1:].mean() for value in values])
    oracle = np.mean([value[1:].max() for value in values])
    picked = np.mean([value[pick] for value, pick in zip(values, picks, strict=True)])
    return float((picked - random) / (oracle - random))


def pair_record(cases: Sequence[Case], name: str) -> dict[str, float]:
    """How well one statistic orders damaged crops' candidates, and tells them from the input."""
    orders = [srcc(case.statistics[name], case.metric("ms_ssim")[1:]) for case in cases]
    picks = [1 + int(np.argmax(case.statistics[name])) for case in cases]
    gained = [case.metric("ms_ssim")[1:] - case.metric("ms_ssim")[0] for case in cases]
    better = np.concatenate(gained) > 0
    said = np.concatenate([case.statistics[name] for case in cases]) > 0
    return {
        "SRCC": float(np.nanmean(orders)),
        "share, MS-SSIM": share(cases, picks, "ms_ssim"),
        "share, PSNR": share(cases, picks, "psnr"),
        "sign is right": float(np.mean(better == said)) if name in GAINS else math.nan,
    }


def rule_record(cases: Sequence[Case], rule: ChoiceRule) -> dict[str, float]:
    """What a rule does to damaged and to undamaged crops."""
    damaged = [case for case in cases if case.kind != UNDAMAGED]
    pristine = [case for case in cases if case.kind == UNDAMAGED]

    def pick(case: Case) -> int:
        index = choose(case.with_consensus(rule.temperature), rule).index
        return [row.index for row in case.rows].index(index)

    picks, undamaged = [pick(case) for case in damaged], [pick(case) for case in pristine]
    changed = [
        case.metric("psnr")[place] for case, place in zip(pristine, undamaged, strict=True) if place
    ]
    return {
        "share, MS-SSIM": share(damaged, picks, "ms_ssim"),
        "share, PSNR": share(damaged, picks, "psnr"),
        "inputs kept": picks.count(0),
        "undamaged changed": len(changed),
        "worst, dB": min(changed, default=math.nan),
    }


def input_table(judged: Sequence[tuple[str, float, float]]) -> Table:
    """Kinds, ratings and their stds of inputs → the first table."""
    counts = {kind: sum(k == kind for k, _, _ in judged) for kind in (UNDAMAGED, MIXED)}
    counts["other presets"] = len(judged) - sum(counts.values())
    table = Table(title=f"inputs: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
    for heading in ("confidence", "good rating", "undamaged not left alone", "mixed", "others"):
        table.add_column(f"{heading} left alone" if heading in ("mixed", "others") else heading)
    for confidence in CONFIDENCES:
        for good in GOOD_RATINGS:
            rule = ChoiceRule(confidence=confidence, good_rating=good)
            alone = [
                (kind, rule.may_be_good(Row("input", rating, std))) for kind, rating, std in judged
            ]
            passed = sum(kind == UNDAMAGED and not left for kind, left in alone)
            mixed = [left for kind, left in alone if kind == MIXED]
            others = [left for kind, left in alone if kind not in (UNDAMAGED, MIXED)]
            shares = (f"{np.mean(kept):.1%}" for kept in (mixed, others))
            table.add_row(f"{confidence:g}", f"{good:g}", str(passed), *shares)
    return table


def error_table(cases: Sequence[Case]) -> Table:
    """How wrong the judge may be on the difference of two versions of one photo."""
    damaged = [case for case in cases if case.kind != UNDAMAGED]
    swing = [
        gain - view
        for case in damaged
        for gain, view in zip(
            case.statistics["rating"], case.statistics["mirrored gain"], strict=True
        )
    ]
    table = Table(title="errors, in rating points")
    table.add_column("what")
    table.add_column("value")
    figures = {
        "rating_std, of one rating against people": [
            row.rating_std for c in damaged for row in c.rows
        ],
        "map error of a gain, mean": [e for case in damaged for e in case.statistics["map error"]],
    }
    for name, values in figures.items():
        table.add_row(name, f"{np.mean(values):.3f}")
    # Two views with independent errors differ by √2 times the error of one.
    table.add_row("error of a gain, from mirrored views", f"{np.std(swing) / math.sqrt(2):.3f}")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/measure_choice"))
    options = parser.parse_args(arguments)
    scorer = load_scorer("proxy")
    search = BestOfN(KeptRestorer(load_restorer(), options.keep), scorer, n=N)
    progress, console = Console(stderr=True), Console(width=120)

    judged = []
    for number, kind in enumerate((lambda _: UNDAMAGED, lambda _: MIXED, lambda i: OTHERS[i % 5])):
        drawn = crops(options.photos, options.inputs, options.seed + 1, kind)
        for crop in track(drawn, f"inputs {number + 1}/3", total=options.inputs, console=progress):
            said = scorer.assess(crop.image)
            judged.append((crop.kind, said.rating, said.rating_std))
    console.print(input_table(judged))

    drawn = crops(options.photos, options.count, options.seed, kind_of)
    cases = [
        measure_case(search, scorer, crop, options.seed)
        for crop in track(drawn, "restored", total=options.count, console=progress)
    ]
    damaged = [case for case in cases if case.kind != UNDAMAGED]
    names = [name for name in cases[0].statistics if name not in ("map error", "mirrored gain")]
    pairs = {name: pair_record(damaged, name) for name in names}
    gained = [case.metric("ms_ssim")[1:] > case.metric("ms_ssim")[0] for case in damaged]
    console.print(f"always better: {np.mean(gained):.1%}")
    console.print(_table(f"pairs: {len(damaged)} damaged crops, {N} candidates each", pairs))
    console.print(error_table(cases))
    rules = {
        f"temperature {t:g}, min gain {g:g}": rule_record(
            cases, ChoiceRule(temperature=t, min_gain=g)
        )
        for t in TEMPERATURES
        for g in MIN_GAINS
    }
    undamaged = len(cases) - len(damaged)
    console.print(_table(f"rules: {len(damaged)} damaged crops, {undamaged} undamaged", rules))


def _table(title: str, records: dict[str, dict[str, float]]) -> Table:
    table = Table(title=title)
    for heading in ("", *next(iter(records.values()))):
        table.add_column(heading)
    for name, record in records.items():
        table.add_row(name, *(f"{value:.3g}" for value in record.values()))
    return table


if __name__ == "__main__":
    main()
