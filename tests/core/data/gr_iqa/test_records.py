"""GR-IQA records: the text to the letter, files, datasets, chats equal to those of inference."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.judges import ScriptedBackend, picture
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.data.gr_iqa.rationale import FIRST_HEADINGS, LATER_HEADINGS, SECTIONS
from zoomiqa_core.data.gr_iqa.records import (
    GRIQARecord,
    GRIQARegion,
    GRIQARound,
    RecordError,
    conversation,
    from_benchmark,
    from_dataset,
    read_picture,
    read_records,
    record_from_row,
    region_conversation,
    reply_text,
    round_from_reply,
    row_of_record,
    to_dataset,
    write_records,
)
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.zoom_iqa.answer import parse_answer
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.protocol import read_turn
from zoomiqa_core.zoom_iqa.reasoning import HEADINGS, parse_reasoning

FIRST = GRIQARound(
    "Mostly clean. Blur in the upper left.",
    "Crisp edges in the upper left.",
    "Blur in the upper left.",
    "About 3.4, unsure.",
    3.4,
    "crop",
    (0.07, 0.1, 0.52, 0.6),
)
LAST = GRIQARound("The crop shows strong blur.", "Crisp edges.", "", "It falls.", 2.85, "final")
REGION = GRIQARegion((0.1, 0.1, 0.3, 0.4), dataclasses.replace(LAST, rating=1.5))
RECORD = GRIQARecord(
    "a/b.png",
    "How good?",
    (FIRST, LAST),
    2.853,
    "b",
    ((0.071, 0.1, 0.519, 0.6),),
    (REGION,),
    {"x": 1},
)


def one_round(record: GRIQARecord = RECORD) -> GRIQARecord:
    return dataclasses.replace(record, image="c.png", rounds=(LAST,), regions=(), region_truth=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/b.png", "c.png"):
        save_png(picture(), tmp_path / "images" / name)
    write_records(tmp_path, [RECORD, one_round()])
    return tmp_path


# --- the text ------------------------------------------------------------------------------------


def test_reply_by_hand() -> None:
    assert reply_text(FIRST) == (
        "<think>\n"
        "Image Quality Summary: Mostly clean. Blur in the upper left.\n"
        "Directions for Improvement: Crisp edges in the upper left.\n"
        "Issues to Avoid: Blur in the upper left.\n"
        "Decision & Rationale: About 3.4, unsure.\n"
        "</think>\n"
        '<answer>{"bbox_2d": [0.07, 0.10, 0.52, 0.60], "rating": 3.40, "tool": "crop"}</answer>'
    )
    assert reply_text(LAST, 2) == (
        "<think>\n"
        "Crop Inspection Summary: The crop shows strong blur.\n"
        "Directions for Improvement: Crisp edges.\n"
        "Issues to Avoid: None.\n"
        "Final Decision & Rationale: It falls.\n"
        "</think>\n"
        '<answer>{"bbox_2d": [0, 0, 0, 0], "rating": 2.85, "tool": "final"}</answer>'
    )


def test_headings_are_those_of_the_prompts() -> None:
    for headings, prompt in ((FIRST_HEADINGS, BUILTIN.first), (LATER_HEADINGS, BUILTIN.next)):
        assert [HEADINGS[heading.lower()] for heading in headings] == list(SECTIONS)
        places = [prompt.index(f"\n{heading}: ") for heading in headings]
        assert places == sorted(places)


pieces = [
    "Blur",
    "in",
    "the sky.",
    "No",
    "none",
    "1.",
    "-",
    "e.g.",
    "(A",
    "3.5,",
    "& “b”",
    "é!",
    "*",
]
words = st.lists(st.sampled_from(pieces), max_size=6).map(" ".join) | st.text("ab. :\n", max_size=9)
boxes = st.tuples(*[st.integers(0, 100)] * 4).filter(lambda b: b[0] < b[2] and b[1] < b[3])


@settings(max_examples=150, deadline=None)
@given(
    texts=st.tuples(words, words, words, words), cents=st.integers(100, 500), box=boxes | st.none()
)
def test_whatever_a_round_accepts_is_read_back(texts, cents, box) -> None:  # type: ignore[no-untyped-def]
    bbox = box and tuple(share / 100 for share in box)
    try:
        sections = dict(zip(SECTIONS, texts, strict=True))
        tool = "crop" if box else "final"
        look = GRIQARound(**sections, rating=cents / 100, tool=tool, bbox=bbox)
    except RecordError as error:
        assert error.field in SECTIONS
        return
    for number in (1, 2, 3):
        text = reply_text(look, number)
        answer, said = parse_answer(text), parse_reasoning(text)
        assert (answer.rating, answer.tool, answer.bbox) == (look.rating, look.tool, look.bbox)
        assert [" ".join(getattr(said, s)) for s in SECTIONS] == list(texts)
        assert read_turn(text, (64, 64), max_rounds=9).round.valid
        assert round_from_reply(text, (64, 64)) == look


def test_a_models_numbers_are_rounded_and_its_pixels_become_shares() -> None:
    text = reply_text(FIRST).replace("[0.07, 0.10, 0.52, 0.60]", "[104, 40.2, 14, 240]")
    look = round_from_reply(text.replace("3.40", "3.404"), (200, 400))
    assert look.rating == 3.4 and look.bbox == (0.07, 0.1, 0.52, 0.6)
    with pytest.raises(RecordError, match="rating: expected a number from 1 to 5, got 7"):
        round_from_reply(text.replace("3.40", "7"), (200, 400))
    with pytest.raises(RecordError, match="bbox: the reply asks for a crop without a box"):
        round_from_reply(text.replace("[104, 40.2, 14, 240]", "[1, 2]"), (200, 400))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rating": 5.2}, "rating: expected a number from 1 to 5, got 5.2"),
        ({"rating": True}, "rating: expected a number"),
        ({"rating": 3.456}, "rating: 3.456 is written with two decimals: round it"),
        ({"tool": "zoom"}, 'tool: expected "crop" or "final"'),
        ({"bbox": None}, "bbox: expected a box for crop, None for final, got None"),
        ({"tool": "final"}, "bbox: expected a box for crop, None for final"),
        ({"bbox": (0.5, 0.1, 0.2, 0.6)}, "bbox: expected normalised"),
        ({"bbox": (0.071, 0.1, 0.2, 0.6)}, "bbox: .* is written with two decimals"),
        ({"summary": "two\nlines"}, "summary: expected one line"),
        ({"issues": "a </think> b"}, "issues: contains </think>"),
        ({"decision": "None."}, "decision: 'None.' would be read as ''"),
        ({"directions": 3}, "directions: expected text"),
    ],
)
def test_wrong_rounds_are_named(change, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RecordError, match=message):
        dataclasses.replace(FIRST, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "../b.png"}, "image: .* is not a path inside the images folder"),
        ({"question": ""}, "question: is empty"),
        ({"mos": float("nan")}, "mos: expected a number from 1 to 5"),
        ({"rounds": (LAST, LAST)}, r"rounds\[0\].tool: round 1 of 2 has the tool 'crop'"),
        ({"rounds": (FIRST,)}, r"rounds\[0\].tool: round 1 of 1 has the tool 'final'"),
        ({"rounds": ()}, "regions: a region is rated after the whole image"),
        ({"region_truth": ((0, 0, 2, 1),)}, r"region_truth\[0\]: expected normalised"),
    ],
)
def test_wrong_records_are_named(change, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RecordError, match=message):
        dataclasses.replace(RECORD, **change)


# --- files ---------------------------------------------------------------------------------------


def test_records_come_back_from_disk(folder: Path) -> None:
    assert read_records(folder) == [RECORD, one_round()]
    assert record_from_row(json.loads(json.dumps(row_of_record(RECORD)))) == RECORD


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda row: row.pop("mos"), "records.jsonl, row 2, mos: is missing"),
        (lambda row: row.update(note=1), "row 2, note: is unknown; expected image, "),
        (
            lambda row: row["rounds"][0].update(rating=9),
            r"row 2, rounds\[0\].rating: expected a num",
        ),
        (lambda row: row["rounds"][0].pop("issues"), r"row 2, rounds\[0\].issues: is missing"),
        (lambda row: row.update(rounds=5), "row 2, rounds: expected a list, got 5"),
        (lambda row: row.update(region_truth=[[0, 1]]), r"row 2, region_truth\[0\]: expected norm"),
        (lambda row: row.update(regions=[{"bbox": 1}]), r"row 2, regions\[0\].reply: is missing"),
        (lambda row: row.update(image="d.png"), r"row 2, image: .*d.png does not exist"),
        (lambda row: row.update(provenance="x"), "row 2, provenance: expected an object"),
    ],
)
def test_a_wrong_row_is_named(folder: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[1])
    damage(row)
    (folder / "records.jsonl").write_text(f"{lines[0]}\n{json.dumps(row)}\n", encoding="utf-8")
    with pytest.raises(RecordError, match=message.replace("image, ", "")):
        read_records(folder)


def test_no_json_and_no_file(folder: Path, tmp_path: Path) -> None:
    (folder / "records.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(RecordError, match="row 1, line: is not JSON"):
        read_records(folder)
    with pytest.raises(FileNotFoundError, match="write_records"):
        read_records(tmp_path / "nowhere")


def test_pictures_are_copied_from_their_source(folder: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "copy", [RECORD], source=folder / "images")
    assert read_picture(tmp_path / "copy", RECORD).size == (96, 64)
    with pytest.raises(RecordError, match=r"records\[0\], image: .*does not exist"):
        write_records(tmp_path / "other", [RECORD])
    assert not (tmp_path / "other" / "records.jsonl").exists()


def test_a_dataset_and_back(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    dataset = to_dataset(folder)
    assert dataset[0]["image"].size == (96, 64) and dataset[1]["mos"] == RECORD.mos
    assert from_dataset(dataset, tmp_path / "back") == [RECORD, one_round()]
    assert read_records(tmp_path / "back") == [RECORD, one_round()]
    for name in ("a/b.png", "c.png"):
        copied = (tmp_path / "back" / "images" / name).read_bytes()
        assert copied == (folder / "images" / name).read_bytes()


def test_labels_of_a_benchmark(tmp_path: Path) -> None:
    rows = ["image_name,mos,set", "ss01 (1).png,0.25,training", "ss02 (2).png,1,test"]
    (tmp_path / "mos.csv").write_text("\n".join(rows), encoding="utf-8")
    for name in ("ss01 (1).png", "ss02 (2).png"):
        save_png(torch.rand(3, 32, 32), tmp_path / "images" / name)
    records = from_benchmark(read_biq2021(tmp_path))
    assert [(r.image, r.mos, r.rounds) for r in records] == [
        ("ss01 (1).png", 2.0, ()),
        ("ss02 (2).png", 5.0, ()),
    ]
    assert records[0].provenance == {"label": "human", "split": "training", "subset": "ss01"}
    assert records[0].question != records[1].question
    write_records(tmp_path, records)
    assert read_records(tmp_path) == records
    assert from_benchmark([]) == []


# --- chats ---------------------------------------------------------------------------------------


def test_chats_are_those_of_inference() -> None:
    image = picture(200, 120)
    asked = ScriptedBackend(
        lambda r: reply_text(FIRST) if len(r.images) == 1 else reply_text(LAST, 2)
    )
    chain = Chain(image, BUILTIN, RECORD.question)
    asked.run([chain])
    assert len(asked.seen) == 2
    for number, request in enumerate(asked.seen, start=1):
        chat, images = conversation(RECORD, BUILTIN, number, image)
        assert chat[:-1] == request.messages
        text = reply_text(RECORD.rounds[number - 1], number)
        assert chat[-1] == {"role": "assistant", "content": [{"type": "text", "text": text}]}
        assert [i.tobytes() for i in images] == [i.tobytes() for i in request.images]
    assert [look.rating for look in chain.rounds] == [3.4, 2.85]


def test_region_chats_are_those_of_inference() -> None:
    image = picture(200, 120)
    first = read_turn(reply_text(FIRST), image.size).round
    chain = Chain.of_region(image, REGION.bbox, first, BUILTIN, RECORD.question)
    chat, images = region_conversation(RECORD, BUILTIN, 0, image)
    assert chain.request is not None
    assert chat[:-1] == chain.request.messages
    assert [i.tobytes() for i in images] == [i.tobytes() for i in chain.request.images]
    chain.read(chat[-1]["content"][0]["text"])
    assert chain.rounds[0].rating == 1.5


def test_rounds_and_regions_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"a/b.png has 2 rounds, so no round 3"):
        conversation(RECORD, BUILTIN, 3, picture())
    with pytest.raises(ValueError, match="cannot ask for a region"):
        region_conversation(RECORD, dataclasses.replace(BUILTIN, region=None), 0, picture())
