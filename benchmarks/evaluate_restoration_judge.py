"""How the restoration judge orders restorations of held-out photos, and what fools it.

    python -m benchmarks.evaluate_restoration_judge --pool FAMILIES

``FAMILIES`` are families of photos that no judge was trained on, made by
:mod:`recipes.build_restorations`. The labels are what full-reference metrics say
(:mod:`zoomiqa_core.restoration.labels`), not people's votes. ``--unseen-weights`` names a judge
trained without some kinds (``held_out_kinds=[…]``), ``--unseen-kinds`` those kinds.
Intervals are 95 % over photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from torch import Tensor

from benchmarks.tables import arguments, finish, table
from benchmarks.timing import interleaved_seconds, threads
from restoration_guide.gate.calibration import conformal_threshold
from restoration_guide.gate.verdict import GateConfig
from restoration_guide.search.choice import ChoiceRule, choose
from restoration_guide.search.selection import Row
from zoomiqa_core.alarm.model import Alarm
from zoomiqa_core.data.damage.distortions.codec import jpeg
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.proxy.inference import for_inference
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.restoration.labels import mixture_rating
from zoomiqa_core.restoration.measured import greyscale, measure
from zoomiqa_core.restoration.model import RestorationJudge, difference_std
from zoomiqa_core.restoration.pool import Family, find_families, load_family

Rate = Callable[[Tensor, Tensor], Tensor]
"""(N, 3, H, W) candidates and (1, 3, H, W) input → (N,) ratings, differentiable."""


class Judged(NamedTuple):
    """A family with its labels and what each judge says."""

    family: Family
    label: np.ndarray
    ratings: dict[str, np.ndarray]
    std: np.ndarray
    gain: np.ndarray
    gain_std: np.ndarray


def interval(values: Sequence[float], seed: int = 0) -> str:
    """Mean with its 95 % bootstrap interval over photos."""
    found = np.asarray([v for v in values if np.isfinite(v)])
    if not len(found):
        return "–"
    draws = np.random.default_rng(seed).choice(found, (2000, len(found))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{found.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def headroom(judged: list[Judged], name: str, size: int, seed: int) -> str:
    """Share of the label's headroom over a random candidate that the pick of ``size`` gets."""
    rng = np.random.default_rng(seed)
    got, most = [], []
    for one in judged:
        allowed = [i for i, kind in enumerate(one.family.kinds) if kind != "clean"]
        gain, best = [], []
        for _ in range(20):
            few = rng.choice(allowed, min(size, len(allowed)), replace=False)
            label = one.label[few]
            gain.append(label[one.ratings[name][few].argmax()] - label.mean())
            best.append(label.max() - label.mean())
        got.append(np.mean(gain))
        most.append(np.mean(best))
    draws = rng.integers(len(got), size=(2000, len(got)))
    shares = np.asarray(got)[draws].sum(1) / np.asarray(most)[draws].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return f"{sum(got) / sum(most):.3f} [{low:.3f}, {high:.3f}]"


def pairs_with(judged: list[Judged], name: str, kinds: Sequence[str]) -> list[float]:
    """Per photo: share of pairs of a candidate of ``kinds`` with any other in the label's order."""
    found = []
    for one in judged:
        first = [i for i, kind in enumerate(one.family.kinds) if kind.split("-")[0] in kinds]
        right = [
            (one.ratings[name][i] > one.ratings[name][j]) == (one.label[i] > one.label[j])
            for i in first
            for j in range(len(one.label))
            if abs(one.label[i] - one.label[j]) > 0.1
        ]
        found.append(float(np.mean(right)) if right else np.nan)
    return found


def within(judged: list[Judged], name: str, among: Sequence[str] | None = None) -> list[float]:
    """Rank correlation with the label within each family."""
    found = []
    for one in judged:
        chosen = [
            i
            for i, kind in enumerate(one.family.kinds)
            if among is None or kind.split("-")[0] in among
        ]
        value = srcc(one.ratings[name][chosen], one.label[chosen]) if len(chosen) > 3 else np.nan
        found.append(float(value))
    return found


REAL = ("input", "builtin", "realesrgan", "realsr", "span", "spankendata", "clearreality",
        "animegan", "animevideo", "waifu2x", "tv", "nlm",
        "bilateral", "median", "guided", "wiener", "richardson_lucy", "unsharp")  # fmt: skip
"""Outputs of restorers and the input: no blends, no planted faults, not the clean photo."""


def checkerboard(image: Tensor, period: int, levels: float = 4.0) -> Tensor:
    """± ``levels``/255 in squares of half a period."""
    half = max(1, period // 2)
    rows, columns = (torch.arange(side) // half for side in image.shape[-2:])
    return (image + levels / 255 * (1 - 2 * ((rows[:, None] + columns) % 2))).clamp(0, 1)


def attacked(rate: Rate, image: Tensor, degraded: Tensor, steps: int = 8) -> float:
    """Rise of the rating by projected gradient ascent within 2/255 of the image."""
    limit, change = 2 / 255, torch.zeros_like(image)
    for _ in range(steps):
        change.requires_grad_(True)
        (slope,) = torch.autograd.grad(rate((image + change).clamp(0, 1), degraded).sum(), change)
        change = (change.detach() + 2.5 * limit / steps * slope.sign()).clamp(-limit, limit)
    with torch.no_grad():
        return float(rate((image + change).clamp(0, 1), degraded) - rate(image, degraded))


@torch.no_grad()
def judge_all(judge: RestorationJudge, rates: dict[str, Rate], families: list[Family]):
    """Labels and ratings of all candidates."""
    found = []
    for family in families:
        images, degraded = family.images.float() / 255, family.degraded[None].float() / 255
        _, distances = measure(judge, images, degraded[0], family.clean.float() / 255)
        out = judge(images, degraded)
        ratings = {name: rate(images, degraded).numpy() for name, rate in rates.items()}
        ratings["judge"] = out.rating.numpy()
        label = mixture_rating(distances).numpy()
        said = (out.rating_std.numpy(), out.gain.numpy(), out.gain_std.numpy())
        found.append(Judged(family, label, ratings, *said))
    return found


def gate_rates(judged: list[Judged], target: float, seed: int) -> list[list[object]]:
    """A gate calibrated on half of the photos and checked on the others, 1,000 divisions.

    A result is acceptable when its label is more than .1 above the input's.
    """
    rng = np.random.default_rng(seed)
    results = []
    for one in judged:
        kinds = np.array(one.family.kinds)
        shown = ~np.isin(kinds, ("clean", "input"))
        better = one.label > one.label[kinds == "input"][0] + 0.1
        bound = one.gain - GateConfig.confidence * one.gain_std
        results.append((bound[shown], better[shown]))
    accepts, rejects = [], []
    for _ in range(1000):
        order = rng.permutation(len(results))
        halves = (order[: len(order) // 2], order[len(order) // 2 :])
        (bound, good), (other, other_good) = (
            [np.concatenate(part) for part in zip(*(results[i] for i in half), strict=True)]
            for half in halves
        )
        passed = other >= conformal_threshold(bound[~good], target)
        accepts.append(passed[~other_good].mean())
        rejects.append((~passed[other_good]).mean())
    kept = np.mean([target - 0.02 <= rate <= target + 0.02 for rate in accepts])
    return [
        ["gate at 5 %: divisions that keep to 3–7 %", float(kept)],
        ["gate at 5 %: false accepts, mean", float(np.mean(accepts))],
        ["gate at 5 %: false rejects, mean", float(np.mean(rejects))],
    ]


def choices(judged: list[Judged], probabilities: Sequence[float]) -> str:
    """What the choice among the bundled restorer's candidates gains by ``min_probability``.

    Gains of the label over the input. An input is undamaged where it equals the clean photo.
    """
    rows = []
    for probability in probabilities:
        rule = ChoiceRule(min_probability=probability)
        gains, kept, undamaged_kept = [], [], []
        for one in judged:
            kinds = one.family.kinds
            source = kinds.index("input")
            rows_of = [Row("input", 3.0, 0.0)] + [
                Row(i, 3.0, 0.0, gain=float(one.gain[i]), gain_std=float(one.gain_std[i]))
                for i, kind in enumerate(kinds)
                if kind.startswith("builtin")
            ]
            index = choose(rows_of, rule).index
            if torch.equal(one.family.clean, one.family.degraded):
                undamaged_kept.append(index == "input")
                continue
            label = one.label - one.label[source]
            best = max(0.0, *(label[int(row.index)] for row in rows_of[1:]))
            mean = np.mean([label[int(row.index)] for row in rows_of[1:]])
            gains.append((0.0 if index == "input" else label[int(index)], mean, best))
            kept.append(index == "input")
        got, random, oracle = np.mean(gains, 0)
        share = (got - random) / (oracle - random)
        rows.append(
            [str(probability), got, random, oracle, share, np.mean(kept), np.mean(undamaged_kept)]
        )
    heads = ["probability", "gain", "random's", "oracle's", "share of headroom", "inputs kept"]
    return table([*heads, "undamaged kept"], rows)


@torch.no_grad()
def accepted_copies(judge: RestorationJudge, families: list[Family]) -> str:
    """JPEG copies of degraded inputs that the default gate takes for restorations.

    Compression removes noise, so some copies are nearer to the clean photo than their input is.
    """
    accepted = better = count = 0
    for family in families:
        degraded = family.degraded[None].float() / 255
        copies = torch.cat([jpeg(degraded, quality) for quality in (40, 60, 75)])
        out = judge(copies, degraded)
        passed = out.gain - GateConfig.confidence * out.gain_std > GateConfig.min_gain
        both = torch.cat([copies, degraded])
        _, distances = measure(judge, both, degraded[0], family.clean.float() / 255)
        label = mixture_rating(distances)
        accepted += int(passed.sum())
        better += int((passed & (label[:-1] > label[-1])).sum())
        count += len(copies)
    return f"{accepted} of {count}; {better} of them better than the input by the label"


@torch.no_grad()
def changes(rate: Rate, families: list[Family]) -> dict[str, list[float]]:
    """Change of the rating by artefacts on damaged inputs and by copies of clean photos."""
    found: dict[str, list[float]] = {}

    def note(name: str, changed: Tensor, base: Tensor, degraded: Tensor) -> None:
        both = rate(torch.cat([changed, base]), degraded)
        found.setdefault(name, []).append(float(both[0] - both[1]))

    for number, family in enumerate(families):
        degraded, clean = (x[None].float() / 255 for x in (family.degraded, family.clean))
        for period in (2, 4, 8):
            note(
                f"{period}-px grid of ±4 levels", checkerboard(degraded, period), degraded, degraded
            )
        grey = greyscale(family, torch.Generator().manual_seed(number))
        input_grey = grey.degraded[None].float() / 255
        note("chroma noise on greyscale", grey.images[-1:].float() / 255, input_grey, input_grey)
        clean_grey = grey.clean[None].float() / 255
        note("greyscale copy of the clean photo", clean_grey, clean, clean)
        note("JPEG q75 copy of the clean photo", jpeg(clean, 75), clean, clean)
        base, mirrored = rate(clean, degraded), rate(clean.flip(-1), degraded.flip(-1))
        found.setdefault("mirrored photo and input", []).append(float(mirrored - base))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = arguments(
        __doc__,
        out="runs/evaluate_restoration_judge.json",
        pool="",
        weights=None,
        unseen_weights=None,
        unseen_kinds="realesrgan,realsr,clearreality,tv",
        attacks=8,
    )
    options = parser.parse_args(argv)
    judge = RestorationJudge.from_pretrained(options.weights)
    proxy, alarm = QualityProxy.from_pretrained(), Alarm.from_pretrained()
    families = [load_family(Path(path)) for path in find_families(options.pool)]
    rates: dict[str, Rate] = {
        "judge without the input": lambda images, _: judge(images).rating,
        "proxy": lambda images, _: proxy(images).rating,
        "alarm": lambda images, _: alarm(images).rating,
    }
    if options.unseen_weights:
        unseen = RestorationJudge.from_pretrained(options.unseen_weights)
        rates["judge without those kinds"] = lambda images, x: unseen(images, x).rating
    judged = judge_all(judge, rates, families)
    kinds = options.unseen_kinds.split(",")
    names = ["judge", *rates]
    rows = [
        ["SRCC within photo, all candidates", *(interval(within(judged, n)) for n in names)],
        [
            "SRCC within photo, outputs of restorers only",
            *(interval(within(judged, n, REAL)) for n in names),
        ],
        *(
            [
                f"pairs with {kind} in order",
                *(interval(pairs_with(judged, n, [kind])) for n in names),
            ]
            for kind in kinds
        ),
        ["best of 12: share of headroom", *(headroom(judged, n, 12, options.seed) for n in names)],
    ]
    ordering = table(["measure", *names], rows)

    pair_error, pair_std = [], []
    for one in judged:
        i, j = np.triu_indices(len(one.label), 1)
        rating = one.ratings["judge"]
        pair_error.append(rating[i] - rating[j] - one.label[i] + one.label[j])
        gap, stds = torch.from_numpy(rating[i] - rating[j]), torch.from_numpy(one.std)
        pair_std.append(difference_std(gap, stds[i], stds[j]).numpy())
    error, std = np.abs(np.concatenate(pair_error)), np.concatenate(pair_std)

    rated: dict[str, Rate] = {
        "judge": lambda images, x: judge(images, x).rating,
        "proxy": lambda images, _: proxy(images).rating,
    }
    found = {name: changes(rate, families) for name, rate in rated.items()}
    for name, rate in rated.items():
        found[name]["PGD 2/255 from the degraded input"] = [
            attacked(rate, d, d)
            for d in (f.degraded[None].float() / 255 for f in families[: options.attacks])
        ]
    fooling = table(
        ["mean change of the rating", *found],
        [[row, *(interval(found[name][row]) for name in found)] for row in found["judge"]],
    )

    lite0 = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    image = torch.rand(1, 3, 512, 512)
    folded = for_inference(judge)
    with threads(1), torch.no_grad():
        seconds = interleaved_seconds(
            {
                "lite0": lambda: lite0(image),
                "proxy": lambda: proxy(image),
                "judge": lambda: folded(image, image * 0.9),
            },
            rounds=5,
        )
    base = np.array(seconds["lite0"])
    cost = table(
        ["other figures", "value"],
        [
            ["std of the difference: SRCC with its absolute error", float(srcc(std, error))],
            ["coverage of the 90 % interval", float((error <= 1.645 * std).mean())],
            *gate_rates(judged, 0.05, options.seed),
            [
                "JPEG copies of inputs, q40–q75, accepted by default",
                accepted_copies(judge, families),
            ],
            *(
                [f"512² forward, {n} / lite0", float(np.median(np.array(seconds[n]) / base))]
                for n in ("proxy", "judge")
            ),
            ["parameters, millions", sum(p.numel() for p in judge.parameters()) / 1e6],
            ["photos", len(families)],
        ],
    )
    choice = choices(judged, (0.5, 0.6, 0.75, 0.9))
    finish(options, "\n\n".join([ordering, choice, fooling, cost]))


if __name__ == "__main__":
    main()
