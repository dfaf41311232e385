"""The rounds: chats, steps, failures, conclusions."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.zoom_iqa.answer import Answer
from zoomiqa_core.zoom_iqa.crop import crop_box
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.protocol import Crop, Final, conclude, messages, next_step, read_turn

SIZE = (640, 480)
THOUGHT = "Directions for Improvement: Crisp bark.\nIssues to Avoid: Blur on the bark.</think>"
BOX = (0.1, 0.2, 0.7, 0.8)
CROP = f'{THOUGHT}<answer>{{"bbox_2d": {list(BOX)}, "rating": 2.5, "tool": "crop"}}</answer>'
LOST = CROP.replace(str(list(BOX)), "[1, 2]")
FINAL = 'Sharp.</think><answer>{"bbox_2d": [0, 0, 0, 0], "rating": 3.5, "tool": "final"}</answer>'
BROKEN = "</think><answer>{oh</answer>"


def judge(*replies: str, max_rounds: int = 2) -> tuple[Assessment, list]:
    """Drive a chain that gives these replies; the steps it took."""
    rounds, steps = [], []
    for number, text in enumerate(replies, start=1):
        turn = read_turn(text, SIZE, number=number, max_rounds=max_rounds)
        rounds.append(turn.round)
        steps.append(turn.step)
        if isinstance(turn.step, Final):
            break
    return conclude(rounds, name="x.png"), steps


def test_the_first_chat_asks_the_question_about_one_image():
    (turn,) = messages(BUILTIN, "How good?")
    assert turn["role"] == "user"
    text, image = turn["content"]
    assert text == {"type": "text", "text": BUILTIN.first_text("How good?")}
    assert image == {"type": "image"}


def test_a_later_chat_holds_the_question_the_whole_reply_and_two_images():
    asked, replied, again = messages(BUILTIN, "How good?", previous=CROP)
    assert asked == {"role": "user", "content": [{"type": "text", "text": "How good?"}]}
    assert replied == {"role": "assistant", "content": [{"type": "text", "text": CROP}]}
    assert again == {
        "role": "user",
        "content": [
            {"type": "text", "text": BUILTIN.next},
            {"type": "text", "text": "Original image: "},
            {"type": "image"},
            {"type": "text", "text": "Cropped Image: "},
            {"type": "image"},
        ],
    }


def test_an_easy_image_is_final_at_once():
    assessment, steps = judge(FINAL)
    assert steps == [Final()]
    assert assessment.rating == 3.5 and assessment.score == 62.5 and assessment.valid
    assert assessment.chains.fallback is None and len(assessment.chains.rounds) == 1
    assert math.isnan(assessment.rating_std)


def test_a_hard_image_is_cropped_then_rated_again():
    assessment, steps = judge(CROP, FINAL)
    box = crop_box(BOX, *SIZE)
    assert steps == [Crop(box), Final()]
    first, second = assessment.chains.rounds
    assert (first.rating, first.tool, first.bbox) == (2.5, "crop", box.bbox)
    assert first.directions == ("Crisp bark.",) and first.issues == ("Blur on the bark.",)
    assert (second.rating, second.tool, second.bbox) == (3.5, "final", None)
    assert assessment.rating == 3.5 and assessment.directions == ()


def test_an_unusable_box_shows_the_centre_and_says_so():
    assessment, (step, _) = judge(LOST, FINAL)
    assert step.box.central_fallback and assessment.chains.rounds[0].central_fallback
    assert assessment.chains.rounds[0].bbox == (0.25, 0.25, 0.75, 0.75)


def test_a_failed_later_round_keeps_the_rating_and_says_so():
    assessment, _ = judge(CROP, BROKEN)
    assert assessment.valid and assessment.rating == 2.5 and assessment.chains.fallback == "round_1"
    assert assessment.directions == ("Crisp bark.",)
    failed = assessment.chains.rounds[1]
    assert failed.error == "malformed_json" and not failed.valid and math.isnan(failed.rating)
    record = json.loads(json.dumps(assessment.to_dict(), allow_nan=False))
    assert (
        record["chains"]["rounds"][1]["rating"] is None
        and record["chains"]["rounds"][0]["rating"] == 2.5
    )


def test_a_failed_first_round_is_a_failed_judgement():
    assessment, steps = judge(BROKEN)
    assert steps == [Final()]
    assert not assessment.valid and assessment.error == "malformed_json" and assessment.message
    assert math.isnan(assessment.rating) and math.isnan(assessment.score)
    assert assessment.name == "x.png" and assessment.chains.rounds[0].text == BROKEN


def test_the_last_round_never_crops_and_needs_only_a_rating():
    assert judge(CROP, CROP)[1] == [Crop(crop_box(BOX, *SIZE)), Final()]
    only = judge('<answer>{"rating": 4}</answer>', max_rounds=1)[0]
    assert only.valid and only.rating == 4 and only.chains.rounds[0].tool == "final"


@pytest.mark.parametrize("max_rounds", [1, 2, 3, 5])
def test_any_number_of_rounds(max_rounds):
    assessment, steps = judge(*[CROP] * max_rounds, max_rounds=max_rounds)
    assert [type(step) for step in steps] == [Crop] * (max_rounds - 1) + [Final]
    assert len(assessment.chains.rounds) == max_rounds


def test_the_fallback_names_the_round_it_fell_back_to():
    assessment, _ = judge(CROP, CROP.replace("2.5", "3.0"), BROKEN, max_rounds=3)
    assert assessment.chains.fallback == "round_2" and assessment.rating == 3.0


@pytest.mark.parametrize(("rating", "kept", "score"), [(7, 5.0, 100.0), (-1, 1.0, 0.0)])
def test_a_rating_off_the_scale_is_clipped_at_the_end(rating, kept, score):
    assessment, _ = judge(FINAL.replace("3.5", str(rating)))
    assert assessment.rating == kept and assessment.score == score
    assert assessment.chains.rounds[0].rating == rating


@pytest.mark.parametrize(("number", "max_rounds"), [(0, 2), (3, 2), (1, 0)])
def test_a_round_out_of_range_is_refused(number, max_rounds):
    with pytest.raises(ValueError, match=f"expected a round from 1 to {max_rounds}, got {number}"):
        next_step(Answer(3, "final"), SIZE, number=number, max_rounds=max_rounds)


def test_no_rounds_are_no_judgement():
    with pytest.raises(ValueError, match="got none"):
        conclude([])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([CROP, LOST, FINAL, BROKEN]), st.text()), min_size=1))
def test_whatever_is_replied_the_result_is_a_rating_or_an_error(replies):
    assessment, steps = judge(*replies, max_rounds=len(replies))
    assert assessment.valid == (1 <= assessment.rating <= 5) == (assessment.error is None)
    assert all(isinstance(step, Crop) for step in steps[:-1])
    json.dumps(assessment.to_dict(), allow_nan=False)


SPECIAL_TOKENS = (
    "<|im_end|> <|image_pad|> <image> </s> <IMG_CONTEXT> <start_of_turn> <image_soft_token> "
    "<fake_token_around_image> <end_of_utterance> [IMG] [/INST]"
)


@pytest.mark.parametrize("token", SPECIAL_TOKENS.split())
def test_a_special_token_of_no_family_passes_into_the_chat(token):
    question, reply = f"Sharp{token}?", f"I see {token}.</think>{CROP}"
    texts = [
        part.get("text", "")
        for chat in (messages(BUILTIN, question), messages(BUILTIN, question, reply))
        for turn in chat
        for part in turn["content"]
    ]
    assert not any(token in text for text in texts)
    assert any(f"I see  .</think>{CROP}" in text for text in texts)


def test_ordinary_words_and_the_tags_of_the_protocol_stay_in_the_chat():
    words = f"<think>1 < 2, a<b [1] | x > y </think>{CROP}"
    assert messages(BUILTIN, "?", words)[1]["content"][0]["text"] == words
