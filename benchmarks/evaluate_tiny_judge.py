"""What small judges learnt, side by side in one table: are their words about the image?

    python -m benchmarks.evaluate_tiny_judge --judges runs/tiny_judge/*/judge \
        --biq2021 BIQ2021 --photos PHOTOS [--count 20] [--rated 120] [--chains 8]

``BIQ2021`` is the dataset's folder (its test split is used), ``PHOTOS`` a folder of clean photos
the judges were not trained on. Judges whose folders differ in a last ``-SEED`` alone share a
column, mean ± standard deviation over the seeds. Every image gets one chain at ``--temperature``;
its rating is the mean of the digits' distribution at the answer. Every fifth rated photo gets K
further chains. A judge's answers are kept under ``--out`` and not asked for again; ``cases.md``
there has the whole reply to every ``--show``-th rated photo.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.tiny_judge_answers import (
    Asked,
    Case,
    damaged_cases,
    distorted_cases,
    rated_cases,
)
from zoomiqa_core.data.gr_iqa.regions import box_iou
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap, srcc
from zoomiqa_core.images.sources import find_images
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.zoom_iqa.local.model import TINY_SAMPLING, LocalVLM
from zoomiqa_core.zoom_iqa.prompts import PROMPTS_FILE, load_prompts

SUBSETS = ("ss01", "ss03")
"""BIQ2021's ``ss02`` has artificial distortions whose labels follow another scale."""
HARD = (2.2, 4.2)
"""Ratings between which a picture without local damage counts as neither hard nor easy."""

Measures = dict[str, Estimate | float]


def measure(answers: Sequence[Case], seed: int) -> Measures:
    """The column of one judge; intervals are over images."""
    table: Measures = {"valid answers": float(np.mean([a["valid"] for a in answers]))}
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for answer in answers:
        if _finite(answer["rating"]) and _finite(answer["expected"]):
            by_kind[answer["kind"]].append(answer)

    def add(name: str, statistic: Callable[..., float], *columns: Any) -> None:
        if len(columns[0]) > 2:
            table[name] = bootstrap(statistic, *columns, resamples=300, seed=seed)

    def column(kind: str, key: str) -> np.ndarray:
        return np.array([a[key] for a in by_kind[kind]])

    people, subset = column("rated", "target"), column("rated", "subset")
    for label, key in (("after words", "rating"), ("without words", "expected")):
        said = column("rated", key)
        for name in SUBSETS:
            add(f"{label}: {name} SRCC", srcc, said[subset == name], people[subset == name])
        add(f"{label}: mean of {', '.join(SUBSETS)} SRCC", _mean_srcc, said, people, subset)
        add(f"{label}: BIQ2021 SRCC", srcc, said, people)
        add(f"{label}: unseen types SRCC", srcc, column("unseen", key), column("unseen", "target"))
    add(
        "words cost, mean of subsets",
        lambda after, before, p, s: _mean_srcc(before, p, s) - _mean_srcc(after, p, s),
        column("rated", "rating"),
        column("rated", "expected"),
        people,
        subset,
    )
    swapped = column("rated", "swapped")
    add("swapped words: SRCC with its own image's people", srcc, swapped, people)
    add(
        "swapped words: SRCC with the words' image",
        srcc,
        swapped,
        column("rated", "swapped_target"),
    )

    local = by_kind["local"]
    gain = [abs(a["first"] - a["target"]) - abs(a["rating"] - a["target"]) for a in local]
    add("local damage: round 2 less error by", np.mean, gain)
    boxes = [(a["bbox"], a["truth"][0]) for a in local if a["bbox"] and a["truth"]]
    own = [box_iou(box, truth) for box, truth in boxes]
    # Each box with the damage of all other pictures.
    other = [
        float(np.mean([box_iou(box, truth) for m, (_, truth) in enumerate(boxes) if m != n]))
        for n, (box, _) in enumerate(boxes)
        if len(boxes) > 1
    ]
    add("zoom box: IoU with the damage", np.mean, own)
    add("zoom box: the same of boxes of other images", np.mean, other)
    add("zoom box: IoU above other images'", np.mean, np.subtract(own, other))
    easy = [
        a["zoomed"]
        for a in by_kind["clean"] + by_kind["global"]
        if not HARD[0] <= a["target"] < HARD[1]
    ]
    if local and easy:
        hard = [a["zoomed"] for a in local]
        table["zoom rate: local damage"] = float(np.mean(hard))
        table["zoom rate: easy pictures"] = float(np.mean(easy))
        table["zoom rate: difference"] = float(np.mean(hard) - np.mean(easy))
    several = [a for a in by_kind["rated"] if a.get("ratings")]
    spread = [float(np.std(a["ratings"], ddof=1)) for a in several]
    error = [abs(float(np.mean(a["ratings"])) - a["target"]) for a in several]
    add("std of K chains against error, SRCC", srcc, np.array(spread), np.array(error))
    return table


def _mean_srcc(ratings: np.ndarray, people: np.ndarray, subset: np.ndarray) -> float:
    parts = [subset == name for name in SUBSETS]
    return float(np.mean([srcc(ratings[part], people[part]) for part in parts if part.sum() > 2]))


def _finite(rating: float | None) -> bool:
    return rating is not None and bool(np.isfinite(rating))


def show(judges: dict[str, Measures]) -> str:
    """Markdown: a column per group of judges, mean ± standard deviation over its seeds."""
    groups: dict[str, list[Measures]] = defaultdict(list)
    for name, column in judges.items():
        groups[re.sub(r"-\d+$", "", name)].append(column)
    columns: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        joined = columns[f"{name} ({len(group)})"] = dict(group[0])
        for measured in joined if len(group) > 1 else ():
            values = [float(np.ravel(column[measured])[0]) for column in group]
            joined[measured] = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    return tables.side_by_side(columns)


def whole_cases(answers: Sequence[Case], names: Sequence[str], every: int) -> str:
    """Markdown: every so many replies, whole, with the image's name and people's rating."""
    pages = []
    for answer, name in list(zip(answers, names, strict=True))[::every]:
        head = f"## {name}\n\nTarget {answer['target']:.2f}, read {answer['rating']:.2f}"
        pages += [f"{head}, without words {answer['expected']:.2f}."]
        pages += [f"```\n{text}\n```" for text in answer["texts"]]
    return "\n\n".join(pages) + "\n"


def main() -> None:
    """Ask all judges, print the table."""
    parser = tables.arguments(
        __doc__,
        out="runs/evaluate_tiny_judge",
        biq2021=...,
        photos=...,
        count=20,
        rated=120,
        chains=8,
        show=25,
        temperature=TINY_SAMPLING.temperature,
        device="cpu",
    )
    parser.add_argument("--judges", nargs="+", required=True, help="folders")
    args = parser.parse_args()

    sampling = dataclasses.replace(TINY_SAMPLING, temperature=args.temperature)
    photos = find_images([args.photos])[: args.count]
    cases = [
        *rated_cases(args.biq2021, args.rated),
        *distorted_cases(photos, args.seed),
        *damaged_cases(photos, args.seed),
    ]
    columns: dict[str, Measures] = {}
    for folder in args.judges:
        name = Path(folder).parent.name if Path(folder).name == "judge" else Path(folder).name
        kept = args.out / f"{name}-answers.json"
        if not kept.is_file():
            vlm = LocalVLM.from_pretrained(folder, sampling=sampling, device=args.device)
            prompts = load_prompts(Path(folder) / PROMPTS_FILE)
            said = Asked(vlm, prompts, args.seed).answers(cases, args.chains, name)
            write_text_atomic(kept, to_json(said))
        answers = json.loads(kept.read_text(encoding="utf-8"))
        names = [Path(image).name if isinstance(image, Path) else "made" for _, image in cases]
        write_text_atomic(args.out / f"{name}-cases.md", whole_cases(answers, names, args.show))
        columns[name] = measure(answers, args.seed)
    tables.finish(args, show(columns), args.out / "table.json", tables=columns)


if __name__ == "__main__":
    main()
