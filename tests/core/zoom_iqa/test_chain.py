"""Chains of rounds, driven by hand; and what several say together."""

from __future__ import annotations

import math
import statistics

import pytest

from tests.core.judges import BROKEN, CROP, FINAL, GOOD, picture
from zoomiqa_core.zoom_iqa.answer import parse_answer
from zoomiqa_core.zoom_iqa.chain import Chain, combine_chains
from zoomiqa_core.zoom_iqa.crop import crop_box
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.protocol import messages, read_turn
from zoomiqa_core.zoom_iqa.regions import chosen_regions, region_score

IMAGE = picture()


def chain(*replies: str, **settings) -> Chain:
    """A chain that was given these replies, in order, and has nothing left to ask."""
    made = Chain(IMAGE, BUILTIN, "How good?", **settings)
    for text in replies:
        assert made.request is not None
        made.read(text, tokens=5)
    return made


def test_a_final_answer_ends_the_chain():
    made = chain(FINAL)
    assert made.done and made.request is None
    assert [look.rating for look in made.rounds] == [3.5]
    assert made.tokens == 5


def test_a_crop_shows_the_whole_and_the_region_next():
    made = chain(CROP)
    request = made.request
    assert request is not None
    whole, crop = request.images
    assert whole is IMAGE
    assert crop.size == crop_box((0.1, 0.2, 0.4, 0.9), *IMAGE.size).size
    assert request.messages == messages(BUILTIN, "How good?", CROP)
    made.read(GOOD)
    assert made.done and [look.rating for look in made.rounds] == [2.25, 4.75]


def test_more_rounds_can_be_allowed_and_one_round_never_zooms():
    assert [look.tool for look in chain(CROP, CROP, CROP, max_rounds=3).rounds] == [
        "crop",
        "crop",
        "final",
    ]
    assert chain(CROP, max_rounds=1).done


def test_an_unusable_reply_is_asked_for_again_with_another_seed():
    made = Chain(IMAGE, BUILTIN, "How good?", retries=2)
    seeds = []
    for text in (BROKEN, "nothing", FINAL):
        seeds.append(made.request.seed)
        made.read(text)
    assert made.done and made.retried == 2
    assert len(set(seeds)) == 3 and all(0 <= seed < 2**63 for seed in seeds)
    assert [look.rating for look in made.rounds] == [3.5]


def test_after_the_last_retry_the_round_has_failed_and_names_why():
    made = chain(BROKEN, BROKEN, retries=1)
    assert made.done and made.retried == 1
    assert [look.error for look in made.rounds] == ["malformed_json"]


def test_every_round_has_its_own_retries():
    made = chain(BROKEN, CROP, BROKEN, FINAL, retries=1)
    assert made.done and made.retried == 2
    assert [look.rating for look in made.rounds] == [2.25, 3.5]


def test_requests_depend_on_the_seed_alone():
    first, same, other = (Chain(IMAGE, BUILTIN, "?", seed=seed) for seed in (3, 3, 4))
    assert first.request.seed == same.request.seed != other.request.seed


def test_a_failure_of_whoever_replies_ends_the_chain():
    made = chain(CROP)
    made.fail("timeout", "no reply in 60 s")
    assert made.done and made.request is None
    said = combine_chains([made])
    assert (said.rating, said.chains.fallback, said.chains.rounds[1].error) == (
        2.25,
        "round_1",
        "timeout",
    )


def test_a_region_is_shown_as_it_is_and_asked_for_alone():
    first = read_turn("I think.</think>" + FINAL, IMAGE.size).round
    box = (0.5, 0.5, 0.8, 1.0)
    made = Chain.of_region(IMAGE, box, first, BUILTIN, "How good?", seed=1)
    request = made.request
    question, previous, instruction = request.messages
    assert question["content"][0]["text"] == "How good?"
    assert instruction["content"][0]["text"] == BUILTIN.region
    reply = previous["content"][0]["text"]
    assert reply.startswith("I think.</think>") and reply.count("<answer>") == 1
    assert parse_answer(reply).bbox == box and parse_answer(reply).rating == 3.5
    crop = request.images[1]
    # 28 × 32 pixels of 96 × 64 (fractions dropped), enlarged to the height of the image
    assert crop.size == (56, 64)
    made.read(CROP)  # the last round: the rating alone counts
    assert made.done and region_score(box, [made], chain(FINAL)).rating == 2.25


def test_one_chain_says_nothing_of_its_spread():
    said = combine_chains([chain(CROP, GOOD)], name="a.png", notes=("alpha",))
    assert said.valid and math.isnan(said.rating_std)
    assert (said.rating, said.chains.ratings, said.chains.zoom_share, said.chains.zoom_shift) == (
        4.75,
        (4.75,),
        1,
        2.5,
    )
    assert (said.name, said.notes, said.chains.tokens, said.chains.retries) == (
        "a.png",
        ("alpha",),
        10,
        0,
    )


def test_several_chains_by_hand():
    chains = [
        chain(FINAL),  # 3.5
        chain(CROP, GOOD),  # 2.25 → 4.75
        chain(CROP, BROKEN, BROKEN, retries=1),  # 2.25, round 2 lost
        chain(BROKEN, "", retries=1),  # no rating
    ]
    said = combine_chains(chains)
    assert said.chains.ratings == (3.5, 4.75, 2.25)
    assert said.rating == 3.5
    assert said.rating_std == pytest.approx(statistics.stdev([3.5, 4.75, 2.25]))  # 1.25
    assert said.chains.errors == ("missing_answer",)  # that of its last try
    assert said.chains.zoom_share == pytest.approx(2 / 3)
    assert (
        said.chains.zoom_shift == 2.5
    )  # the chain that lost round 2 did not look closer with success
    assert said.chains.retries == 2
    assert said.chains.rounds == tuple(chains[0].rounds) and said.chains.fallback is None


def test_the_order_of_chains_changes_nothing_but_the_order_of_ratings():
    chains = [chain(FINAL), chain(GOOD), chain(CROP, FINAL)]
    there, back = combine_chains(chains), combine_chains(chains[::-1])
    assert back.chains.ratings == there.chains.ratings[::-1]
    assert (back.rating, back.rating_std) == pytest.approx((there.rating, there.rating_std))


def test_when_no_chain_is_usable_the_judgement_failed():
    said = combine_chains([chain("", retries=0), chain(BROKEN, retries=0)], name="a.png")
    assert not said.valid and math.isnan(said.rating) and said.chains.ratings == ()
    assert (said.error, said.chains.errors) == (
        "missing_answer",
        ("missing_answer", "malformed_json"),
    )
    assert said.name == "a.png"


def test_ratings_off_the_scale_are_clipped_before_they_are_averaged():
    off = [FINAL.replace("3.50", value) for value in ("9", "-3")]
    assert combine_chains([chain(text) for text in off]).chains.ratings == (5.0, 1.0)


def test_regions_the_chains_chose_come_once_each():
    other = CROP.replace("0.9", "0.8")
    chains = [chain(CROP, FINAL), chain(FINAL), chain(other, FINAL), chain(CROP, FINAL)]
    boxes = chosen_regions(chains)
    assert len(boxes) == 2 and boxes[0] == chains[0].rounds[0].bbox


def test_no_rounds_or_negative_retries_are_refused():
    with pytest.raises(ValueError, match="max_rounds ≥ 1"):
        Chain(IMAGE, BUILTIN, "?", max_rounds=0)
    with pytest.raises(ValueError, match="retries ≥ 0"):
        Chain(IMAGE, BUILTIN, "?", retries=-1)
