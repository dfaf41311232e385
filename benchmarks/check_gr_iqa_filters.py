"""Do the filters of grounded rationales drop what they should? Precision and recall, planted.

    python -m benchmarks.check_gr_iqa_filters --photos PHOTOS [--count 120] [--model FOLDER]

``PHOTOS`` is a folder of clean photos. Each is damaged in a known way; half get the true rationale,
half a planted one, and what a filter drops is compared with what was planted.

HACF (measured hints, the rule-based checker), two plantings:

- *contradicting*: the rationale names a measurable flaw that the image does not have;
- *not looking*: the rationale of another image. It may be true by chance, which counts as a miss,
  and half the kinds of flaw (colour fringes, patches, squares …) no hint measures.

By default a sample is dropped when over a quarter of its sentences are refuted; *strict* drops it
for one.

VRF needs a model that continues rationales. With ``--model`` that one does, and the source that
does not look is the same model shown grey. Beside it, **continuations are simulated**: what the
filter makes of a source that looks and of one that does not. Without the image both sources
continue from words alone: the answer of one of the six other rationales whose words are most like
the prefix. With the image, the looking source gives its image's own answer with the drift of a
first rating and a shaken box, the blind one goes on from words alone. The entropy of a source that
goes by words is that of its six answers (tool, third of the frame, half rating); of one that looks,
0. That last is generous, so the table also has VRF without the entropy term.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.claims import HintChecker
from zoomiqa_core.data.gr_iqa.filters import (
    Continuation,
    ContinueRationale,
    RelianceConfig,
    check_consistency,
    measure_reliance,
)
from zoomiqa_core.data.gr_iqa.records import GRIQARecord, GRIQARound
from zoomiqa_core.data.gr_iqa.regions import region_name
from zoomiqa_core.data.teacher.damage_facts import DamageKind, InvisibleDamageError, damage_photo
from zoomiqa_core.data.teacher.facts import Facts, Flaw, first_rating
from zoomiqa_core.data.teacher.model import vlm_continuation
from zoomiqa_core.data.teacher.synthetic import write_rounds
from zoomiqa_core.images.sources import find_images, read_image, to_pil
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.scorer import load_scorer
from zoomiqa_core.zoom_iqa.judge import ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM

SIDE = 320
KINDS: tuple[DamageKind, ...] = ("global", "local", "both", "global", "local", "clean")
MEASURABLE = ("blur", "noise", "blocks", "dark", "bright", "flat", "fading")
"""Kinds of flaw that a hint can refute."""
NEIGHBOURS = 6
BOX_SHAKE = 0.04
"""Standard deviation of the looking source's box, shares of the frame."""


class Case(NamedTuple):
    """An image, its facts, and its true rationale."""

    image: Tensor
    facts: Facts
    record: GRIQARecord


def cases(folder: str, count: int, generator: torch.Generator) -> Iterator[Case]:
    """Damaged photos with their true rationales."""
    photos = find_images([folder])
    order = torch.randperm(len(photos), generator=generator).tolist()
    for number in track(range(count), "damaging"):
        photo = read_image(photos[order[number % len(order)]]).pixels[:, :SIDE, :SIDE]
        try:
            made = damage_photo(photo, KINDS[number % len(KINDS)], generator=generator)
        except InvisibleDamageError:
            continue
        rounds = write_rounds(made.facts, generator=generator)
        name = str(number)
        record = GRIQARecord(name, "How good?", rounds, made.facts.rating, name)
        yield Case(made.image, made.facts, record)


def contradicting(case: Case, generator: torch.Generator) -> GRIQARecord:
    """The case's rationale as if its flaws were others."""
    present = {flaw.kind for flaw in case.facts.flaws}
    options = [kind for kind in MEASURABLE if kind not in present]
    kind = options[int(torch.randint(len(options), (), generator=generator))]
    box = case.facts.flaws[0].bbox if case.facts.flaws else None
    rating = min(case.facts.rating, 3.0)
    facts = dataclasses.replace(case.facts, rating=rating, flaws=(Flaw(kind, rating, box),))
    return dataclasses.replace(case.record, rounds=write_rounds(facts, generator=generator))


class Tally(NamedTuple):
    """What a filter dropped of true and of planted rationales."""

    true: int
    true_dropped: int
    planted: int
    planted_dropped: int

    def row(self) -> dict[str, float]:
        """Precision and recall of dropping, and the share of true ones lost."""
        dropped = self.true_dropped + self.planted_dropped
        return {
            "true": self.true,
            "planted": self.planted,
            "precision": self.planted_dropped / dropped if dropped else math.nan,
            "recall": self.planted_dropped / self.planted,
            "true ones lost": self.true_dropped / self.true,
        }


def tally(dropped: Sequence[bool], planted: Sequence[bool]) -> Tally:
    """Count."""
    pairs = list(zip(dropped, planted, strict=True))
    return Tally(
        sum(not p for _, p in pairs),
        sum(d and not p for d, p in pairs),
        sum(p for _, p in pairs),
        sum(d and p for d, p in pairs),
    )


def consistency(
    known: Sequence[Case], plant: str, generator: torch.Generator, max_refuted_share: float = 0.25
) -> Tally:
    """HACF on cases of which every other one is planted."""
    checker, dropped = HintChecker(), []
    for place, case in enumerate(track(known, f"HACF, {plant}")):
        record = case.record
        if place % 2 and plant == "contradicting":
            record = contradicting(case, generator)
        elif place % 2:
            record = known[(place + len(known) // 2) % len(known)].record
        found = check_consistency(record, case.image, checker, max_refuted_share=max_refuted_share)
        dropped.append(found.record is None)
    return tally(dropped, [place % 2 == 1 for place in range(len(known))])


class WordSource:
    """Continues a rationale from its words alone: as the rationales most like it went on."""

    def __init__(self, pool: Sequence[GRIQARound], generator: torch.Generator) -> None:
        self.pool = [(look, set(look.summary.lower().split())) for look in pool]
        self.generator = generator

    def __call__(self, prefix: str, own: GRIQARound) -> Continuation:
        said = set(prefix.lower().partition(":")[2].split())
        ranked = sorted(
            (pair for pair in self.pool if pair[0] is not own),
            key=lambda pair: -len(said & pair[1]) / len(said | pair[1]),
        )[:NEIGHBOURS]
        looks = [look for look, _ in ranked]
        chosen = looks[int(torch.randint(len(looks), (), generator=self.generator))]
        answers = Counter(
            (look.tool, region_name(look.bbox), round(2 * look.rating)) for look in looks
        )
        shares = [count / len(looks) for count in answers.values()]
        entropy = -sum(share * math.log(share) for share in shares)
        return Continuation(chosen.rating, chosen.tool, chosen.bbox, entropy)


def looked(case: Case, generator: torch.Generator) -> Continuation:
    """The answer of a source that sees the image."""
    look = case.record.rounds[0]
    rating = first_rating(case.facts, generator) if look.bbox else look.rating
    return Continuation(rating, look.tool, look.bbox and shaken(look.bbox, generator), 0.0)


def shaken(box: BBox, generator: torch.Generator) -> BBox:
    """A box drawn near another."""
    x0, y0, x1, y1 = (torch.tensor(box) + BOX_SHAKE * torch.randn(4, generator=generator)).tolist()
    x0, y0 = max(0.0, min(x0, 0.95)), max(0.0, min(y0, 0.95))
    return x0, y0, min(1.0, max(x1, x0 + 0.05)), min(1.0, max(y1, y0 + 0.05))


def reliance(known: Sequence[Case], config: RelianceConfig, generator: torch.Generator) -> Tally:
    """VRF on cases of which every other one comes from a source that does not look."""
    words = WordSource([case.record.rounds[0] for case in known], generator)
    blank = Image.new("RGB", (SIDE, SIDE))
    dropped = []
    for place, case in enumerate(known):
        other = known[(place + len(known) // 2) % len(known)]
        written = other if place % 2 else case
        own = written.record.rounds[0]

        def continued(
            prefix: str,
            image: Image.Image | None,
            case: Case = case,
            own: GRIQARound = own,
            blind: bool = place % 2 == 1,
        ) -> Continuation:
            return words(prefix, own) if blind or image is None else looked(case, generator)

        found = measure_reliance(written.record, blank, continued, config)
        dropped.append(found is not None and found.score < config.threshold)
    return tally(dropped, [place % 2 == 1 for place in range(len(known))])


def model_reliance(
    known: Sequence[Case], judge: ZoomIQA, config: RelianceConfig, seed: int
) -> Tally:
    """VRF with a model on cases of which every other one is continued without its image.

    A case that the model continues with nothing usable is kept here; a build drops it too, but for
    that reason.
    """
    vlm = judge.backend
    if not isinstance(vlm, LocalVLM):
        raise ValueError("the model that continues rationales must be a folder or hub id")
    dropped = []
    for place, case in enumerate(track(known, "VRF")):
        image, blind = to_pil(case.image), place % 2 == 1
        source = vlm_continuation(
            vlm, judge.prompts, judge.prompts.question(place), image.size, seed=seed + 1000 * place
        )

        def continued(
            prefix: str,
            seen: Image.Image | None,
            source: ContinueRationale = source,
            blind: bool = blind,
        ) -> Continuation | None:
            return source(prefix, None if blind else seen)

        found = measure_reliance(case.record, image, continued, config)
        dropped.append(found is not None and found.score < config.threshold)
    return tally(dropped, [place % 2 == 1 for place in range(len(known))])


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="continues rationales: folder or hub id")
    parser.add_argument("--out", default="runs/check_gr_iqa_filters.json")
    known = parser.parse_args(arguments)
    generator = torch.Generator().manual_seed(known.seed)
    found = list(cases(known.photos, known.count, generator))
    full = RelianceConfig()
    wordless = dataclasses.replace(full, entropy_weight=0.0)
    table = {
        "HACF, contradicting": consistency(found, "contradicting", generator),
        "HACF, contradicting, strict": consistency(found, "contradicting", generator, 0.0),
        "HACF, not looking": consistency(found, "not looking", generator),
        "HACF, not looking, strict": consistency(found, "not looking", generator, 0.0),
        "VRF (simulated)": reliance(found, full, generator),
        "VRF without entropy (simulated)": reliance(found, wordless, generator),
    }
    if known.model:
        judge = cast(ZoomIQA, load_scorer(known.model))
        for name, config in (("VRF", full), ("VRF without entropy", wordless)):
            table[f"{name} ({known.model})"] = model_reliance(found, judge, config, known.seed)
    rows = {name: tallied.row() for name, tallied in table.items()}
    print("| filter, planting | true | planted | precision | recall | true ones lost |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        shares = " | ".join(f"{row[key]:.2f}" for key in ("precision", "recall", "true ones lost"))
        print(f"| {name} | {row['true']} | {row['planted']} | {shares} |")
    write_text_atomic(known.out, to_json({"seed": known.seed, "rows": rows}))


if __name__ == "__main__":
    main()
