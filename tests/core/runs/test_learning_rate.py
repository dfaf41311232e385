"""The schedule of all trainings, by hand."""

from __future__ import annotations

import pytest

from zoomiqa_core.runs.learning_rate import warmup_cosine


def test_warm_up_by_hand():
    shares = [warmup_cosine(step, warmup=4, progress=0) for step in (-3, -1, 0, 1, 3, 9)]
    assert shares == [0, 0, 0.25, 0.5, 1, 1]
    assert warmup_cosine(0, warmup=0, progress=0) == 1


def test_decay_by_hand():
    shares = [warmup_cosine(9, warmup=1, progress=done) for done in (-1, 0, 1 / 3, 0.5, 1, 2)]
    assert shares == pytest.approx([1, 1, 0.75, 0.5, 0, 0])
    assert warmup_cosine(9, warmup=1, progress=0.5, floor=0.02) == pytest.approx(0.51)
    assert warmup_cosine(9, warmup=1, progress=1, floor=0.02) == pytest.approx(0.02)


def test_both_at_once_multiply():
    assert warmup_cosine(0, warmup=2, progress=0.5) == pytest.approx(0.25)
