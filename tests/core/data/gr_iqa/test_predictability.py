"""How well words predict ratings: by hand, and that what is not said counts as unknown."""

from __future__ import annotations

import pytest
import torch

from zoomiqa_core.data.gr_iqa.predictability import record_predictability, words_r2
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, GRIQARound


def records(copied: bool) -> list[GRIQARecord]:
    """The verdict names the second rating, or has nothing to do with it."""
    made = []
    for n in range(120):
        truth = 2.0 if n % 2 else 4.0
        word = ("bad", "good")[(truth > 3) if copied else (n // 2) % 2]
        first = GRIQARound(f"A {word} photo.", "", "", "Unsure.", 3.0, "crop", (0.1, 0.1, 0.9, 0.9))
        last = GRIQARound("Seen larger.", "", "", "Sure.", truth, "final")
        made.append(GRIQARecord(f"{n}.png", "How good?", (first, last), truth, str(n)))
    return made


def test_a_copied_verdict_is_found_and_an_unrelated_one_is_not():
    assert record_predictability(records(copied=True))["round_2_given_round_1"] > 0.95
    shares = record_predictability(records(copied=False))
    assert shares["round_2_given_round_1"] < 0.05
    # first and second replies are told apart by their words (3 against 2 or 4), no more
    assert shares["rating_given_words"] < 0.05
    assert record_predictability(records(copied=True)[:20]) == {}  # too few


def test_a_known_rating_predicts_what_the_words_do_not():
    draws = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    assert words_r2(["a photo"] * 200, draws, known=draws) == pytest.approx(1, abs=0.01)
    assert words_r2(["a photo"] * 200, draws) < 0
