"""What each way to search gains, against what it costs: fixed N, adaptive N, refinement, pruning.

    python -m benchmarks.evaluate_strategies --photos PHOTOS --count 60 --preset mixed --seed 0

Crops and damage are those of ``evaluate_best_of_n``. Every crop is restored once to the end of the
plan, N candidates, and once pruned; the other strategies are then searches over those same
candidates, whose judgements are kept, so that all of them see the same images. Prints one table
with 95 % bootstrap intervals and writes it, with every choice, as JSON. Columns, means over crops:

- evaluations: of the restorer's network, and candidates that were made;
- label gain: ``reference_rating`` of the choice, which sees the clean crop, over the input's;
- judge gain: what the judge says of the choice against the input;
- the difference of each to that of all N candidates.

Intervals resample photos, with all their crops.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks import tables
from benchmarks.damaged_photos import damage, read_crops
from benchmarks.searches import search_config, search_options, searched
from restoration_guide.restorers.base import Candidate, Restorer
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.prune import PruneConfig
from restoration_guide.search.selection import Selection
from zoomiqa_core.alarm.reference import reference_rating
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.scorer import Scorer

FIXED = (1, 2, 3, 4, 6, 8)
"""Numbers of candidates, as far as N has them."""
ADAPTIVE: dict[str, dict[str, Any]] = {
    "target gain .2": {"target_gain": 0.2},
    "target gain .4": {"target_gain": 0.4},
    "improvement ≥ .01": {"min_improvement": 0.01},
    "improvement ≥ .03": {"min_improvement": 0.03},
    "target .4, improvement ≥ .01": {"target_gain": 0.4, "min_improvement": 0.01},
}
REFINED = (4, 8)
"""Numbers of candidates before four refinements."""


class Replay:
    """A restorer whose candidates were made before."""

    def __init__(self, restorer: Restorer, candidates: Sequence[Candidate]) -> None:
        self.name, self.plan, self.limits = restorer.name, restorer.plan, restorer.limits
        self.candidates = candidates

    def restore(
        self, image: Tensor, *, n: int, seed: int = 0, batch_size: int = 1
    ) -> Iterator[Candidate]:
        yield from self.candidates[:n]


class Remembered:
    """A judge that is asked about each image of one input once."""

    takes_degraded = True

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.name = scorer, scorer.name
        self.known: dict[bytes, Assessment] = {}

    def assess(self, images: list[Tensor], *, degraded: Tensor | None = None) -> list[Assessment]:
        also = {"degraded": degraded} if getattr(self.scorer, "takes_degraded", False) else {}
        found = []
        for image in images:
            key = image.numpy().tobytes()
            if key not in self.known:
                self.known[key] = self.scorer.assess(image, **also)
            found.append(self.known[key])
        return found


@dataclass(frozen=True)
class Outcome:
    """What one strategy chose for one crop, and what it cost."""

    choice: int | str
    evaluations: int
    candidates: int
    label_gain: float
    judge_gain: float


def run_trial(
    search: BestOfN, name: str, damaged: Tensor, clean: Tensor, seed: int
) -> dict[str, Outcome]:
    """Every strategy on one crop, by name."""
    known: dict[bytes, float] = {}

    def label(image: Tensor) -> float:
        key = image.numpy().tobytes()
        if key not in known:
            known[key] = known_rating(image, clean)
        return known[key]

    full = searched(search, damaged, name=name, seed=seed)
    judge: Any = Remembered(search.scorer)
    n = search.config.n

    def found_by(made: BestOfN) -> Outcome:
        return outcome(searched(made, damaged, name=name, seed=seed), label)

    def again(count: int, **strategy: Any) -> Outcome:
        replay: Any = Replay(search.restorer, full.candidates)
        return found_by(BestOfN(replay, judge, count, **strategy))

    found = {f"fixed {count}": again(count) for count in FIXED if count < n}
    found[f"fixed {n}"] = outcome(full, label)
    found |= {f"{way}, up to {n}": again(n, **strategy) for way, strategy in ADAPTIVE.items()}
    found |= {f"fixed {count}, refine 4": again(count, refine=4) for count in REFINED if count <= n}
    pruned = BestOfN(search.restorer, search.scorer, n, prune=PruneConfig())
    found[f"pruned, {n} begun"] = found_by(pruned)
    return found


def outcome(selection: Selection, label: Callable[[Tensor], float]) -> Outcome:
    """Figures of a search's choice; ``label`` rates an image by its clean version."""
    if selection.nfe is None:
        raise RuntimeError("this restorer does not count its network evaluations")
    kept = selection.choice == "input"
    return Outcome(
        selection.choice,
        selection.nfe["spent"],
        len(selection.candidates),
        label(selection.best) - label(selection.image("input")),
        0.0 if kept else selection.row(selection.choice).gain,
    )


@torch.no_grad()
def known_rating(image: Tensor, clean: Tensor) -> float:
    """Rating 1–5 of an image by its clean version."""
    return float(reference_rating(image[None], clean[None]))


def summary(trials: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Estimate]]:
    """A row of means for each strategy.

    Args:
        trials: name of the crop (``"photo.png, top left"``) → strategy → outcome.
    """
    photos = defaultdict(list)
    for name, outcomes in trials.items():
        photos[name.split(", ")[0]].append(outcomes)
    ways = list(next(iter(trials.values())))
    whole = next(way for way in reversed(ways) if way.startswith("fixed") and "," not in way)

    def sums(value: Callable[[Mapping[str, Outcome]], float]) -> list[float]:
        return [sum(value(crop) for crop in crops) for crops in photos.values()]

    crops = [len(each) for each in photos.values()]
    table = {}
    for way in ways:

        def total(figure: str, way: str = way) -> list[float]:
            return sums(lambda crop: getattr(crop[way], figure))

        row = {
            "evaluations": bootstrap(ratio, total("evaluations"), crops),
            "candidates": bootstrap(ratio, total("candidates"), crops),
        }
        for figure in ("label_gain", "judge_gain"):
            name, ours, all_of_them = figure.replace("_", " "), total(figure), total(figure, whole)
            more = np.subtract(ours, all_of_them)
            row |= {
                name: bootstrap(ratio, ours, crops),
                f"{name} - {whole}": bootstrap(ratio, more, crops),
            }
        table[way] = row
    return table


def ratio(part: np.ndarray, whole: np.ndarray) -> float:
    """Of the sums; NaN where the whole is 0."""
    return float(part.sum() / whole.sum()) if whole.sum() else float("nan")


def main() -> None:
    """Run the comparison and write it down; every crop is written as it is finished."""
    options = search_options(__doc__, out="runs/evaluate_strategies.json", count=60, preset="mixed")
    search = search_config(options).build()
    trials: dict[str, dict[str, Outcome]] = {}
    for photo in track(read_crops(options.photos, options.count), "crops"):
        damaged = damage(photo, options.preset, seed=options.seed)
        trials[photo.name] = run_trial(search, photo.name, damaged, photo.clean, options.seed)
        records = _records(trials)
        write_text_atomic(options.out.with_suffix(".part.json"), to_json(records))
    found = summary(trials)
    measures = list(next(iter(found.values())))
    rows = [[way, *row.values()] for way, row in found.items()]
    text = f"{len(trials)} crops\n\n" + tables.table(["strategy", *measures], rows, digits=3)
    tables.finish(options, text, results=found, trials=_records(trials))


def _records(trials: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Any]]:
    return {name: {way: asdict(one) for way, one in ways.items()} for name, ways in trials.items()}


if __name__ == "__main__":
    main()
