"""What the judge's choice is worth: best of N against chance, against the oracle, on real photos.

    python -m benchmarks.evaluate_best_of_n --photos PHOTOS --count 40 --preset mixed --seed 0

``PHOTOS`` is a folder of clean photos neither model was trained on; their 256 x 256 centre crops
are degraded once, as in ``evaluate_restorer``, and restored N ways. Prints tables with 95 %
bootstrap intervals over photos and writes them, with every candidate's figures, as JSON. Terms:

- input: the degraded crop; random: the mean over a photo's candidates, what a blind pick gives;
- judge: what ``BestOfN`` returns, the input included; oracle: the candidate nearest to the clean
  crop by that very metric, which nobody can know;
- share: (judge - random) / (oracle - random), of the means over photos;
- SRCC: rank correlation of rating and metric over the candidates of one photo, averaged.

A photo whose candidates all lack usable pixels keeps its input; it is counted and left out of the
means, where it has no random candidate and no oracle.

The same figures follow for other settings of the choice (``confidence``, ``min_gain``): choosing is
a pure function of the table, nothing is restored again. Last, all photos undegraded: how many come
back untouched, and the worst PSNR of those that do not.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.damaged_photos import damage, read_photos
from benchmarks.timing import hardware
from restoration_guide.best_of_n import BestOfN, choose
from restoration_guide.reference import ReferenceFigures, compare_with_reference
from restoration_guide.run_config import RunConfig
from restoration_guide.selection import Index, Row, Selection
from zoomiqa_core.data.degradations import PRESETS
from zoomiqa_core.files import to_json, write_text_atomic
from zoomiqa_core.metrics import Estimate, bootstrap, srcc

METRICS = ("psnr", "ms_ssim")
CONFIDENCES, MIN_GAINS = (0.0, 0.5, 1.0, 2.0), (0.0, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Trial:
    """One photo: the table, the choice and the distance of every row to the clean crop."""

    name: str
    rows: tuple[Row, ...]
    choice: Index
    figures: dict[Index, ReferenceFigures]
    seconds: float
    judging_share: float

    def of(self, metric: str, index: Index) -> float:
        """A row's figure."""
        return float(getattr(self.figures[index], metric))

    def candidates(self, metric: str) -> list[float]:
        """Figures of all candidates with usable pixels."""
        return [self.of(metric, index) for index in self.figures if index != "input"]


def run_trial(search: BestOfN, name: str, damaged: Tensor, clean: Tensor, seed: int) -> Trial:
    """Search one image and measure every candidate against its clean version."""
    selection: Selection = search(damaged, seed=seed)
    if selection.error is not None:
        raise RuntimeError(f"{name}: the restorer failed: {selection.error}")
    return Trial(
        name,
        selection.rows,
        selection.choice,
        compare_with_reference(selection, clean),
        selection.timing.total,
        selection.timing.judging_share,
    )


def strategies(trials: Sequence[Trial], metric: str) -> dict[str, Estimate]:
    """Means over photos of each way to pick, what the judge gains, and its share of the oracle.

    Over the photos :func:`with_candidates`; empty when there is none.
    """
    trials = with_candidates(trials)
    if not trials:
        return {}
    source = [trial.of(metric, "input") for trial in trials]
    random = [float(np.mean(trial.candidates(metric))) for trial in trials]
    judge = [trial.of(metric, trial.choice) for trial in trials]
    oracle = [max(trial.candidates(metric)) for trial in trials]
    order = [rank_correlation(trial, metric) for trial in trials]
    return {
        "input": bootstrap(np.mean, source),
        "random": bootstrap(np.mean, random),
        "judge": bootstrap(np.mean, judge),
        "oracle": bootstrap(np.mean, oracle),
        "judge - random": bootstrap(_mean_difference, judge, random),
        "judge - input": bootstrap(_mean_difference, judge, source),
        "oracle - random": bootstrap(_mean_difference, oracle, random),
        "share of headroom": bootstrap(_share, judge, random, oracle),
        "SRCC with rating": bootstrap(np.nanmean, order),
    }


def with_candidates(trials: Sequence[Trial]) -> list[Trial]:
    """The photos that have a candidate with usable pixels."""
    return [trial for trial in trials if len(trial.figures) > 1]  # the input is always there


def rank_correlation(trial: Trial, metric: str) -> float:
    """SRCC of rating and figure over a photo's judged candidates; NaN below three of them."""
    judged = [row for row in trial.rows if row.index in trial.figures and row.index != "input"]
    judged = [row for row in judged if math.isfinite(row.rating)]
    if len(judged) < 3:
        return math.nan
    return srcc([row.rating for row in judged], [trial.of(metric, row.index) for row in judged])


def sweep(trials: Sequence[Trial], pristine: Sequence[Trial]) -> list[dict[str, float]]:
    """The choice under other settings: gains over a random candidate, inputs and pristine kept.

    Gains are means over the photos :func:`with_candidates` (NaN when there is none); inputs are
    counted over all.
    """
    records = []
    for k in CONFIDENCES:
        for min_gain in MIN_GAINS:
            record: dict[str, float] = {"confidence": k, "min_gain": min_gain}
            for metric in METRICS:
                gains = [
                    trial.of(metric, choose(trial.rows, k, min_gain).index)
                    - float(np.mean(trial.candidates(metric)))
                    for trial in with_candidates(trials)
                ]
                record[f"{metric}_over_random"] = float(np.mean(gains)) if gains else math.nan
            for name, group in (("inputs_kept", trials), ("pristine_kept", pristine)):
                picks = [choose(trial.rows, k, min_gain).index for trial in group]
                record[name] = picks.count("input")
            records.append(record)
    return records


def pristine_summary(trials: Sequence[Trial]) -> dict[str, object]:
    """Undegraded photos: kept, changed, and how far the changed ones went."""
    changed = {
        trial.name: trial.of("psnr", trial.choice) for trial in trials if trial.choice != "input"
    }
    return {
        "photos": len(trials),
        "kept": len(trials) - len(changed),
        "changed": len(changed),
        "worst_psnr": min(changed.values(), default=None),
        "changed_photos": changed,
    }


def main() -> None:
    """Run the comparison and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="mixed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=RunConfig.n)
    parser.add_argument("--confidence", type=float, default=RunConfig.confidence)
    parser.add_argument("--min-gain", type=float, default=RunConfig.min_gain)
    parser.add_argument("--restorer", default=RunConfig.restorer)
    parser.add_argument("--scorer", default=RunConfig.scorer)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate_best_of_n.json"))
    options = parser.parse_args()
    run = RunConfig(
        n=options.n,
        confidence=options.confidence,
        min_gain=options.min_gain,
        seed=options.seed,
        restorer=options.restorer,
        scorer=options.scorer,
    )
    search = run.build()
    console = Console()

    photos, progress = read_photos(options.photos, options.count), Console(stderr=True)
    trials, pristine = [], []
    for photo in track(photos, "degraded", console=progress):
        damaged = damage(photo, options.preset, seed=run.seed)
        trials.append(run_trial(search, photo.name, damaged, photo.clean, run.seed))
    for photo in track(read_photos(options.photos), "pristine", console=progress):
        pristine.append(run_trial(search, photo.name, photo.clean, photo.clean, run.seed))

    results = {metric: strategies(trials, metric) for metric in METRICS}
    swept = sweep(trials, pristine)
    record = {
        "config": asdict(run),
        "photos": len(trials),
        "without_candidates": len(trials) - len(with_candidates(trials)),
        "preset": options.preset,
        "hardware": hardware(),
        "results": {
            metric: {name: estimate._asdict() for name, estimate in table.items()}
            for metric, table in results.items()
        },
        "inputs_kept": sum(trial.choice == "input" for trial in trials),
        "skipped": _skipped(trials),
        "pristine": pristine_summary(pristine),
        "pristine_skipped": _skipped(pristine),
        "sweep": swept,
        "seconds_per_photo": float(np.mean([trial.seconds for trial in trials])),
        "judging_share": float(np.mean([trial.judging_share for trial in trials])),
        "trials": [_to_record(trial, run.confidence) for trial in trials],
    }
    write_text_atomic(options.out, to_json(record))
    _print(console, record, results, swept)
    console.print(f"written to {options.out}")


def _mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a) - np.mean(b))


def _share(judge: np.ndarray, random: np.ndarray, oracle: np.ndarray) -> float:
    """Share of the oracle's headroom; NaN where there is none."""
    headroom = float(np.mean(oracle) - np.mean(random))
    return float(np.mean(judge) - np.mean(random)) / headroom if headroom > 0 else math.nan


def _skipped(trials: Sequence[Trial]) -> dict[str, int]:
    statuses = (row.status for trial in trials for row in trial.rows)
    return dict(Counter(status for status in statuses if status != "ok"))


def _to_record(trial: Trial, confidence: float) -> dict[str, object]:
    rows = []
    for row in trial.rows:
        figures = trial.figures.get(row.index)
        rows.append({**row.to_dict(confidence), **(asdict(figures) if figures else {})})
    return {"name": trial.name, "choice": trial.choice, "rows": rows}


def _interval(estimate: Estimate, digits: int) -> str:
    value, low, high = (f"{number:.{digits}f}" for number in estimate)
    return f"{value} [{low}, {high}]"


def _print(console: Console, record, results, swept) -> None:
    table = Table(title=f"best of {record['config']['n']}, {record['photos']} photos")
    for heading in (record["preset"], "PSNR, dB", "MS-SSIM"):
        table.add_column(heading)
    for name in results["psnr"]:
        psnr, ms_ssim = results["psnr"][name], results["ms_ssim"][name]
        table.add_row(name, _interval(psnr, 2), _interval(ms_ssim, 4))
    console.print(table)

    settings = Table(title="other settings of the choice")
    for heading in ("k", "min gain", "PSNR +", "MS-SSIM +", "inputs kept", "pristine kept"):
        settings.add_column(heading, justify="right")
    for row in swept:
        settings.add_row(
            f"{row['confidence']:g}",
            f"{row['min_gain']:g}",
            f"{row['psnr_over_random']:+.3f}",
            f"{row['ms_ssim_over_random']:+.4f}",
            f"{row['inputs_kept']:.0f}",
            f"{row['pristine_kept']:.0f}",
        )
    console.print(settings)
    pristine = record["pristine"]
    worst = "" if pristine["worst_psnr"] is None else f", worst {pristine['worst_psnr']:.2f} dB"
    console.print(
        f"inputs kept {record['inputs_kept']} of {record['photos']}; skipped {record['skipped']}, "
        f"photos without candidates {record['without_candidates']}\n"
        f"pristine: {pristine['kept']} of {pristine['photos']} kept, "
        f"{pristine['changed']} changed{worst}\n"
        f"{record['seconds_per_photo']:.2f} s a photo, judging {record['judging_share']:.1%}"
    )


if __name__ == "__main__":
    main()
