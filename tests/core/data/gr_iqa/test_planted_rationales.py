"""Do the filters of grounded rationales drop planted faults? Precision and recall.

Photos are damaged in a known way; half get the true rationale, half a planted one:

- *contradicting*: the rationale names a measurable flaw that the image does not have;
- *not looking*: the rationale of another image. It may be true by chance, which counts as a miss,
  and half the kinds of flaw (colour fringes, patches, squares …) no hint measures.

VRF compares continuations with and without the image. They are simulated here: without the image
a source continues from words alone, with the answer of one of the six other rationales whose words
are most like the prefix; with the image, the looking source gives its image's own answer with the
drift of a first rating and a shaken box. ``ZOOMIQA_TEST_PHOTOS`` names a folder of clean photos.
Figures on 240 pictures of CID22's validation part: docs/measurements/rationales.md.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.claims import HintChecker
from zoomiqa_core.data.gr_iqa.filters import (
    Continuation,
    RelianceConfig,
    check_consistency,
    measure_reliance,
)
from zoomiqa_core.data.gr_iqa.records import GRIQARecord, GRIQARound
from zoomiqa_core.data.gr_iqa.regions import region_name
from zoomiqa_core.data.teacher.damage_facts import DamageKind, InvisibleDamageError, damage_photo
from zoomiqa_core.data.teacher.facts import Facts, Flaw
from zoomiqa_core.data.teacher.synthetic import write_rounds
from zoomiqa_core.images.sources import find_images, read_image

SIDE = 320
KINDS: tuple[DamageKind, ...] = ("global", "local", "both", "global", "local", "clean")
MEASURABLE = ("blur", "noise", "blocks", "dark", "bright", "flat", "fading")
"""Kinds of flaw that a hint can refute."""
NEIGHBOURS = 6
RATING_DRIFT = 0.06
"""Standard deviation of the looking source's uncertain rating."""
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
    for number in range(count):
        photo = read_image(photos[order[number % len(order)]]).pixels[:, :SIDE, :SIDE]
        try:
            made = damage_photo(photo, KINDS[number % len(KINDS)], generator=generator)
        except InvisibleDamageError:
            continue
        facts = dataclasses.replace(made.facts, closer=made.facts.flaws)
        rounds = write_rounds(facts, generator=generator)
        name = str(number)
        record = GRIQARecord(name, "How good?", rounds, made.facts.rating, name)
        yield Case(made.image, facts, record)


def contradicting(case: Case, generator: torch.Generator) -> GRIQARecord:
    """The case's rationale as if its flaws were others."""
    present = {flaw.kind for flaw in case.facts.flaws}
    options = [kind for kind in MEASURABLE if kind not in present]
    kind = options[int(torch.randint(len(options), (), generator=generator))]
    box = case.facts.flaws[0].bbox if case.facts.flaws else None
    rating = min(case.facts.rating, 3.0)
    flaws = (Flaw(kind, rating, box),)
    facts = dataclasses.replace(case.facts, rating=rating, flaws=flaws, closer=flaws)
    return dataclasses.replace(case.record, rounds=write_rounds(facts, generator=generator))


class Tally(NamedTuple):
    """What a filter dropped of true and of planted rationales."""

    true: int
    true_dropped: int
    planted: int
    planted_dropped: int

    @property
    def recall(self) -> float:
        return self.planted_dropped / self.planted

    @property
    def lost(self) -> float:
        """Share of the true ones dropped."""
        return self.true_dropped / self.true


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
    for place, case in enumerate(known):
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
    drift = RATING_DRIFT * float(torch.randn((), generator=generator))
    rating = min(max(look.rating + drift, 1.0), 5.0) if look.bbox else look.rating
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


@pytest.fixture(scope="module")
def known() -> list[Case]:
    folder = os.environ.get("ZOOMIQA_TEST_PHOTOS")
    if folder is None:
        pytest.skip("set ZOOMIQA_TEST_PHOTOS to a folder of clean photos")
    return list(cases(folder, 240, torch.Generator().manual_seed(0)))


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "recall"), [("contradicting", 0.35), ("not looking", 0.15)])
def test_hints_refute_planted_flaws(known: list[Case], plant: str, recall: float) -> None:
    found = consistency(known, plant, torch.Generator().manual_seed(1))
    assert found.recall > recall and found.lost < 0.25, found
    assert found.recall > 1.5 * found.lost


@pytest.mark.slow
def test_reliance_tells_a_source_that_looks(known: list[Case]) -> None:
    found = reliance(known, RelianceConfig(), torch.Generator().manual_seed(1))
    assert found.recall > 0.9 and found.lost < 0.05, found
