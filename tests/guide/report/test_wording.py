"""Figures for people: which columns there are, how many digits, which words."""

import math

import pytest

from restoration_guide.fidelity.measure import TERMS, Fidelity
from restoration_guide.report.wording import (
    columns,
    digits_for,
    fidelity_in_words,
    figure,
    heading,
    name_of,
    rating_share,
    term_notes,
)


def test_figures_for_people() -> None:
    assert [figure(x) for x in (None, math.nan, math.inf, 1.005)] == ["–", "–", "–", "1.00"]
    assert [rating_share(x) for x in (None, math.nan, 0.0, 1.0, 3.0, 6.0)] == [0, 0, 0, 0, 50, 100]


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ([41.88, 9.1], 2),  # 41.88
        ([0.0049, 0.0004], 6),  # 0.004900
        ([0.98], 4),  # 0.9800
        ([1234.5], 2),
        ([1e-9], 6),  # never more
        ([4, 12], 0),  # whole numbers
        ([0.0], 2),
        ([-0.5, math.nan], 4),
        ([math.inf], 2),
    ],
)
def test_digits_by_hand(values, digits) -> None:
    assert digits_for(values) == digits


def test_columns_follow_the_rows() -> None:
    rows = [
        {"index": "input", "rating": 3.0, "lpips": None, "words": "none", "done": True},
        {"index": 0, "rating": 3.5, "lpips": 0.25, "nfe": 4, "words": "some", "gain": 0.5},
    ]
    found = columns(rows, {"lpips": {"unit": "distance", "direction": "lower"}}, ["rating"])
    assert [tuple(column) for column in found] == [
        ("index", "index", "", 0),
        ("lpips", "LPIPS", "distance, lower", 4),
        ("nfe", "NFE", "", 0),
        ("gain", "gain", "", 2),
    ]


def test_words() -> None:
    assert heading("degraded_psnr") == "degraded PSNR" and heading("ms_ssim") == "MS SSIM"
    assert name_of(3) == "candidate 3" and name_of("input") == "input"
    assert term_notes().keys() > TERMS.keys()
    words = fidelity_in_words(Fidelity(0.00494, 41.88))
    assert words == "low pass distance 0.00494, degraded PSNR 41.9 dB"
    assert fidelity_in_words(Fidelity(0.01, math.nan)) == "low pass distance 0.01"
