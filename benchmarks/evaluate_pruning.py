"""What early pruning saves and what it loses, against the same search to its end.

    python -m benchmarks.evaluate_pruning --photos PHOTOS --count 40 --preset mixed --seed 0

Photos, damage and figures are those of ``evaluate_best_of_n``. Every photo is searched twice, in
full and pruned; the full search also keeps the previews, which are rated afterwards and
cost its time nothing. Prints tables with 95 % bootstrap intervals over photos and writes them, with
every row, as JSON. Terms:

- gain: the choice's figure over the input's;
- fewer: best of the first candidates, as many as cost no more evaluations than pruning did on the
  mean, the plain way to save;
- share of the gain: pruned (or fewer) over full, of the means over photos;
- NFE, time: evaluations and seconds of the pruned search over the full one's, of the sums;
- SRCC at a share of the steps: rank correlation of the previews after the first evaluation that
  reaches it with the finished candidates, by the lower bound, over the candidates of more than one
  step; "drift" adds to every preview how much the same candidate's bound rises on the other photos.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.progress import track
from torch import Tensor

from benchmarks import tables
from benchmarks.damaged_photos import damage, read_photos
from benchmarks.searches import search_config, search_options, searched
from restoration_guide.report.reference import compare_with_reference
from restoration_guide.restorers.base import Candidate, Preview, Restorer
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.choice import choose
from restoration_guide.search.prune import PruneConfig
from restoration_guide.search.selection import Index, Selection
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap, srcc
from zoomiqa_core.scorer import Scorer

METRICS = ("psnr", "ms_ssim")
SHARES = (0.2, 0.3, 0.5)
"""Shares of the steps at which previews are held against what they become."""


class Recorder:
    """A restorer that keeps what an observer would see, and ends nothing."""

    def __init__(self, restorer: Restorer) -> None:
        self.inner = restorer
        self.name, self.plan, self.limits = restorer.name, restorer.plan, restorer.limits
        self.previews: list[Preview] = []

    def restore(
        self, image: Tensor, *, n: int, seed: int = 0, batch_size: int = 1, observer: object = None
    ) -> Iterator[Candidate]:
        self.previews = []
        return self.inner.restore(
            image, n=n, seed=seed, batch_size=batch_size, observer=self._record
        )

    def _record(self, previews: Sequence[Preview]) -> Collection[int]:
        self.previews += previews
        return [preview.index for preview in previews]


@dataclass(frozen=True)
class Progress:
    """Ratings of one photo's candidates on their way."""

    previews: dict[tuple[int, int], float]
    """By index and step."""
    steps: dict[int, int]
    """Steps of the candidates that have previews."""
    finished: dict[int, float]
    """By index."""

    def at(self, share: float) -> dict[int, float]:
        """Rating by index after the first evaluation that reaches the share; finished ones' own."""
        reached = {index: math.ceil(share * steps - 1e-9) for index, steps in self.steps.items()}
        return {
            index: self.previews.get((index, step), self.finished[index])
            for index, step in reached.items()
        }


@dataclass(frozen=True)
class Trial:
    """One photo: figures of the choices, costs, and the candidates on their way."""

    name: str
    figures: dict[str, dict[str, float]]
    """By metric: "input", "full", "pruned", and "first m" for every m."""
    nfe: dict[str, int]
    """"full", "pruned", and "first m"."""
    seconds: dict[str, float]
    same_choice: bool
    progress: Progress


def run_trial(
    full: BestOfN, pruned: BestOfN, name: str, damaged: Tensor, clean: Tensor, seed: int
) -> Trial:
    """Search one photo both ways; the full search's restorer is a :class:`Recorder`."""
    recorder: Any = full.restorer
    whole = searched(full, damaged, name=name, seed=seed)
    previews = recorder.previews
    part = searched(pruned, damaged, name=name, seed=seed)
    distances = compare_with_reference(whole, clean)
    config = full.config

    picks: dict[str, Index] = {"input": "input", "full": whole.choice, "pruned": part.choice}
    nfe = {"full": _spent(whole), "pruned": _spent(part)}
    for count in range(1, config.n):
        rows = whole.rows[: count + 1]  # the input's comes first
        picks[f"first {count}"] = choose(rows, config).index
        nfe[f"first {count}"] = sum(row.nfe or 0 for row in rows)
    return Trial(
        name,
        {m: {key: getattr(distances[i], m) for key, i in picks.items()} for m in METRICS},
        nfe,
        {"full": whole.timing.total, "pruned": part.timing.total},
        whole.choice == part.choice,
        progress_of(whole, previews, pruned.scorer),
    )


def progress_of(whole: Selection, previews: Sequence[Preview], scorer: Scorer) -> Progress:
    """Ratings of a full search's candidates, previews and finished."""
    judged = scorer.assess([preview.image for preview in previews])
    return Progress(
        {
            (p.index, p.step): judgement.rating
            for p, judgement in zip(previews, judged, strict=True)
        },
        {preview.index: preview.steps for preview in previews},
        {int(r.index): r.rating for r in whole.rows if r.index != "input"},
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    return float(np.mean(part) / np.mean(whole))


def gains(trials: Sequence[Trial], metric: str) -> dict[str, Estimate]:
    """Gains over the input, and shares of the full search's."""
    fewer = first_within(trials)
    named = {"full": "full", "pruned": "pruned", "fewer": fewer}
    gained = {
        name: np.array([t.figures[metric][key] - t.figures[metric]["input"] for t in trials])
        for name, key in named.items()
        if key is not None
    }
    result = {f"gain, {name}": bootstrap(np.mean, values) for name, values in gained.items()}
    for name, values in gained.items():
        if name != "full":
            result[f"share of the gain, {name}"] = bootstrap(_ratio, values, gained["full"])
    return result


def first_within(trials: Sequence[Trial]) -> str | None:
    """The most first candidates that cost no more evaluations than pruning; None when none do."""
    budget = sum(trial.nfe["pruned"] for trial in trials)
    within = [
        key
        for key in trials[0].nfe
        if key.startswith("first") and sum(trial.nfe[key] for trial in trials) <= budget
    ]
    return within[-1] if within else None


def costs(trials: Sequence[Trial]) -> dict[str, Estimate]:
    """Evaluations and seconds of the pruned search as shares of the full one's."""
    nfe = {key: [trial.nfe[key] for trial in trials] for key in ("full", "pruned")}
    seconds = {key: [trial.seconds[key] for trial in trials] for key in ("full", "pruned")}
    return {
        "NFE": bootstrap(_ratio, nfe["pruned"], nfe["full"]),
        "time": bootstrap(_ratio, seconds["pruned"], seconds["full"]),
        "same choice": bootstrap(np.mean, [float(trial.same_choice) for trial in trials]),
    }


def rank_correlations(photos: Sequence[Progress]) -> dict[str, Estimate]:
    """SRCC of previews with what they become, as they are and with the others' drift added."""
    result = {}
    for share in SHARES:
        plain, drifted = [], []
        for place, progress in enumerate(photos):
            others = [other for k, other in enumerate(photos) if k != place]
            shown = progress.at(share)
            final = [progress.finished[index] for index in shown]
            drift = {
                index: float(np.mean([o.finished[index] - o.at(share)[index] for o in others]))
                for index in shown
                if others
            }
            plain.append(srcc(list(shown.values()), final))
            drifted.append(srcc([value + drift.get(i, 0.0) for i, value in shown.items()], final))
        result[f"SRCC at {share:.0%}"] = bootstrap(np.nanmean, plain)
        result[f"SRCC at {share:.0%}, drift"] = bootstrap(np.nanmean, drifted)
    return result


def main() -> None:
    """Run the comparison and write it down."""
    options = search_options(
        __doc__,
        out="runs/evaluate_pruning.json",
        count=24,
        preset="mixed",
        protect=PruneConfig.protect,
    )
    pruned = search_config(options, prune=PruneConfig(protect=options.protect)).build()
    full = BestOfN(Recorder(pruned.restorer), pruned.scorer, options.n)
    trials: list[Trial] = []
    for photo in track(read_photos(options.photos, options.count), "photos"):
        damaged = damage(photo, options.preset, seed=options.seed)
        trials.append(run_trial(full, pruned, photo.name, damaged, photo.clean, options.seed))
    gained = {metric: gains(trials, metric) for metric in METRICS}
    others = {**costs(trials), **rank_correlations([trial.progress for trial in trials])}
    text = f"{len(trials)} photos; fewer: {first_within(trials)}\n\n"
    text += tables.side_by_side(gained, digits=4) + "\n\n" + tables.side_by_side({"": others})
    records = [_to_record(trial) for trial in trials]
    tables.finish(options, text, gains=gained, others=others, trials=records)


def _spent(selection: Selection) -> int:
    if selection.nfe is None:
        raise RuntimeError("this restorer does not count its network evaluations")
    return selection.nfe["spent"]


def _to_record(trial: Trial) -> dict[str, Any]:
    record = asdict(trial)
    previews = trial.progress.previews
    record["progress"]["previews"] = [[*key, value] for key, value in previews.items()]
    return record


if __name__ == "__main__":
    main()
