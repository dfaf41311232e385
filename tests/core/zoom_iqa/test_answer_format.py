"""Judges of other protocols: what their replies mean, from a YAML file, on scripted replies."""

from __future__ import annotations

import pytest

from tests.core.judges import ScriptedBackend, picture
from zoomiqa_core.zoom_iqa.answer import AnswerError
from zoomiqa_core.zoom_iqa.answer_format import AnswerFormat
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.prompts import Prompts, PromptsError, load_prompts, save_prompts

NUMBER = """
first: "{question} Think in <think> tags, then give the score, 1 to 5, in <answer> tags."
questions: ["How good is this picture?"]
answer: {pattern: '<answer>\\s*([0-9.]+)\\s*</answer>'}
"""
JSON = """
first: "{question} Answer as JSON."
questions: ["How good is this picture?"]
answer: {pattern: '"rating":\\s*([0-9.]+)', lowest: 0, highest: 100}
"""
LEVELS = """
first: "{question}"
questions: ["Can you rate the quality of this picture?"]
answer:
  pattern: 'quality of the image is (\\w+)'
  levels: {excellent: 5, good: 4, fair: 3, poor: 2, bad: 1}
"""


def judge(text: str, tmp_path, reply) -> tuple[ZoomIQA, ScriptedBackend]:
    path = tmp_path / "prompts.yaml"
    path.write_text(text, encoding="utf-8")
    backend = ScriptedBackend(reply)
    return ZoomIQA(backend, load_prompts(path), JudgeConfig(retries=0)), backend


@pytest.mark.parametrize(
    ("text", "reply", "rating"),
    [
        (
            NUMBER,
            "<think>First <answer>1</answer>; no.</think><answer> 3.25 </answer>",
            3.25,
        ),
        (JSON, '<answer>{"rating": 75}</answer>', 4.0),
        (LEVELS, "The quality of the image is Poor.", 2.0),
    ],
)
def test_a_reply_is_read_and_a_region_is_an_image_of_its_own(tmp_path, text, reply, rating):
    scorer, backend = judge(text, tmp_path, lambda request: reply)
    said = scorer.assess(picture(96, 64))
    assert said.rating == pytest.approx(rating) and said.chains and len(said.chains.rounds) == 1
    (region,) = scorer.score_regions(picture(96, 64), [(0, 0, 0.5, 1)])
    assert region.rating == pytest.approx(rating)
    first, *_, last = backend.seen
    assert first.images[0].size == (96, 64) and len(last.images) == 1
    assert last.images[0].size != (96, 64) or last.images[0].tobytes() != first.images[0].tobytes()
    assert last.messages == first.messages


@pytest.mark.parametrize(
    ("text", "reply", "error"),
    [
        (NUMBER, "I cannot say.", "missing_answer"),
        (NUMBER, "<answer>9</answer>", "invalid_rating"),
        (NUMBER, "<answer>1.2.3</answer>", "invalid_rating"),
        (LEVELS, "The quality of the image is lovely.", "invalid_rating"),
    ],
)
def test_a_reply_without_a_rating_is_a_failure_with_a_name(tmp_path, text, reply, error):
    scorer, _ = judge(text, tmp_path, lambda request: reply)
    assert scorer.assess(picture()).error == error


def test_the_scale_may_be_turned_round():
    scale = AnswerFormat(r"distortion ([0-9]+)", lowest=10, highest=0)
    assert [scale.read(f"distortion {n}") for n in (0, 5, 10)] == [5.0, 3.0, 1.0]
    with pytest.raises(AnswerError, match="expected 0 to 10, got 11"):
        scale.read("distortion 11")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("{pattern: 'no group'}", "must have one group"),
        ("{pattern: '('}", "no regular expression"),
        ("{levels: {good: 4}}", "pattern is required"),
        ("{pattern: '(.)', lowest: 1, highest: 1}", "must differ"),
        ("{pattern: '(.)', scale: 5}", "answer has the keys pattern, lowest, highest, levels"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, answer, words):
    path = tmp_path / "prompts.yaml"
    path.write_text(f'first: "{{question}}"\nquestions: ["?"]\nanswer: {answer}', encoding="utf-8")
    with pytest.raises(PromptsError, match=words):
        load_prompts(path)


def test_prompts_are_saved_with_their_answer(tmp_path):
    scorer, _ = judge(LEVELS, tmp_path, lambda request: "")
    assert load_prompts(save_prompts(scorer.prompts, tmp_path)) == scorer.prompts


def test_the_expected_rating_is_of_zoom_iqa_alone(tmp_path):
    scorer, _ = judge(NUMBER, tmp_path, lambda request: "")
    with pytest.raises(ValueError, match='use mode="rounds"'):
        scorer.assess(picture(), mode="expected")
    assert Prompts("mine", "{question}", "next", ("?",)).answer is None
