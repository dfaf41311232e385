"""The two filters: reliance by hand and by simulated sources; claims against measurements."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from PIL import Image

from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.data.gr_iqa.claims import CLAIMS, HintChecker, Verdict
from zoomiqa_core.data.gr_iqa.filters import (
    Continuation,
    RelianceConfig,
    check_consistency,
    difference,
    measure_reliance,
    partial_rationale,
)
from zoomiqa_core.data.gr_iqa.hints import Hints
from zoomiqa_core.data.gr_iqa.rationale import reply_text
from zoomiqa_core.data.gr_iqa.records import GRIQARecord, GRIQARound

BOX = (0.5, 0.5, 1.0, 1.0)
FIRST = GRIQARound(
    "A good photo with some noise in the lower right.",
    "Even tones in the lower right.",
    "Some noise in the lower right.",
    "About 3.70, but not sure; enlarge the lower right.",
    3.7,
    "crop",
    BOX,
)
LAST = GRIQARound(
    "The crop confirms heavy noise: smooth areas look rough.",
    "Even tones in the lower right.",
    "Heavy noise in the lower right.",
    "From 3.70 to 3.90: only this part is affected.",
    3.9,
    "final",
)
RECORD = GRIQARecord("x.png", "How good?", (FIRST, LAST), 3.9, "x")
PICTURE = Image.new("RGB", (64, 64))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def waves() -> torch.Tensor:
    """A calm picture of medium brightness, (3, 96, 96)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    return (0.5 + 0.2 * torch.sin(30 * x + 9 * y)).expand(3, -1, -1).clone()


def noisy(where: tuple[float, float, float, float]) -> torch.Tensor:
    """The picture with strong noise in one box."""
    image, x0, y0, x1, y1 = waves(), *(round(96 * share) for share in where)
    damaged = distort(image[None], "white_noise", 5, generator=seeded())[0]
    image[:, y0:y1, x0:x1] = damaged[:, y0:y1, x0:x1]
    return image


# --- reliance ------------------------------------------------------------------------------------


def test_difference_by_hand() -> None:
    a = Continuation(3.0, "crop", (0, 0, 0.5, 0.5), 0.5)
    b = Continuation(3.25, "crop", (0.25, 0.25, 0.75, 0.75), 0.9)
    # box 1 − 1/7, same tool, |−.25| / 1, |−.4| / 1; their mean
    assert difference(a, b) == pytest.approx((6 / 7, 0, 0.25, 0.4, (6 / 7 + 0.65) / 4))
    final = Continuation(5.0, "final", None, 0.5)
    assert difference(a, final) == pytest.approx((1, 1, 1, 0, 0.75))
    assert difference(final, final) == (0, 0, 0, 0, 0)
    assert difference(a, b) == difference(b, a)
    heavy = RelianceConfig(box_weight=0, tool_weight=0, entropy_weight=0, rating_scale=0.5)
    assert difference(a, b, heavy).score == pytest.approx(0.5)


def test_reliance_by_hand() -> None:
    # with the image 3.0 and 3.2, without 3.8 and 4.0: across (.8 + 1 + .6 + .8) / 4, within .2
    config = RelianceConfig(draws=2, box_weight=0, tool_weight=0, entropy_weight=0)
    seen, blind = iter([3.0, 3.2]), iter([3.8, 4.0])

    def source(prefix: str, image: Image.Image | None) -> Continuation:
        return Continuation(next(seen if image else blind), "final", None, 0.0)

    found = measure_reliance(RECORD, PICTURE, source, config)
    assert found is not None and found.score == pytest.approx(0.8 - 0.2)


def test_a_source_that_looks_is_told_from_one_that_does_not() -> None:
    generator, config = seeded(), RelianceConfig()

    def drawn(spread: float) -> Continuation:
        draw = torch.randn(3, generator=generator) * spread
        x, y = (float(value) for value in (0.25 + draw[:2] * 0.3).clamp(0, 0.5))
        tool = "crop" if draw[2] < spread else "final"
        box = (x, y, x + 0.5, y + 0.5) if tool == "crop" else None
        return Continuation(3 + float(draw[2]), tool, box, 0.2 + spread)

    def looks(prefix: str, image: Image.Image | None) -> Continuation:
        return drawn(0.05 if image else 0.8)

    def does_not(prefix: str, image: Image.Image | None) -> Continuation:
        return drawn(0.8)

    for source, relies in ((looks, True), (does_not, False)):
        scores = [measure_reliance(RECORD, PICTURE, source, config) for _ in range(20)]
        kept = sum(found is not None and found.score >= config.threshold for found in scores)
        assert kept == 20 if relies else kept <= 2


def test_the_prefix_is_the_beginning_of_the_reply() -> None:
    prefix = partial_rationale(FIRST, 0.5)
    assert prefix == "<think>\nImage Quality Summary: A good photo with some"
    assert reply_text(FIRST).startswith(prefix)
    assert partial_rationale(FIRST, 0.01).endswith("Summary: A")


def test_what_cannot_be_measured() -> None:
    answers = itertools.cycle([None, Continuation(float("nan"), "final", None, 0.0)])
    assert measure_reliance(RECORD, PICTURE, lambda prefix, image: next(answers)) is None
    bare = dataclasses.replace(RECORD, rounds=())
    with pytest.raises(ValueError, match=r"x.png has no rationale to begin with"):
        measure_reliance(bare, PICTURE, lambda prefix, image: None)
    with pytest.raises(ValueError, match="draws ≥ 2"):
        RelianceConfig(draws=1)
    with pytest.raises(ValueError, match="not all 0"):
        RelianceConfig(box_weight=0, tool_weight=0, rating_weight=0, entropy_weight=0)


# --- consistency ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "image", "claim"),
    [
        ("A dark photo.", waves() * 0.3 + 0.6, "'dark'"),
        ("A dark photo.", waves() * 0.3, ""),
        ("Some overexposure across the whole frame.", waves() * 0.3, "'bright'"),
        (
            "The photo is sharp.",
            distort(waves()[None], "gaussian_blur", 5, generator=seeded())[0],
            "'sharp'",
        ),
        ("Heavy grain in the lower right.", noisy(BOX), ""),
        ("Heavy grain in the upper left.", noisy(BOX), "'noisy'"),
        ("Some colour fringes and heavy grain in the upper left.", noisy(BOX), "'noisy'"),
        ("Heavy grain in the lower right and colour fringes at the top.", noisy(BOX), ""),
        ("Slight noise in the lower right.", noisy(BOX), "'mild noise'"),
        ("No noise in the lower right.", noisy(BOX), "'not noisy'"),
        ("No noise in the upper left.", noisy(BOX), ""),
        ("The whole frame is clean.", noisy((0, 0, 1, 1)), "'clean of noise'"),
        ("The rest looks clean.", noisy((0, 0, 1, 1)), ""),
        ("The photo is colourful.", waves(), "'colourful'"),
        ("A lovely cat on a chair.", waves(), ""),
    ],
)
def test_claims_against_measurements(sentence: str, image: torch.Tensor, claim: str) -> None:
    (verdict,) = HintChecker().check(image, [sentence])
    assert verdict.sentence == sentence
    assert verdict.refuted == bool(claim), verdict
    assert verdict.reason.startswith(claim)


def test_a_sentence_without_a_place_is_about_the_crop() -> None:
    said = ["The enlarged part shows heavy noise."]
    checker = HintChecker()
    for box, refuted in ((BOX, False), ((0.0, 0.0, 0.4, 0.4), True)):
        (verdict,) = checker.check(noisy(BOX), said, region=box, enlarged=True)
        assert verdict.refuted == refuted
    # a region that is called by its name is that region, not the quarter of that name
    small = (0.7, 0.7, 0.98, 0.98)
    (verdict,) = checker.check(noisy(small), ["Heavy noise in the lower right."], region=small)
    assert not verdict.refuted


def test_every_claim_has_a_hint_and_a_limit() -> None:
    for claim in CLAIMS:
        assert claim.hint in Hints.__dataclass_fields__
        assert claim.below is not None or claim.above is not None


def test_true_records_pass_and_false_ones_do_not() -> None:
    true = check_consistency(RECORD, noisy(BOX), HintChecker())
    assert true.record == RECORD and true.refuted == () and len(true.verdicts) == 6
    false = check_consistency(RECORD, waves(), HintChecker())
    assert false.record is None and len(false.refuted) >= 4


def test_a_single_contradicted_sentence_is_dropped() -> None:
    class Doubting:
        def check(self, image, sentences, *, region=None, enlarged=False):  # type: ignore[no-untyped-def]
            return [
                Verdict(text, text.startswith("Elsewhere"), "seen otherwise") for text in sentences
            ]

    summary = f"{FIRST.summary} Elsewhere all is dark."
    doubted = dataclasses.replace(
        RECORD, rounds=(dataclasses.replace(FIRST, summary=summary), LAST)
    )
    found = check_consistency(doubted, waves(), Doubting())
    assert found.record == RECORD
    assert [verdict.sentence for verdict in found.refuted] == ["Elsewhere all is dark."]
    strict = check_consistency(doubted, waves(), Doubting(), max_refuted_share=0.0)
    assert strict.record is None


def test_a_section_that_loses_all_it_says_ends_the_sample() -> None:
    class Denying:
        def check(self, image, sentences, *, region=None, enlarged=False):  # type: ignore[no-untyped-def]
            return [Verdict(text, text == LAST.issues) for text in sentences]

    assert check_consistency(RECORD, waves(), Denying(), max_refuted_share=1.0).record is None
