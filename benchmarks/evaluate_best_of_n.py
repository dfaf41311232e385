"""What the choice gains: best of N against chance, simple pickers and the oracle.

    python -m benchmarks.evaluate_best_of_n --photos PHOTOS --count 60 --preset mixed --seed 0

``PHOTOS`` is a folder of clean photos neither model was trained on; 256 x 256 crops of them
(``damaged_photos``: the middle, then corners where more crops than photos are asked for) are
degraded once, as in ``evaluate_restorer``, and restored N ways. Prints tables with 95 % bootstrap
intervals over crops and writes them, with every candidate's figures, as JSON. Ways to pick:

- input: the degraded crop; random: the mean over a crop's candidates, what a blind pick gives;
- best of N: what ``BestOfN`` returns, the input included; oracle: the candidate nearest to the
  clean crop by that very metric, which nobody can know;
- rating alone; agreement alone: nearest to the mean of all candidates; first: the first candidate,
  of the builtin plan the one-step estimate; sharpest: the largest variance of the Laplacian;
  BRISQUE: the least, where the package is installed.

Metrics are PSNR, MS-SSIM, the known rating (``reference_rating``) and the deep distance (structure
and texture of ImageNet features), negated; also BRISQUE's score, negated, and the rating of a
``--second-judge``, which the choice does not rest on. Share is (pick - random) / (oracle - random),
of the means over crops. A crop whose candidates all lack usable pixels keeps its input; it is
counted and left out of the means.

Last, all photos undegraded: how many come back untouched, and the PSNR of those that do not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks import tables
from benchmarks.damaged_photos import damage, read_crops, read_photos
from benchmarks.peers import brisque, laplacian_variance
from benchmarks.searches import search_config, search_options, searched
from restoration_guide.fidelity.full_reference import psnr
from restoration_guide.report.reference import compare_with_reference
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.choice import consensus_distances
from restoration_guide.search.selection import Index, Row, Selection
from zoomiqa_core.alarm.reference import reference_rating
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap, srcc
from zoomiqa_core.restoration.labels import texture_distance
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.scorer import Scorer, load_scorer

Measure = Callable[[Tensor], float]
"""A figure of one (3, H, W) image; higher is better."""


@dataclass(frozen=True)
class Trial:
    """One crop: the table, the choice, the simple picks, and every row's figures."""

    name: str
    rows: tuple[Row, ...]
    choice: Index
    figures: dict[Index, dict[str, float]]
    """Metrics of the input and of all candidates with usable pixels; higher is better."""
    picks: dict[str, Index]
    """What each simple way to pick would have taken; empty without candidates."""
    seconds: float
    judging_share: float

    def of(self, metric: str, index: Index) -> float:
        """A row's figure."""
        return self.figures[index][metric]

    def candidates(self, metric: str) -> list[float]:
        """Figures of all candidates with usable pixels."""
        return [self.of(metric, index) for index in self.figures if index != "input"]


def run_trial(
    search: BestOfN, name: str, damaged: Tensor, clean: Tensor, seed: int, also: dict[str, Measure]
) -> Trial:
    """Search one image and measure every candidate against its clean version and by ``also``."""
    selection = searched(search, damaged, name=name, seed=seed)
    figures: dict[Index, dict[str, float]] = {
        index: {
            **{metric: float(getattr(known, metric)) for metric in ("psnr", "ssim", "ms_ssim")},
            "known rating": float(reference_rating(selection.image(index)[None], clean[None])),
            "deep": -deep_distance(selection.image(index), clean),
            **{metric: measure(selection.image(index)) for metric, measure in also.items()},
        }
        for index, known in compare_with_reference(selection, clean).items()
    }
    timing = selection.timing
    restoring = sum(row.seconds or 0.0 for row in selection.rows)  # also of candidates kept before
    seconds = restoring + timing.judging + timing.fidelity
    share = timing.judging / seconds
    picks = simple_picks(selection, figures)
    return Trial(name, selection.rows, selection.choice, figures, picks, seconds, share)


@torch.no_grad()
def deep_distance(image: Tensor, clean: Tensor) -> float:
    """Structure and texture distance on ImageNet features, the restoration judge's frozen ones."""
    return float(texture_distance(_judge().features(torch.stack([image, clean]))))


@cache
def _judge() -> RestorationJudge:
    return RestorationJudge.from_pretrained()


def simple_picks(selection: Selection, figures: dict[Index, dict[str, float]]) -> dict[str, Index]:
    """The candidate that each simple way takes; equal ones go to the first."""
    rows = [row for row in selection.rows if row.index != "input" and row.index in figures]
    if not rows:
        return {}
    images = {row.index: selection.image(row.index) for row in rows}
    agreement = consensus_distances(list(images.values()))
    by_agreement = dict(zip(images, agreement, strict=True))
    ways: dict[str, Callable[[Row], float]] = {
        "rating alone": lambda row: -math.inf if math.isnan(row.rating) else row.rating,
        "agreement alone": lambda row: -by_agreement[row.index],
        "first": lambda row: -int(row.index),
        "sharpest": lambda row: float(laplacian_variance(images[row.index][None])),
    }
    if "brisque" in figures["input"]:
        ways["BRISQUE"] = lambda row: figures[row.index]["brisque"]
    return {name: max(rows, key=way).index for name, way in ways.items()}


def strategies(trials: Sequence[Trial], metric: str) -> dict[str, Estimate]:
    """Means over crops of each way to pick, what the choice gains, and shares of the headroom.

    Over the crops :func:`with_candidates`; empty when there is none.
    """
    trials = with_candidates(trials)
    if not trials:
        return {}
    random = [float(np.mean(trial.candidates(metric))) for trial in trials]
    oracle = [max(trial.candidates(metric)) for trial in trials]
    source = [trial.of(metric, "input") for trial in trials]
    picked = {"best of N": [trial.of(metric, trial.choice) for trial in trials]}
    for way in trials[0].picks:
        picked[way] = [trial.of(metric, trial.picks[way]) for trial in trials]
    ours = picked["best of N"]
    order = [rank_correlation(trial, metric) for trial in trials]
    table = {
        "input": bootstrap(np.mean, source),
        "random": bootstrap(np.mean, random),
        "oracle": bootstrap(np.mean, oracle),
        **{way: bootstrap(np.mean, values) for way, values in picked.items()},
        "best of N - input": bootstrap(_mean_difference, ours, source),
        "best of N - random": bootstrap(_mean_difference, ours, random),
        "oracle - random": bootstrap(_mean_difference, oracle, random),
    }
    for way, values in picked.items():
        table[f"share of {way}"] = bootstrap(_share, values, random, oracle)
        if way != "best of N":
            table[f"best of N - {way}"] = bootstrap(_mean_difference, ours, values)
    table["SRCC with rating"] = bootstrap(np.nanmean, order)
    return table


def with_candidates(trials: Sequence[Trial]) -> list[Trial]:
    """The crops that have a candidate with usable pixels."""
    return [trial for trial in trials if trial.picks]


def rank_correlation(trial: Trial, metric: str) -> float:
    """SRCC of rating and figure over a crop's judged candidates; NaN below three of them."""
    judged = [row for row in trial.rows if row.index in trial.figures and row.index != "input"]
    judged = [row for row in judged if math.isfinite(row.rating)]
    if len(judged) < 3:
        return math.nan
    return srcc([row.rating for row in judged], [trial.of(metric, row.index) for row in judged])


def distance_when_undamaged(search: BestOfN, photo: Tensor, seed: int) -> float | None:
    """PSNR of what comes back for an undamaged photo; None when it comes back untouched."""
    selection = search(photo, seed=seed)
    return None if selection.choice == "input" else float(psnr(selection.best, photo))


def measures(second: Scorer | None) -> dict[str, Measure]:
    """Further metrics: BRISQUE where it is installed, and a second judge where one is given."""
    also: dict[str, Measure] = {}
    try:
        score = brisque()
        also["brisque"] = lambda image: -float(score(image[None]))
    except ImportError:
        pass
    if second is not None:
        also["second judge"] = lambda image: second.assess(image).rating
    return also


def main() -> None:
    """Run the comparison and write it down."""
    options = search_options(
        __doc__, out="runs/evaluate_best_of_n.json", count=60, preset="mixed", second_judge=None
    )
    search = search_config(options).build()
    also = measures(load_scorer(options.second_judge) if options.second_judge else None)
    trials = []
    for photo in track(read_crops(options.photos, options.count), "degraded"):
        damaged = damage(photo, options.preset, seed=options.seed)
        trials.append(run_trial(search, photo.name, damaged, photo.clean, options.seed, also))
    changed, photos = {}, read_photos(options.photos)
    for photo in track(photos, "undamaged"):
        distance = distance_when_undamaged(search, photo.clean, options.seed)
        if distance is not None:
            changed[photo.name] = distance

    results = {m: strategies(trials, m) for m in ("psnr", "ms_ssim", "known rating", "deep", *also)}
    counts = {
        "crops": len(trials),
        "crops without candidates": len(trials) - len(with_candidates(trials)),
        "candidates skipped": _skipped(trials),
        "inputs kept": [trial.name for trial in trials if trial.choice == "input"],
        "undamaged photos": len(photos),
        "undamaged photos changed, dB": changed,
        "seconds a crop": float(np.mean([trial.seconds for trial in trials])),
        "judging's share": float(np.mean([trial.judging_share for trial in trials])),
    }
    lines = (f"{name}: {value}" for name, value in counts.items())
    text = tables.side_by_side(results, digits=4) + "\n\n" + "\n".join(lines)
    records = [_to_record(trial) for trial in trials]
    tables.finish(options, text, results=results, **counts, trials=records)


def _mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a) - np.mean(b))


def _share(pick: np.ndarray, random: np.ndarray, oracle: np.ndarray) -> float:
    """Share of the oracle's headroom; NaN where there is none."""
    headroom = float(np.mean(oracle) - np.mean(random))
    return float(np.mean(pick) - np.mean(random)) / headroom if headroom > 0 else math.nan


def _skipped(trials: Sequence[Trial]) -> dict[str, int]:
    statuses = (row.status for trial in trials for row in trial.rows)
    return dict(Counter(status for status in statuses if status != "ok"))


def _to_record(trial: Trial) -> dict[str, object]:
    rows = [{**row.to_dict(), **trial.figures.get(row.index, {})} for row in trial.rows]
    return {"name": trial.name, "choice": trial.choice, "picks": trial.picks, "rows": rows}


if __name__ == "__main__":
    main()
