"""Samples of supervised fine-tuning: shares, corrupted words, corrected ratings."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from zoomiqa_core.data.gr_iqa.conversation import conversation, region_conversation
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, GRIQARegion, GRIQARound, reply_text
from zoomiqa_core.data.teacher.wording import other_adjectives
from zoomiqa_core.training.examples import (
    Mixture,
    corrected,
    corrupt,
    outline_of,
    samples_of,
    with_rating,
)
from zoomiqa_core.zoom_iqa.answer import parse_answer
from zoomiqa_core.zoom_iqa.crop import crop_image
from zoomiqa_core.zoom_iqa.prompts import BUILTIN

BOX = (0.1, 0.2, 0.6, 0.8)
FIRST = GRIQARound(
    "A poor photo.", "Crisp.", "Some blur.", "Not sure; enlarge it.", 3.2, "crop", BOX
)
LAST = GRIQARound("Awful: severe blur.", "Crisp.", "Severe blur.", "It falls.", 1.4, "final")
REGION = GRIQARegion(BOX, LAST)
ZOOMED = GRIQARecord("z.png", "How good?", (FIRST, LAST), 1.4, "z", (), (REGION,), {"blind": 3.2})
PLAIN = GRIQARecord("p.png", "How good?", (dataclasses.replace(LAST, rating=1.6),), 1.6, "p")
WORDLESS = GRIQARecord("w.png", "How good?", (), 4.4, "w")
IMAGE = Image.new("RGB", (200, 160))


def test_shares_are_kept_and_records_without_words_answer_at_once_first():
    records = [ZOOMED, PLAIN, WORDLESS] * 20
    samples = samples_of(records, BUILTIN, Mixture(without_thought=0.25, corrupted=0.5), seed=1)
    kinds = [sample.kind for sample in samples]
    assert kinds.count("round") == 60 and kinds.count("region") == 20
    assert kinds.count("rating") == round(80 / 3)
    silent = [sample.record for sample in samples if sample.kind == "rating"]
    assert silent[:20] == [WORDLESS] * 20 and WORDLESS not in silent[20:]
    corrupted = [sample for sample in samples if sample.corruption is not None]
    assert 25 < len(corrupted) < 55 and all(s.kind != "rating" for s in corrupted)
    assert samples == samples_of(
        records, BUILTIN, Mixture(without_thought=0.25, corrupted=0.5), seed=1
    )


def test_a_sample_is_the_conversation_without_pixels():
    for sample in samples_of([ZOOMED], BUILTIN, Mixture(0.0, 0.0)):
        (chat, crops), ignored = outline_of(sample, BUILTIN, IMAGE.size)
        make = conversation if sample.kind == "round" else region_conversation
        known = make(ZOOMED, BUILTIN, sample.number, IMAGE)
        assert chat == known.messages and ignored == () and len(crops) == sample.views
        views = [IMAGE if crop is None else crop_image(IMAGE, crop) for crop in crops]
        assert [v.size for v in views] == [v.size for v in known.images]


def test_corrupted_adjectives_are_of_another_degree_and_lie_where_they_are_said_to():
    text = reply_text(LAST, 2)
    for seed in range(10):
        made, ranges = corrupt(text, torch.Generator().manual_seed(seed), share=1.0)
        words = [made[a:b].lower() for a, b in ranges]
        assert len(words) == 3 and made.partition("</think>")[2] == text.partition("</think>")[2]
        assert all(
            word in other_adjectives(old)
            for word, old in zip(words, ("awful", "severe", "severe"), strict=True)
        )
        rest = made
        for a, b in reversed(ranges):
            rest = rest[:a] + "*" + rest[b:]
        assert rest == text.replace("Awful", "*").replace("severe", "*").replace("Severe", "*")
    assert corrupt(text, torch.Generator(), share=0.0) == (text, ())


def test_a_corrected_reply_keeps_its_words_and_learns_the_truth():
    said = [reply_text(dataclasses.replace(FIRST, rating=4.9, bbox=(0.5, 0.5, 1.0, 1.0)))]
    said.append(reply_text(dataclasses.replace(LAST, rating=4.8), 2))
    samples = corrected([ZOOMED, PLAIN], {"z": said, "p": []}, without_thought=0.5)
    assert [sample.kind for sample in samples] == ["own", "own", "rating", "rating"]
    ratings = []
    for sample in samples[:2]:
        (chat, crops), ignored = outline_of(sample, BUILTIN, IMAGE.size)
        text = chat[-1]["content"][0]["text"]
        ratings.append(parse_answer(text).rating)
        assert text.partition("</think>")[0] == sample.said[-1].partition("</think>")[0]
        learnt = [c for n, c in enumerate(text) if not any(a <= n < b for a, b in ignored)]
        assert "".join(learnt) == f"{ratings[-1]:.2f}" and ignored[-1][1] > len(text)
    assert ratings == [3.2, 1.4]  # the guess of a thumbnail where it zooms, then the truth
    assert crops[1].bbox == (0.5, 0.5, 1.0, 1.0)  # its own crop, not the record's


def test_without_a_usable_reply_ratings_at_once_are_learnt():
    samples = corrected([ZOOMED, PLAIN], {"z": []}, without_thought=0.5)
    assert [sample.kind for sample in samples] == ["rating", "rating"]


def test_what_cannot_be_corrected_or_mixed_is_refused():
    with pytest.raises(ValueError, match="a reply with an answer"):
        with_rating("No.", 3.0)
    with pytest.raises(ValueError, match="without_thought < 1"):
        Mixture(without_thought=1.0)
