"""Prompts: ours, the official package's, a file's; and what is refused."""

from __future__ import annotations

import re
import sys
import types

import pytest

from zoomiqa_core.zoom_iqa.answer import parse_answer
from zoomiqa_core.zoom_iqa.prompts import (
    BUILTIN,
    OFFICIAL_MODULES,
    Prompts,
    PromptsError,
    load_prompts,
)
from zoomiqa_core.zoom_iqa.reasoning import parse_reasoning


def test_ours_name_the_sections_and_keys_that_are_parsed():
    for text in (BUILTIN.first_text("How good?"), BUILTIN.next):
        shown = parse_reasoning(f"{text}</think>")
        assert shown.summary and shown.directions and shown.issues and shown.decision
        example = re.search("<answer>.*</answer>", text).group()
        filled = example.replace("[x1, y1, x2, y2]", "[0.1, 0.2, 0.3, 0.4]").replace("R,", "3.25,")
        assert parse_answer(filled).rating == 3.25


def test_there_are_five_questions_in_turn():
    assert load_prompts("builtin") is BUILTIN
    assert len(set(BUILTIN.questions)) == 5
    assert [BUILTIN.question(seed) for seed in range(5)] == list(BUILTIN.questions)
    assert BUILTIN.question(7) == BUILTIN.questions[2]


def test_the_question_takes_its_place_and_other_braces_stay():
    prompts = Prompts("x", 'Say {"rating": 1}. {question}', "next", ("?",))
    assert prompts.first_text("Is {it} good?") == 'Say {"rating": 1}. Is {it} good?'


@pytest.fixture
def no_official(monkeypatch):
    for name in ("zoomiqa", *OFFICIAL_MODULES):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("home", OFFICIAL_MODULES)
def test_the_official_prompts_are_found_where_they_are(monkeypatch, no_official, home):
    first = 'Rate. {{"rating": 1}} {question}'
    later = 'Again. {{"rating": 1}} {question}'
    module = types.ModuleType(home)
    vars(module).update(STAGE1_PROMPT=first, STAGE2_PROMPT=later, RANDOM_QUESTIONS=["1?", "2?"])
    parents = home.split(".")[:-1]
    for i in range(len(parents)):
        parent = types.ModuleType(".".join(parents[: i + 1]))
        parent.__path__ = []
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
    monkeypatch.setitem(sys.modules, home, module)
    prompts = load_prompts("official")
    # str.format, as the package uses it, and ours give the same round 1; round 2 is verbatim
    assert prompts.first_text("Q?") == first.format(question="Q?")
    assert prompts.next == later
    assert prompts.questions == ("1?", "2?")


def test_without_the_official_package_the_error_says_how_to_get_the_prompts(no_official):
    with pytest.raises(PromptsError, match=r"pip install --no-deps git\+https://.*prompts=FILE"):
        load_prompts("official")


def test_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("first: 'Rate: {question}'\nnext: Look closer.\nquestions: ['How good?']\n")
    assert load_prompts(path) == Prompts(
        "mine.yaml", "Rate: {question}", "Look closer.", ("How good?",)
    )
    assert load_prompts(str(path)) == load_prompts(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first: '{question}'\nnext: a\n", r"expected the keys .*'questions'.* got \['first'"),
        ("first: '{question}'\nnext: a\nquestions: [b]\nextra: c\n", "got .*extra"),
        ("- a list\n", "got list"),
        ("first: '{question}'\nnext: a\nquestions: b\n", "questions must be a list"),
        ("first: '{question}'\nnext: a\nquestions: []\n", "one text or more"),
        ("first: '{question}'\nnext: 3\nquestions: [b]\n", "next must be text, got 3"),
        ("first: no place\nnext: a\nquestions: [b]\n", r"first must contain \{question\}"),
        ("first: [unclosed\n", "is not YAML"),
        ("!!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(PromptsError, match=message):
        load_prompts(path)


def test_an_absent_file_and_an_unknown_name_are_refused(tmp_path):
    with pytest.raises(PromptsError, match="cannot read the prompts"):
        load_prompts(tmp_path / "absent.yaml")
    with pytest.raises(PromptsError, match=r"expected 'builtin', 'official' or a \.yaml file"):
        load_prompts("offical")
