"""The judge against the bars it has to clear, in one table.

    python -m benchmarks.evaluate_judge --biq2021 BIQ2021 --photos PHOTOS [--weights DIR …]

``BIQ2021`` is the dataset's folder (its test split is used), ``PHOTOS`` a folder of clean photos no
judge was trained on. Every measure stands beside what it must reach and what would be excellent;
measures without a bar are there to read. Each part of the table is a file in the output folder,
written when the part is done: cut short, the same command goes on with what is missing, and
``--rows PART …`` measures those parts anew. Other weights or settings never mix with what is there.
Ten minutes of one core, half of them for KADID's distortions. ``--parts PART …`` leaves the others
out, and several ``--weights`` stand side by side, a column each: the variants of an ablation.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import evaluate_alarm, judge_measures, peers, tables, timing
from benchmarks.attack_proxy import ATTACKS, attack_table, attacked_images
from benchmarks.damaged_photos import damage, read_photos
from benchmarks.judge_measures import MONOTONE
from benchmarks.judge_speed import forward, forward_backward
from benchmarks.previews import Progress, Recorder, progress_of, rank_correlations
from zoomiqa_core.alarm import Alarm
from zoomiqa_core.evaluation.correlation import Estimate
from zoomiqa_core.images.sources import find_images
from zoomiqa_core.proxy.model import BUNDLED_WEIGHTS, QualityProxy
from zoomiqa_core.proxy.scorer import ProxyScorer
from zoomiqa_core.runs.files import to_json, write_text_atomic

Table = dict[str, Estimate | float]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Bar:
    """Where a measure has to lie, both ends included."""

    must: Interval
    excellent: Interval | None

    def verdict(self, value: float) -> str:
        """``excellent``, ``reached``, or by how much it is missed."""
        if math.isnan(value):
            return "not measured"
        for name, wanted in (("excellent", self.excellent), ("reached", self.must)):
            if wanted and wanted[0] <= value <= wanted[1]:
                return name
        low, high = self.must
        return f"missed by {max(low - value, value - high):.3f}"


def at_least(must: float, excellent: float) -> Bar:
    return Bar((must, math.inf), (excellent, math.inf))


def at_most(must: float, excellent: float | None) -> Bar:
    return Bar((-math.inf, must), None if excellent is None else (-math.inf, excellent))


BARS: dict[str, Bar] = {
    "BIQ2021 SRCC": at_least(0.84, 0.87),
    "BIQ2021 PLCC": at_least(0.86, 0.89),
    "KADID types seen, not bound to a reference: SRCC": at_least(0.84, 0.90),
    "KADID types unseen: SRCC": at_least(0.72, 0.80),
    "KADID types seen: ordered level pairs": at_least(0.975, 0.99),
    "KADID types seen: ordered level pairs, graded types": at_least(0.975, 0.99),
    "KADID types unseen: ordered level pairs": at_least(0.95, 0.98),
    **{f"{name}: SRCC of rating with level": at_least(0.6, 0.85) for name in MONOTONE},
    "local damage: pointing": at_least(0.93, 0.97),
    "local damage: IoU": at_least(0.72, 0.80),
    "BIQ2021 SRCC of std with |error|": at_least(0.25, 0.45),
    "BIQ2021 coverage of the 90 % interval": Bar((0.87, 0.93), (0.89, 0.91)),
    "std apart from photos, least AUC": at_least(0.5, 0.9),
    "PGD 2/255: gain of the rating": at_most(1.2, 0.6),
    "PGD 2/255: gain of the reward": at_most(0.8, 0.3),
    "added text: largest rise of the rating": at_most(0.05, 0.0),
    "alarm: AUC of hacked against honest": at_least(0.90, 0.98),
    "previews: SRCC at 30%": at_least(0.5, 0.7),
    "previews: SRCC at 50%": at_least(0.7, 0.85),
    "512² forward, of tf_efficientnet_lite0's": at_most(1.2, 0.8),
    "512² forward and backward, of tf_efficientnet_lite0's": at_most(1.2, 0.8),
    "shipped size of the judges, MB": at_most(16.0, None),
}
"""What has to be reached, by measure."""


@dataclass(frozen=True)
class Setup:
    """What is measured, and on what."""

    biq2021: str
    photos: str
    weights: str
    """Folder of the judge."""
    digest: str
    """Of its files."""
    count: int
    """Photos a part takes at most."""
    size: int
    """Side of the crops of distorted photos, pixels."""
    seed: int

    def proxy(self) -> QualityProxy:
        """The judge, frozen."""
        return QualityProxy.from_pretrained(self.weights).requires_grad_(False)

    def paths(self, most: int) -> list[Path]:
        """At most ``most`` photos spread evenly over the folder."""
        found, wanted = find_images([self.photos]), min(most, self.count)
        return found[:: max(1, len(found) // wanted)][:wanted]


def people(setup: Setup) -> Table:
    """Agreement with people, and what the std says of the error."""
    judged = judge_measures.judge_rated(setup.proxy(), setup.biq2021, "test")
    return judge_measures.against_people(judged, setup.seed)


def distortions(setup: Setup) -> Table:
    """Graded distortions, types seen in training and not."""
    ratings = judge_measures.distortion_ratings(
        setup.proxy(), setup.paths(20), setup.size, setup.seed
    )
    return judge_measures.against_distortions(ratings, setup.seed)


def local_damage(setup: Setup) -> Table:
    """Damage of a fifth of the area, to be found in the map."""
    return judge_measures.against_local_damage(
        setup.proxy(), setup.paths(41), setup.size, setup.seed
    )


def out_of_distribution(setup: Setup) -> Table:
    """The std on what the judge was never shown, beside that on photos."""
    return judge_measures.out_of_distribution_table(setup.proxy(), setup.paths(12), setup.seed)


def _attacks(setup: Setup, name: str) -> dict[str, Any]:
    images = attacked_images(setup.photos, min(20, setup.count), 224, setup.seed)
    with torch.enable_grad():
        row = attack_table(setup.proxy(), images, setup.seed, [name])[name]
    return {f"{name}: {measure}": value for measure, value in row.items()}


def pgd(setup: Setup) -> Table:
    """The strongest invisible change."""
    return _attacks(setup, "PGD 2/255")


def text(setup: Setup) -> Table:
    """Praise written on the photo."""
    return _attacks(setup, "added text")


def alarm(setup: Setup) -> Table:
    """Hacked against honest improvements, told apart by the second judge.

    Attacks alone; ``evaluate_alarm`` adds a restorer tuned on the judge.
    """
    photos = read_photos(setup.photos, min(12, setup.count))
    changes = evaluate_alarm.measure(
        setup.proxy(), Alarm.from_pretrained(), photos, seed=setup.seed
    )
    area = evaluate_alarm.separation(changes, list(ATTACKS), seed=setup.seed)
    return {"alarm: AUC of hacked against honest": area}


def previews(setup: Setup) -> Table:
    """Do previews of the bundled restorer's candidates rank as the finished ones do?"""
    from restoration_guide.restorers import load_restorer
    from restoration_guide.search.best_of_n import BestOfN

    recorder, scorer = Recorder(load_restorer("builtin")), ProxyScorer(setup.proxy())
    search = BestOfN(recorder, scorer)  # pyright: ignore[reportArgumentType]
    photos: list[Progress] = []
    for photo in read_photos(setup.photos, min(10, setup.count)):
        selection = search(damage(photo, "mixed", seed=setup.seed), seed=setup.seed)
        photos.append(progress_of(selection, recorder.previews, scorer))
    return {f"previews: {name}": value for name, value in rank_correlations(photos).items()}


def speed(setup: Setup) -> Table:
    """Time beside the bare backbone's, round by round."""
    proxy, name = setup.proxy(), "tf_efficientnet_lite0"
    image = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(setup.seed))
    judges: dict[str, peers.Judge] = {
        "judge": lambda batch: proxy(batch).rating,
        "bare": peers.backbone(name),
    }
    runs = {f"{who} forward": forward(judge, image) for who, judge in judges.items()}
    runs |= {f"{who} both": forward_backward(judge, image) for who, judge in judges.items()}
    with torch.enable_grad():
        seconds = timing.interleaved_seconds(runs, rounds=9)
    table: Table = {}
    for kind, words in (("forward", "forward"), ("both", "forward and backward")):
        ratio = timing.ratios(seconds, seconds[f"bare {kind}"])[f"judge {kind}"]
        table[f"512² {words}, of {name}'s"] = ratio
    table["512² forward, milliseconds"] = 1e3 * sorted(seconds["judge forward"])[4]
    return table


def size(setup: Setup) -> Table:
    """Bytes of the weights that are shipped: this judge and the alarm's."""
    folders = [Path(setup.weights), BUNDLED_WEIGHTS.parent / "alarm"]
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    return {"shipped size of the judges, MB": sum(file.stat().st_size for file in files) / 1e6}


PARTS: dict[str, Callable[[Setup], Table]] = {
    part.__name__: part
    for part in (
        people,
        distortions,
        local_damage,
        out_of_distribution,
        pgd,
        text,
        alarm,
        previews,
        speed,
        size,
    )
}


def measure(
    setup: Setup, out: Path, renew: Sequence[str] = (), parts: Sequence[str] = ()
) -> dict[str, Table]:
    """Every part's table: what ``out`` has of these settings is read, the rest is measured.

    Args:
        setup: what is measured.
        out: folder of the parts.
        renew: parts measured anew whatever there is.
        parts: those that are wanted; none means all.
    """
    measured: dict[str, Table] = {}
    for name in parts or PARTS:
        part, file = PARTS[name], out / f"{name}.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if name in renew or record.get("setup") != asdict(setup):
            began = time.perf_counter()
            with torch.no_grad():
                table = part(setup)
            seconds = round(time.perf_counter() - began, 1)
            record = {"setup": asdict(setup), "table": table, "seconds": seconds}
            record["hardware"] = {**tables.hardware(), "threads": torch.get_num_threads()}
            write_text_atomic(file, to_json(record, sort_keys=False))
            record = json.loads(file.read_text(encoding="utf-8"))
        measured[name] = {key: _value(value) for key, value in record["table"].items()}
    return measured


def _value(stored: Any) -> Estimate | float:
    """A figure as JSON keeps it: NaN is null, an interval three numbers."""
    if isinstance(stored, list):
        return Estimate(*(math.nan if number is None else number for number in stored))
    return math.nan if stored is None else stored


def markdown(parts: Mapping[str, Table]) -> str:
    """The measures with a bar first, then the others."""
    figures = _joined(parts)
    rows: list[list[Any]] = []
    for name, bar in BARS.items():
        value = figures.get(name, math.nan)
        plain = value.value if isinstance(value, Estimate) else value
        rows.append([name, value, _words(bar.must), _words(bar.excellent), bar.verdict(plain)])
    rows += [[name, value, "", "", ""] for name, value in figures.items() if name not in BARS]
    return tables.table(["measure", "value", "must", "excellent", ""], rows)


def side_by_side(judges: Mapping[str, Mapping[str, Table]]) -> str:
    """The measures with a bar that were taken, a row each; judges, a column each."""
    joined = {judge: _joined(parts) for judge, parts in judges.items()}
    return tables.side_by_side(
        {j: {n: figures[n] for n in BARS if n in figures} for j, figures in joined.items()}
    )


def _joined(parts: Mapping[str, Table]) -> Table:
    return {name: value for part in parts.values() for name, value in part.items()}


def _words(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    if math.isinf(low):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if math.isinf(high) else f"{low:g} – {high:g}"


def digest(weights: Path) -> str:
    """First eight hexadecimal digits of the SHA-256 of a judge's files."""
    known = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        known.update((weights / name).read_bytes())
    return known.hexdigest()[:8]


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, print the table."""
    parser = tables.arguments(
        __doc__, out="runs/judge", biq2021=..., photos=..., count=41, size=384
    )
    parser.add_argument("--weights", nargs="+", type=Path, default=[BUNDLED_WEIGHTS])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[], help="these alone")
    parser.add_argument("--rows", nargs="*", choices=PARTS, default=[], help="measure these anew")
    args = parser.parse_args(arguments)

    judges = {f.parent.name if f.name == "weights" else f.name: f for f in args.weights}
    if len(judges) < len(args.weights):
        parser.error(f"judges are told apart by their folders' names, {', '.join(judges)}")
    known = {name: digest(folder) for name, folder in judges.items()}
    found: dict[str, dict[str, Table]] = {}
    for name, folder in judges.items():
        setup = Setup(
            str(args.biq2021),
            str(args.photos),
            str(folder),
            known[name],
            args.count,
            args.size,
            args.seed,
        )
        found[name] = measure(setup, args.out / known[name], args.rows, args.parts)
    alone = len(judges) == 1
    text = markdown(*found.values()) if alone else side_by_side(found)
    file = "/".join([*known.values(), "table.json"]) if alone else "side_by_side.json"
    tables.finish(args, text, args.out / file, weights=known)


if __name__ == "__main__":
    main()
