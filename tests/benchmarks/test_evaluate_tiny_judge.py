"""The table of trained small judges: its columns by hand, its intervals and its groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import evaluate_tiny_judge as command
from zoomiqa_core.evaluation.correlation import Estimate


def first(figure) -> float:
    return float(np.ravel(figure)[0])


def answer(kind: str, target: float, rating: float, **known) -> command.Case:
    plain = {"valid": True, "ratings": [rating], "zoom_share": 0.0, "first": rating}
    plain |= {"expected": -rating, "last": rating, "bbox": None, "subset": "a", "truth": []}
    return plain | {"kind": kind, "target": target, "rating": rating} | known


def answers() -> list[command.Case]:
    rated = [answer("rated", t, r) for t, r in [(1.5, 2.0), (3.0, 2.9), (3.5, 3.6), (4.9, 4.0)]]
    rated[0]["ratings"] = [1.6, 2.4]
    unseen = [answer("unseen", t, 5 - t) for t in (1.0, 2.0, 3.0)]
    clean = [answer("clean", 4.5, 4.5, zoom_share=0.25)]
    box, truth = (0.0, 0.0, 0.5, 0.5), [(0.1, 0.1, 0.3, 0.3)]
    zoomed = {"bbox": box, "zoom_share": 1.0, "first": 3.0, "last": 4.0}
    local = [
        answer("local", 4.2, 4.0, truth=truth, **zoomed),
        answer("local", 4.2, 4.0, truth=[(0.6, 0.6, 1.0, 1.0)], **zoomed),
    ]
    return [*rated, *unseen, *clean, *local, answer("rated", 3.0, math.nan, valid=False)]


def test_columns_by_hand():
    table = command.measure(answers(), seed=0)
    assert table["valid"] == pytest.approx(10 / 11)
    assert first(table["BIQ2021 SRCC"]) == pytest.approx(1)
    assert first(table["unseen types SRCC"]) == pytest.approx(-1)
    assert first(table["expected: unseen types SRCC"]) == pytest.approx(1)
    assert table["tail error"] == pytest.approx((0.5 + 0.9) / 2)  # 1.5 and 4.9 of 1–5
    assert first(table["box covers damage"]) == 0.5
    assert table["box by chance"] == 0.25
    assert (table["zoom rate local"], table["zoom rate easy"]) == (1.0, 0.25)
    assert first(table["round 2 error less by"]) == pytest.approx(1.2 - 0.2)
    assert table["distinct ratings"] == 1.0
    assert table["rating entropy"] == 0.0  # 1.6 and 2.4 round to one


def test_intervals_hold_their_value():
    table = command.measure(answers(), seed=0)
    value, low, high = np.ravel(table["box covers damage"])
    assert low <= value == 0.5 <= high


def test_seeds_share_a_column():
    judges: dict[str, dict[str, Estimate | float]] = {
        "sft-0": {"SRCC": 0.2},
        "sft-1": {"SRCC": 0.4},
        "grpo-0": {"SRCC": Estimate(0.5, 0.3, 0.7)},
    }
    assert command.show(judges).splitlines() == [
        "| measure | sft (2) | grpo (1) |",
        "| --- | ---: | ---: |",
        "| SRCC | 0.300 ± 0.141 | 0.500 [0.300, 0.700] |",
    ]
