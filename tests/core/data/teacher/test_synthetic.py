"""The synthetic teacher: facts, words, damage whose truth is known, rated photos."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT, LEVELS, cell_rating
from zoomiqa_core.data.damage.local import CLEAN_RATING
from zoomiqa_core.data.gr_iqa.rationale import SECTIONS, reply_text
from zoomiqa_core.data.gr_iqa.regions import region_name
from zoomiqa_core.data.teacher.damage_facts import (
    InvisibleDamageError,
    cells,
    damage_photo,
    draw_cell,
    mask_box,
    written_box,
)
from zoomiqa_core.data.teacher.facts import Facts, Flaw, needs_closer_look
from zoomiqa_core.data.teacher.photo_facts import detailed_region, merits, photo_facts
from zoomiqa_core.data.teacher.synthetic import write_region, write_rounds
from zoomiqa_core.data.teacher.wording import (
    SEVERITIES,
    VERDICTS,
    WORDINGS,
    flaw_kind,
    flaw_words,
    other_adjectives,
    severity,
    verdict,
)

BOX = (0.1, 0.1, 0.4, 0.5)
BLUR = Flaw("blur", 1.8, BOX)
LOCAL = Facts(4.1, (BLUR,), BOX, blind=3.4, closer=(BLUR,))
MIDDLING = Facts(
    3.1, (Flaw("noise", 3.1),), (0.5, 0.5, 1.0, 1.0), blind=4.3, closer=(Flaw("blur", 3.1, BOX),)
)
SEVERE = Facts(1.4, (Flaw("blocks", 1.4),), BOX)
CLEAN = Facts(4.6, (), BOX, ("sharp", "well lit"))
BOTH = Facts(3.0, (BLUR, Flaw("dark", 4.2)), BOX, blind=3.0, closer=(BLUR, Flaw("dark", 4.2)))
ALL = (LOCAL, MIDDLING, SEVERE, CLEAN, BOTH)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(size: int = 96) -> torch.Tensor:
    """A colourful texture, (3, H, W), with its detail in the lower right."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    fine = torch.sin(60 * x * x) * torch.sin(50 * y * y)
    return torch.stack((0.5 + 0.4 * fine, 0.3 + 0.4 * x, 0.7 - 0.4 * y)).clamp(0, 1)


# --- words ---------------------------------------------------------------------------------------


def test_directions_hold_no_flaw_word() -> None:
    for kind, wording in WORDINGS.items():
        assert [flaw_words(ideal) for ideal in wording.ideals] == [[] for _ in wording.ideals], kind
        for name in wording.names:  # the list knows what it is to keep out
            assert flaw_words(name) or kind in ("bright", "dark", "flat", "harsh"), name
    assert flaw_words("No blur, without over-sharpening; crisp edges") == [
        "no",
        "blur",
        "without",
        "over-sharpening",
    ]


def test_every_trained_cell_has_a_kind_with_words() -> None:
    kinds = {flaw_kind(name, level) for name in DISTORTIONS for level in LEVELS}
    assert kinds | {"overall"} == set(WORDINGS)
    assert flaw_kind("mean_shift", 1) == "bright" and flaw_kind("mean_shift", 5) == "dark"
    assert flaw_kind("contrast_change", 1) == "harsh" and flaw_kind("contrast_change", 5) == "flat"
    assert flaw_kind("hsv_saturation", 4) == "fading" and flaw_kind("hsv_saturation", 5) == "hue"


def test_words_of_ratings() -> None:
    """The middle of a degree gets its own words; a border is crossed half of the time."""
    for middle, words in ((5.0, VERDICTS[0][1]), (3.0, VERDICTS[2][1]), (1.0, VERDICTS[4][1])):
        drawn = [verdict(middle, seeded(s)) for s in range(200)]
        assert set(words) <= set(drawn)
        assert sum(word in words for word in drawn) > 180  # the border is two deviations away
    border = [verdict(2.5, seeded(s)) in VERDICTS[2][1] for s in range(400)]
    assert 0.42 < sum(border) / 400 < 0.58
    assert {severity(1.0, seeded(s)) for s in range(20)} == {"severe", "extreme"}
    assert {severity(4.9, seeded(s)) for s in range(20)} == {"faint", "slight"}
    degrees = [word for scale in (VERDICTS, SEVERITIES) for _, words in scale for word in words]
    assert len(degrees) == len(set(degrees))  # so a word tells its degree
    assert set(other_adjectives("mild")) == {w for _, ws in SEVERITIES for w in ws} - {
        "mild",
        "light",
    }


# --- rounds --------------------------------------------------------------------------------------


def test_hard_cases_zoom_and_easy_ones_do_not() -> None:
    assert [needs_closer_look(facts) for facts in ALL] == [True, True, False, False, True]
    assert not needs_closer_look(dataclasses.replace(MIDDLING, look_at=None))


def test_the_words_of_a_second_round_follow_its_change() -> None:
    """From 4.3 to 3.1 the rating falls far, for the crop's flaw and not the first round's."""
    for seed in range(20):
        first, second = write_rounds(MIDDLING, generator=seeded(seed))
        assert "falls far" in second.decision and "worse than it seemed" in second.decision.lower()
        assert re.search("blur|focus", second.issues.lower())
        assert not re.search("noise|grain", second.issues.lower())
        assert re.search("some (noise|grain)", first.issues.lower())
    near = dataclasses.replace(MIDDLING, blind=3.2)
    assert "hardly moves" in write_rounds(near, generator=seeded())[1].decision


@pytest.mark.parametrize("facts", ALL)
@pytest.mark.parametrize("style", ["short", "long"])
def test_rounds_say_what_is_known(facts: Facts, style) -> None:  # type: ignore[no-untyped-def]
    texts = set()
    for seed in range(40):
        rounds = write_rounds(facts, generator=seeded(seed), style=style)
        assert len(rounds) == (2 if needs_closer_look(facts) else 1)
        assert rounds[-1].rating == facts.rating
        if len(rounds) == 2:
            assert rounds[0].bbox == facts.look_at
            assert region_name(facts.look_at) in rounds[0].decision
            assert rounds[0].rating == facts.blind  # what a thumbnail shows, not the truth
        for number, look in enumerate(rounds, start=1):
            assert not re.search(r"\d", " ".join(getattr(look, name) for name in SECTIONS))
            assert flaw_words(look.directions) == []
            flaws = facts.flaws if number == 1 else facts.closer
            assert bool(look.issues) == bool(flaws)
            for flaw in flaws:
                assert any(name in look.issues.lower() for name in WORDINGS[flaw.kind].names)
                assert region_name(flaw.bbox) in look.issues
                assert region_name(flaw.bbox) in look.directions.lower()
            assert look.directions[0].isupper() and look.summary[0].isupper()
            text = reply_text(look, number)
            assert len(text.split()) <= 110
            texts.add(text)
    assert len(texts) > 30


def test_writing_follows_its_generator() -> None:
    assert write_rounds(BOTH, generator=seeded(3)) == write_rounds(BOTH, generator=seeded(3))
    assert write_rounds(BOTH, generator=seeded(3)) != write_rounds(BOTH, generator=seeded(4))


def test_regions_are_rated_alone() -> None:
    region = write_region(BOX, 1.8234, LOCAL.flaws, generator=seeded())
    assert (region.bbox, region.reply.rating, region.reply.tool) == (BOX, 1.82, "final")
    assert any(name in region.reply.issues for name in WORDINGS["blur"].names)
    clean = write_region(BOX, 4.6, (), generator=seeded()).reply
    assert clean.issues == "" and re.search(
        r"excellent|superb|outstanding|good|fine|pleasing", clean.decision.lower()
    )


# --- damage --------------------------------------------------------------------------------------


def test_boxes_by_hand() -> None:
    mask = torch.zeros(1, 10, 20)
    mask[0, 2:5, 4:13] = 0.6
    mask[0, 9, 19] = 0.5  # not over one half
    assert mask_box(mask) == (0.2, 0.2, 0.65, 0.5)
    assert written_box((0.123, 0.2, 0.651, 1.0)) == (0.12, 0.2, 0.66, 1.0)


def test_cells_leave_out_what_is_held_out_or_has_no_name() -> None:
    trained = cells(1.0, 4.45)
    assert {name for name, _ in trained}.isdisjoint(HELD_OUT)
    assert ("contrast_change", 3) not in trained and ("gaussian_blur", 1) not in trained
    ratings = [cell_rating(*draw_cell(1.0, 4.45, seeded(s))) for s in range(300)]
    bins = torch.histc(torch.tensor(ratings), 4, min=1.0, max=5.0)
    assert float(bins.min()) > 0.08 * 300  # over the whole scale


def test_clean_photos_are_rated_as_changes_nobody_sees() -> None:
    made = damage_photo(photo(), "clean", generator=seeded())
    assert torch.equal(made.image, photo())
    assert made.facts.rating == CLEAN_RATING and made.facts.flaws == ()
    assert made.region_truth == () and made.provenance["damage"] == "clean"


def test_global_damage_is_rated_by_its_cell() -> None:
    made = damage_photo(photo(), "global", generator=seeded(1))
    name, level = made.provenance["global"]
    assert made.facts.rating == cell_rating(name, level)
    assert made.provenance["label"] == "KADID-10k means"
    assert made.facts.flaws == (Flaw(flaw_kind(name, level), cell_rating(name, level)),)
    assert made.region_truth == () and not torch.equal(made.image, photo())
    x0, y0, x1, y1 = (round(96 * share) for share in made.facts.look_at or ())
    change = (made.image - photo()).square().mean(0)
    assert change[y0:y1, x0:x1].mean() >= change.mean()  # the crop shows what is wrong


@pytest.mark.parametrize("kind", ["local", "both"])
def test_local_damage_knows_its_place_and_rating(kind) -> None:  # type: ignore[no-untyped-def]
    for seed in range(4):
        made = damage_photo(photo(), kind, generator=seeded(seed))
        (truth,) = made.region_truth
        box = made.facts.look_at
        assert box == written_box(truth) == made.facts.flaws[0].bbox
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert area < 0.55 and made.provenance["area"] >= 0.35 * area
        name, level = made.provenance["local"]
        # deficits add: (4.6 − global) and area × (4.6 − local), soft borders aside
        deficit = made.provenance["area"] * (CLEAN_RATING - cell_rating(name, level))
        if kind == "both":
            deficit += CLEAN_RATING - cell_rating(*made.provenance["global"])
            assert len(made.facts.flaws) == 2 and made.facts.flaws[1].bbox is None
        assert made.facts.rating == pytest.approx(CLEAN_RATING - deficit, abs=0.12)
        assert made.provenance["label"] == "area-weighted KADID-10k means"
        if kind == "local":
            inside = torch.zeros(1, 96, 96, dtype=torch.bool)
            x0, y0, x1, y1 = (round(96 * share) for share in truth)
            inside[:, y0:y1, x0:x1] = True
            change = (made.image - photo()).square().mean(0, keepdim=True)
            assert float(change[inside].mean()) > 20 * float(change[~inside].mean())
        (damaged, rating, flaws), *spared = made.regions
        assert damaged == box and flaws == made.facts.flaws
        assert rating < made.facts.rating + 1e-6
        for _, better, fewer in spared:
            assert better > made.facts.rating and fewer == made.facts.flaws[1:]


def test_damage_follows_its_generator() -> None:
    first, second = (damage_photo(photo(), "local", generator=seeded(2)) for _ in range(2))
    assert torch.equal(first.image, second.image) and first.facts == second.facts


def test_a_photo_without_structure_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "zoomiqa_core.data.teacher.damage_facts.SEEN", 2.0
    )  # nothing changes so much
    with pytest.raises(InvisibleDamageError, match="in 8 draws"):
        damage_photo(photo(32), "global", generator=seeded())


# --- rated photos --------------------------------------------------------------------------------


def test_photos_are_described_by_what_is_measured() -> None:
    dark = photo() * 0.15
    assert Flaw("dark", 1.9) in photo_facts(dark, 1.9).flaws
    assert photo_facts(dark, 4.5).flaws == ()  # people found nothing wrong with it
    stripes = (torch.arange(96) // 7 % 2).float().expand(3, 96, 96)
    facts = photo_facts(0.6 * photo() + 0.4 * stripes, 2.0)
    assert facts.flaws == (Flaw("overall", 2.0),)  # nothing extreme was measured
    grey = photo().mean(0, keepdim=True).expand(3, -1, -1)
    assert "fading" in {flaw.kind for flaw in photo_facts(grey, 3.0).flaws}
    assert all(
        flaw.rating >= 2.4 for flaw in photo_facts(photo() * 0.48, 1.5).flaws if flaw.kind == "dark"
    )


def test_the_region_with_most_detail() -> None:
    assert detailed_region(photo()) == (0.5, 0.5, 1.0, 1.0)
    assert detailed_region(photo().flip(-1, -2)) == (0.0, 0.0, 0.5, 0.5)


def test_merits_are_measured() -> None:
    assert "colourful" in merits(photo())
    assert "colourful" not in merits(photo().mean(0, keepdim=True).expand(3, -1, -1))
