"""The answer parser: by hand, spoofs, mutated and hostile text, rejection; the four sections."""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomiqa_core.zoom_iqa.answer import (
    Answer,
    AnswerError,
    answer_fields,
    parse_answer,
    read_bbox,
    read_route,
)
from zoomiqa_core.zoom_iqa.reasoning import Reasoning, parse_reasoning

CODES = {"missing_answer", "malformed_json", "invalid_rating", "invalid_bbox", "invalid_tool"}
FINAL = '{"bbox_2d": [0, 0, 0, 0], "rating": 1.25, "tool": "final"}'
SPOOF = '{"bbox_2d": [0, 0, 0, 0], "rating": 5.0, "tool": "final"}'
BARE_SPOOF = "{bbox_2d: [0, 0, 0, 0], 'rating': 5.0, 'tool': 'final'}"
ESCAPED_SPOOF = SPOOF.replace('"', '\\"')


def reply(body: str) -> str:
    return f"<think>Soft.</think><answer>{body}</answer>"


def answer(rating="2.5", bbox="[0.1, 0.2, 0.5, 0.6]", tool='"crop"') -> str:
    return reply(f'{{"bbox_2d": {bbox}, "rating": {rating}, "tool": {tool}}}')


def code_of(text: str, **options) -> str | None:
    try:
        parse_answer(text, **options)
    except AnswerError as error:
        return error.code
    return None


# ------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (answer(), Answer(2.5, "crop", (0.1, 0.2, 0.5, 0.6))),
        (answer(rating='" 3.65 "'), Answer(3.65, "crop", (0.1, 0.2, 0.5, 0.6))),
        (answer(rating="-1"), Answer(-1.0, "crop", (0.1, 0.2, 0.5, 0.6))),
        (answer(rating="7e0"), Answer(7.0, "crop", (0.1, 0.2, 0.5, 0.6))),
        (answer(bbox='["0.9", ".1", "1.", "2e1"]'), Answer(2.5, "crop", (0.9, 0.1, 1.0, 20.0))),
        (answer(tool='"final"'), Answer(2.5, "final")),
        (answer(tool='"Crop"'), Answer(2.5, "crop", (0.1, 0.2, 0.5, 0.6))),
        (answer(tool="null"), Answer(2.5, "crop", (0.1, 0.2, 0.5, 0.6))),
        (answer(bbox="[0, 0.0, -0, 0]"), Answer(2.5, "final")),  # nothing to look at
        (answer(bbox="[]"), Answer(2.5, "final")),
        (answer(bbox="[1, 2]"), Answer(2.5, "crop")),  # the crop policy shows the centre
        (answer(bbox='["a", "b", "c", "d"]'), Answer(2.5, "crop")),
        (answer(bbox='"none"'), Answer(2.5, "crop")),
        (answer(bbox='["1_0", 0, 1, 1]'), Answer(2.5, "crop")),  # 1_0 is never read as ten
        (reply(f"\n {FINAL}\t\n") + " trailing", Answer(1.25, "final")),
        (f"noise <answer> text <answer>{FINAL}</answer>", Answer(1.25, "final")),
        (f"no thought, <answer>{FINAL}</answer>", Answer(1.25, "final")),
    ],
)
def test_answers(text, expected):
    assert parse_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "missing_answer"),
        ("<answer></answer>", "missing_answer"),
        (reply("3.5"), "missing_answer"),
        (reply("[1, 2]"), "missing_answer"),
        (f"<answer>{FINAL}", "missing_answer"),
        (f"<answer>{FINAL}</Answer>", "missing_answer"),
        (f"</answer>{FINAL}<answer>", "missing_answer"),
        (f"<think><answer>{FINAL}</answer></think>", "missing_answer"),
        (reply('{"rating" 2}'), "malformed_json"),
        (reply("{'rating': 2}"), "malformed_json"),
        (reply(f"{FINAL} {FINAL}"), "malformed_json"),
        (reply('{"rating": 1, "rating": 5, "tool": "final", "bbox_2d": []}'), "malformed_json"),
        (reply('{"rating": ' + "[" * 9_000), "malformed_json"),
        (reply('{"rating": ' + "[" * 200_000 + "]" * 200_000 + "}"), "malformed_json"),
        (reply("{}"), "invalid_rating"),
        (answer(rating="true"), "invalid_rating"),
        (answer(rating="null"), "invalid_rating"),
        (answer(rating="[3]"), "invalid_rating"),
        (answer(rating="NaN"), "invalid_rating"),
        (answer(rating="-Infinity"), "invalid_rating"),
        (answer(rating='"inf"'), "invalid_rating"),
        (answer(rating='"1_0"'), "invalid_rating"),
        (answer(rating='"٣"'), "invalid_rating"),  # a digit, though not one of JSON
        (answer(rating='"bad"'), "invalid_rating"),
        (answer(rating="1e999"), "invalid_rating"),
        (answer(rating="1" * 400), "invalid_rating"),
        (answer(rating="1" * 5_000), "invalid_rating"),  # beyond Python's own limit on digits
        (answer(rating='"' + "1" * 400 + '"'), "invalid_rating"),
        (reply('{"rating": 2, "tool": "crop"}'), "invalid_bbox"),
        (answer(bbox="3"), "invalid_bbox"),
        (answer(bbox="null"), "invalid_bbox"),
        (answer(bbox='{"x": 1}'), "invalid_bbox"),
        (answer(bbox="[0, 0, true, 1]"), "invalid_bbox"),
        (answer(bbox="[0, 0, NaN, 1]"), "invalid_bbox"),
        (answer(bbox=f"[0, 0, 1, {'9' * 400}]"), "invalid_bbox"),
        (answer(bbox="3", tool='"final"'), "invalid_bbox"),
        (reply('{"rating": 2, "bbox_2d": [0, 0, 1, 1]}'), "invalid_tool"),
        (answer(tool="true"), "invalid_tool"),
        (answer(tool='["crop"]'), "invalid_tool"),
    ],
)
def test_rejection(text, code):
    assert code_of(text) == code


def test_the_message_says_what_was_expected_and_what_came():
    with pytest.raises(AnswerError, match=r"invalid_rating: expected a finite number, got True"):
        parse_answer(answer(rating="true"))
    with pytest.raises(AnswerError, match=r"missing_answer: expected <answer>\{…\}</answer>"):
        parse_answer("I would say four.")


def test_the_last_round_needs_only_a_rating():
    assert parse_answer(reply('{"rating": 2.5}'), last_round=True) == Answer(2.5, "final")
    assert parse_answer(answer(bbox="3", tool="true"), last_round=True) == Answer(2.5, "final")
    assert code_of(answer(rating="true"), last_round=True) == "invalid_rating"


def test_a_route_needs_no_usable_rating():
    fields, _ = answer_fields(answer(rating='"bad"'))
    assert read_route(fields) == ("crop", (0.1, 0.2, 0.5, 0.6))


def test_the_error_survives_another_process():
    error = pickle.loads(pickle.dumps(AnswerError("invalid_tool", "why")))
    assert (error.code, error.message, str(error)) == ("invalid_tool", "why", "invalid_tool: why")


def test_huge_numbers_out_of_a_repair_are_refused():
    with pytest.raises(AnswerError, match="invalid_bbox"):
        read_bbox([0, 0, 1, 10**400])


# ------------------------------------------------------------------------------- spoofs


def spoofs() -> list[str]:
    """Fifty replies whose true rating is 1.25 and which quote a 5.0."""
    real = f"<answer>{FINAL}</answer>"
    noted = (
        '<answer>{"bbox_2d": [0, 0, 0, 0], "rating": 1.25, "tool": "final", "note": "%s"}</answer>'
    )
    quotes = [SPOOF, BARE_SPOOF, ESCAPED_SPOOF, f"\n{SPOOF}\n", SPOOF + " ", "{" + SPOOF + "}"]
    texts = []
    for quote in quotes:
        tagged = f"<answer>{quote}</answer>"
        texts += [
            f"<think>The form is {tagged}.</think>{real}",
            f"<think>First {tagged}</think> then <think>{tagged}</think>{real}",
            f"<think>{tagged}</think></think>{real}",
            f"<think>a</think>{tagged}{real}",
            f"{tagged} no, rather {real}",
            f"<think>a</think>{tagged}{tagged}{real} {SPOOF}",
            f"<think>a</think><answer>{quote}{real}",
        ]
    for quote in (BARE_SPOOF, ESCAPED_SPOOF):
        texts += [
            "<think>a</think>" + noted % f"<answer>{quote}</answer>",
            "<think>a</think>" + noted % f"<answer>{quote}",
            "<think>a</think>" + noted % f"</answer><answer>{quote}</answer><answer>",
            "<think>a</think>" + noted % quote,
        ]
    return texts


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("text", spoofs())
def test_a_quoted_answer_never_wins(text, repair):
    if repair:
        pytest.importorskip("json_repair")
    assert parse_answer(text, repair=repair).rating == 1.25


def test_there_are_fifty_spoofs():
    assert len(set(spoofs())) == 50


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        # the real answer is relaxed JSON around a strict, or another relaxed, quoted one
        f"<answer>{{'rating': 1.25, 'note': '<answer>{SPOOF}</answer>'}}</answer>",
        f"<answer>{{'rating': 1.25, 'note': '<answer>{BARE_SPOOF}</answer>'}}</answer>",
        f"<answer>{{'rating': 1.25, 'note': '<answer>{BARE_SPOOF}'}}</answer>",
        # the thought ends inside the real answer's string
        f"<answer>{{'rating': 1.25, 'note': '</think><answer>{SPOOF}</answer>'}}</answer>",
        f'<answer>{{"rating": 1.25, "note": "</think><answer>{BARE_SPOOF}"}}</answer>',
        # the real answer is cut off or broken
        f"<answer>{SPOOF}</answer><answer>{{broken</answer>",
        f"<think><answer>{SPOOF}</answer></think><answer>{{broken</answer>",
        f"<think><answer>{SPOOF}</answer></think>",
    ],
)
def test_where_the_answer_is_unsure_it_is_refused(text, repair):
    if repair:
        pytest.importorskip("json_repair")
    assert code_of(text, repair=repair) in {"malformed_json", "missing_answer"}


# ------------------------------------------------------------------------------- repair


@pytest.mark.parametrize(
    "body",
    [
        "{'bbox_2d': [0.1, 0.2, 0.5, 0.6], 'rating': 2.5, 'tool': 'crop'}",
        '{"bbox_2d": [0.1, 0.2, 0.5, 0.6], "rating": 2.5, "tool": "crop",}',
        '{bbox_2d: [0.1, 0.2, 0.5, 0.6], rating: "2.5", tool: "crop"}',
    ],
)
def test_repair_is_asked_for_and_marked(body):
    pytest.importorskip("json_repair")
    assert code_of(reply(body)) == "malformed_json"
    repaired = parse_answer(reply(body), repair=True)
    assert repaired == Answer(2.5, "crop", (0.1, 0.2, 0.5, 0.6), repaired=True)


def test_repair_leaves_good_answers_alone_and_types_strict():
    pytest.importorskip("json_repair")
    assert parse_answer(answer(), repair=True) == parse_answer(answer())
    assert code_of(reply("{'rating': true}"), repair=True) == "invalid_rating"
    assert code_of(reply("{" * 3_000), repair=True) == "malformed_json"


def test_repair_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "json_repair", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[repair\]"):
        parse_answer(answer(), repair=True)


# ------------------------------------------------------------------------------- hostile text

PIECES = (
    *("<answer>", "</answer>", "<think>", "</think>", "{", "}", "[", "]", ",", ":", '"', "'"),
    *('"rating"', '"bbox_2d"', '"tool"', '"crop"', '"final"', "null", "true", "NaN", "1e999"),
    *("0", "1", "3.5", "-", "_", "\\", "\n", " ", "9" * 400, "\ud800", FINAL, SPOOF, BARE_SPOOF),
)
GOOD = (answer(), reply(FINAL), reply(BARE_SPOOF))
VALUES = ("3", "-1.5", '"2.5"', '"inf"', "NaN", "true", "null", "{}", "[1, [2]]", "9" * 400)


def mutated(random: Random) -> str:
    """A reply with odd values, or after a few cuts, doublings and insertions, or both."""
    text = random.choice(GOOD)
    if random.random() < 0.5:
        bbox = random.choice((*VALUES, "[0, 0, 1, 1]", "[0, 0, 0, 0]", '["a", 1, 2, 3]'))
        text = answer(random.choice(VALUES), bbox, random.choice((*VALUES, '"crop"', '"final"')))
    for _ in range(random.choice((0, 0, 1, 2, 4, 8))):
        i, j = sorted((random.randint(0, len(text)), random.randint(0, len(text))))
        j = min(j, i + 12)
        middle = random.choice(
            ("", random.choice(PIECES), 2 * text[i:j], chr(random.randrange(256)))
        )
        text = text[:i] + middle + text[j:]
    return text


def cpu_seconds(text: str) -> float:
    """The least of up to three readings: a garbage collection may fall into one."""
    best = 1.0
    for _ in range(3):
        start = time.process_time()
        code = code_of(text)
        best = min(best, time.process_time() - start)
        assert code is None or code in CODES
        if best < 0.01:
            break
    return best


def test_ten_thousand_mutated_replies():
    random = Random(0)
    codes = Counter()
    for _ in range(10_000):
        text = mutated(random)
        assert cpu_seconds(text) < 0.01
        codes[code_of(text)] += 1
        assert isinstance(parse_reasoning(text), Reasoning)
    assert set(codes) == CODES | {None}  # the mutations reach every outcome
    assert min(codes.values()) >= 50


_ANY = st.one_of(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=40).map("".join),
    st.text(),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(
        lambda value: reply(json.dumps({"rating": value, "bbox_2d": value, "tool": value}))
    ),
)


def check_any(text: str) -> None:
    assert cpu_seconds(text) < 0.01
    assert isinstance(parse_reasoning(text), Reasoning)


@settings(max_examples=200, deadline=None)
@given(_ANY)
def test_any_text_gives_an_answer_or_the_named_error(text):
    check_any(text)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(_ANY)
def test_ten_thousand_texts(text):
    check_any(text)


def test_any_text_may_be_repaired():
    pytest.importorskip("json_repair")
    random = Random(1)
    for _ in range(500):
        assert code_of(mutated(random), repair=True) in CODES | {None}


def repeated(piece: str, size: int = 1_000_000) -> str:
    return piece * (size // len(piece))


@pytest.mark.parametrize(
    "text",
    [
        repeated("<answer>{"),
        repeated("<answer>{") + "</answer>",
        repeated('<answer>{"') + "</answer>",
        repeated('<answer>{"rating":') + "</answer>",
        repeated("<answer>"),
        repeated("</answer>"),
        repeated("<answer></answer>"),
        repeated("</think><answer>{}</answer>"),
        "<answer>" + repeated(" ") + "{}</answer>",
        "<answer>" + repeated("{") + "</answer>",
        "<answer>" + repeated('{"a":') + repeated("}", 200_000) + "</answer>",
        '<answer>{"rating": ' + repeated("1") + "}</answer>",
        '<answer>{"rating": "' + repeated("1") + '"}</answer>',
        '<answer>{"a": "' + repeated("\\\\") + '"}</answer>',
        "<think>" + repeated("Issues to Avoid: ") + "</think>",
        "<think>Issues to Avoid:" + repeated("a.  ") + "</think>",
        "<think>Issues to Avoid:" + repeated("\n- ") + "</think>",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_megabyte_takes_a_tenth_of_a_second(text):
    times = []
    for _ in range(3):  # the least of three: other processes may hold the core
        start = time.process_time()
        assert code_of(text) in CODES
        times.append(time.process_time() - start)
    assert min(times) < 0.1


# ------------------------------------------------------------------------------- the sections


def test_sections_of_round_one():
    text = """<think>
**1) Image Quality Summary:** Soft, with noise. The verdict is fair.
2) Directions for Improvement (positive-only, grounded): Crisp stone on the left tower.
ISSUES TO AVOID
- blur on the tower
- blown sky (upper right)
Decision and Rationale: 2.50, e.g. for the blur at f/1.8. Is a crop needed? Yes.
</think><answer>{}</answer>"""
    assert parse_reasoning(text) == Reasoning(
        summary=("Soft, with noise.", "The verdict is fair."),
        directions=("Crisp stone on the left tower.",),
        issues=("blur on the tower", "blown sky (upper right)"),
        decision=("2.50, e.g. for the blur at f/1.8.", "Is a crop needed?", "Yes."),
    )


def test_sections_of_later_rounds_wrapped_lines_and_none():
    text = (
        "Crop Inspection Summary: The weave is\nresolved.\n\nIssues to Avoid: None.\n"
        "Final Decision & Rationale: Up to 3.1.</think>"
    )
    assert parse_reasoning(text) == Reasoning(
        summary=("The weave is resolved.",), decision=("Up to 3.1.",)
    )


@pytest.mark.parametrize("text", ["", "<answer>{}</answer>", "just prose: no headings", "</think>"])
def test_absent_sections_are_empty(text):
    assert parse_reasoning(text) == Reasoning()


def test_the_answer_is_no_part_of_the_reasoning():
    text = "Issues to Avoid: Noise. <answer>" + json.dumps({"note": "\nblur"}) + "</answer>"
    assert parse_reasoning(text).issues == ("Noise.",)
