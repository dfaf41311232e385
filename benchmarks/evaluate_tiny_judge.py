"""What judges trained by ``recipes.train_tiny_judge`` learnt, side by side in one table.

    python -m benchmarks.evaluate_tiny_judge --judges runs/tiny_judge/*/judge \
        --biq2021 BIQ2021 --photos PHOTOS [--count 41] [--rated 500] [--chains 4]

``BIQ2021`` is the dataset's folder (its test split is used), ``PHOTOS`` a folder of clean photos
the judges were not trained on. Judges whose folders differ in a last ``-SEED`` alone share a
column, mean ± standard deviation over the seeds. A judge's answers are kept under ``--out`` and not
asked for again. The judges are asked as ``load_scorer("tiny")`` is, at ``--temperature``; the
rationale entropy is of their own distribution, at temperature 1. Rows that begin with "expected"
are of the rating each would give at once, without words.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks import tables
from benchmarks.damaged_photos import centre_crop
from zoomiqa_core.assessment import Assessment, BBox, Chains
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT, distort
from zoomiqa_core.data.teacher.damage_facts import InvisibleDamageError, damage_photo
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap, mean_subset_srcc, plcc, srcc
from zoomiqa_core.images.sources import ImageSource, find_images, read_image, to_batch, to_pil
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import TINY_SAMPLING, LocalVLM, local_scorer
from zoomiqa_core.zoom_iqa.sampling import Sampling

SIDE = 308
"""Side of the crops of clean photos, as in training; whole visual tokens, so nothing is resized."""
TAILS = (0.4, 0.9)
"""BIQ2021's opinions (0–1) under and over which an image lies in a tail."""
AT_ONCE = 32
RATIONALES = 32
"""First rationales whose entropy is taken."""

Case = dict[str, Any]
"""What is known of an image (``kind``, ``target``, …), and an answer about it."""


def rated_cases(folder: Path, count: int) -> Iterator[tuple[Case, ImageSource]]:
    """BIQ2021's test split, evenly thinned to ``count``."""
    images = read_biq2021(folder, "test")
    for image in images[:: -(-len(images) // count)]:
        yield {"kind": "rated", "target": image.rating, "subset": image.subset}, image.path


def distorted_cases(photos: Sequence[Path], seed: int) -> Iterator[tuple[Case, ImageSource]]:
    """Every photo at every level of a type no judge has seen, each in turn; people's mean."""
    for index, photo in enumerate(photos):
        clean = centre_crop(to_batch(photo), SIDE, SIDE)
        name = HELD_OUT[index % len(HELD_OUT)]
        generator = torch.Generator().manual_seed(seed + index)
        for level, mos in enumerate(DISTORTIONS[name].mean_mos, start=1):
            image = distort(clean, name, level, generator=generator)[0]
            yield {"kind": "unseen", "target": mos, "type": name, "level": level}, image


def damaged_cases(photos: Sequence[Path], seed: int) -> Iterator[tuple[Case, ImageSource]]:
    """Every photo undamaged, damaged everywhere and damaged in one place, by seen types."""
    for index, photo in enumerate(photos):
        clean: Tensor = centre_crop(to_batch(photo), SIDE, SIDE)[0]
        generator = torch.Generator().manual_seed(seed + index)
        for kind in ("clean", "global", "local", "local"):
            try:
                made = damage_photo(clean, kind, generator=generator)
            except InvisibleDamageError:
                continue
            case = {"kind": kind, "target": made.facts.rating, "truth": made.region_truth}
            yield case, made.image


def answer_of(said: Assessment, at_once: Assessment) -> Case:
    """What the table needs of a judgement, and of one without words."""
    chains = said.chains or Chains()
    first = chains.rounds[0] if chains.rounds else None
    return {
        "valid": said.valid and not chains.errors,
        "rating": said.rating,
        "expected": at_once.rating,
        "ratings": chains.ratings,
        "zoom_share": chains.zoom_share,
        "first": first.rating if first else None,
        "last": chains.rounds[-1].rating if said.valid and chains.rounds else None,
        "bbox": first.bbox if first else None,
    }


def ask(judge: ZoomIQA, cases: Sequence[tuple[Case, ImageSource]], name: str) -> list[Case]:
    """The judge's answers, each with what is known."""
    answers = []
    for start in track(range(0, len(cases), AT_ONCE), name):
        part = cases[start : start + AT_ONCE]
        images = [read_image(image).pixels for _, image in part]
        said = zip(judge.assess(images), judge.assess(images, mode="expected"), strict=True)
        answers += [known | answer_of(*both) for (known, _), both in zip(part, said, strict=True)]
    return answers


def rationale_entropy(vlm: LocalVLM, judge: ZoomIQA, images: Sequence[ImageSource]) -> float:
    """Mean −log p of the tokens of first replies, nats: an estimate of their entropy.

    Args:
        vlm: draws from the model's whole distribution.
        judge: with the prompts.
        images: a reply each.
    """
    requests: list[Request] = []
    for seed, image in enumerate(images):
        question = judge.prompts.question(seed)
        request = Chain(to_pil(read_image(image).pixels), judge.prompts, question, seed).request
        assert request is not None  # of a new chain
        requests.append(request)
    log_probs = [p for reply in vlm.generate(requests) for p in reply.log_probs]
    return float(-np.mean(log_probs))


def measure(answers: Sequence[Case], seed: int) -> dict[str, Estimate | float]:
    """The column of one judge."""
    table: dict[str, Estimate | float] = {"valid": float(np.mean([a["valid"] for a in answers]))}
    usable = [a for a in answers if _finite(a["rating"]) and _finite(a["expected"])]
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for answer in usable:
        by_kind[answer["kind"]].append(answer)

    def add(name: str, statistic: Callable[..., float], *columns: Any) -> None:
        table[name] = bootstrap(statistic, *columns, resamples=300, seed=seed)

    def column(kind: str, key: str) -> np.ndarray:
        return np.array([a[key] for a in by_kind[kind]])

    rated = column("rated", "rating"), column("rated", "target")
    at_once, subset = column("rated", "expected"), column("rated", "subset")
    add("BIQ2021 mean of subsets SRCC", mean_subset_srcc, *rated, subset)
    add("BIQ2021 SRCC", srcc, *rated)
    add("BIQ2021 PLCC", plcc, *rated)
    add("expected: mean of subsets SRCC", mean_subset_srcc, at_once, rated[1], subset)
    add("expected: BIQ2021 SRCC", srcc, at_once, rated[1])
    mos = (rated[1] - 1) / 4
    tail = (mos < TAILS[0]) | (mos > TAILS[1])
    table["tail error"] = float(np.abs(rated[0] - rated[1])[tail].mean())
    for name, mean in (("rating entropy", _entropy), ("distinct ratings", _distinct)):
        table[name] = float(np.mean([mean(a["ratings"]) for a in by_kind["rated"]]))
    unseen = column("unseen", "target")
    add("unseen types SRCC", srcc, column("unseen", "rating"), unseen)
    add("expected: unseen types SRCC", srcc, column("unseen", "expected"), unseen)

    local = [a for a in by_kind["local"] if a["bbox"] and a["truth"]]
    add("box covers damage", np.mean, [_covers(a["bbox"], a["truth"][0]) for a in local])
    table["box by chance"] = float(np.mean([_chance(a["bbox"]) for a in local]))
    table["zoom rate local"] = float(column("local", "zoom_share").mean())
    easy = [a for a in by_kind["clean"] + by_kind["global"] if not 2.2 <= a["target"] < 4.2]
    table["zoom rate easy"] = float(np.mean([a["zoom_share"] for a in easy]))
    twice = [a for a in usable if a["bbox"] and a["last"] is not None]
    gain = [abs(a["first"] - a["target"]) - abs(a["last"] - a["target"]) for a in twice]
    add("round 2 error less by", np.mean, gain)
    return table


def _finite(rating: float | None) -> bool:
    return rating is not None and bool(np.isfinite(rating))


def _entropy(ratings: Sequence[float]) -> float:
    """Of the whole part of an image's ratings, nats."""
    shares = np.unique(np.round(ratings), return_counts=True)[1] / len(ratings)
    return float(-(shares * np.log(shares)).sum())


def _distinct(ratings: Sequence[float]) -> float:
    return len(set(ratings)) / len(ratings)


def _covers(box: BBox, truth: BBox) -> bool:
    x, y = (truth[0] + truth[2]) / 2, (truth[1] + truth[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _chance(box: BBox) -> float:
    """Chance that a box of this size, laid at random, covers a random point: its area."""
    return (box[2] - box[0]) * (box[3] - box[1])


def show(judges: dict[str, dict[str, Estimate | float]]) -> str:
    """Markdown: a column per group of judges, mean ± standard deviation over its seeds."""
    groups: dict[str, list[dict[str, Estimate | float]]] = defaultdict(list)
    for name, column in judges.items():
        groups[re.sub(r"-\d+$", "", name)].append(column)
    columns: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        joined = columns[f"{name} ({len(group)})"] = dict(group[0])
        for measure in joined if len(group) > 1 else ():
            values = [float(np.ravel(column[measure])[0]) for column in group]
            joined[measure] = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    return tables.side_by_side(columns)


def main() -> None:
    """Ask all judges, print the table."""
    parser = tables.arguments(
        __doc__,
        out="runs/evaluate_tiny_judge",
        biq2021=...,
        photos=...,
        count=41,
        rated=500,
        chains=4,
        temperature=TINY_SAMPLING.temperature,
        batch_size=64,
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
    columns: dict[str, dict[str, Estimate | float]] = {}
    for folder in args.judges:
        name = Path(folder).parent.name if Path(folder).name == "judge" else Path(folder).name
        kept = args.out / f"{name}-answers.json"
        if not kept.is_file():
            config = JudgeConfig(samples=args.chains, seed=args.seed)
            where: Any = {"device": args.device, "batch_size": args.batch_size}
            judge = local_scorer(folder, config=config, sampling=sampling, **where)
            free = Sampling(top_p=1, top_k=0, max_new_tokens=sampling.max_new_tokens)
            vlm = LocalVLM.from_pretrained(folder, sampling=free, **where)
            rated = [image for case, image in cases if case["kind"] == "rated"]
            entropy = rationale_entropy(vlm, judge, rated[:RATIONALES])
            said = {"rationale entropy": entropy, "answers": ask(judge, cases, name)}
            write_text_atomic(kept, to_json(said))
        said = json.loads(kept.read_text(encoding="utf-8"))
        entropy = said["rationale entropy"]
        columns[name] = measure(said["answers"], args.seed) | {"rationale entropy": entropy}
    tables.finish(args, show(columns), args.out / "table.json", tables=columns)


if __name__ == "__main__":
    main()
