"""Datasets by name: scales, splits, faults named by line; BIQ2021 as the example."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from zoomiqa_core.data.benchmarks.sets import (
    BENCHMARKS,
    RatedImage,
    Scale,
    find_benchmark,
    read_benchmark,
    read_biq2021,
    split_by_reference,
)

HEADER = "image_name,mos,set\n"


def write(folder, rows):
    (folder / "mos.csv").write_text(HEADER + rows, encoding="utf-8")
    return folder


def test_rows_become_rated_images(tmp_path):
    folder = write(tmp_path, "ss01 (1).jpg,0.25,training\nss03 (7).jpg,1.0,test\n")
    first, second = read_biq2021(folder)
    assert (first.mos, first.rating) == (0.25, 2.0)  # 1 + 4 · 0.25
    assert (first.split, first.subset) == ("training", "ss01")
    assert first.path == tmp_path / "images" / "ss01 (1).jpg"
    assert read_biq2021(folder, "test") == [second]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,high,test\n", "line 2: mos 'high' is not a number"),
        ("a.jpg,1.5,test\n", r"line 2: mos 1.5 lies outside \[0, 1\]"),
        ("a.jpg,,test\n", "line 2: no value for 'mos'"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_biq2021(write(tmp_path, row))


def test_a_missing_table_or_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mos.csv not found; give the folder"):
        read_biq2021(tmp_path)
    with pytest.raises(FileNotFoundError, match="none is not a folder; give the folder of BIQ2021"):
        read_biq2021(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no image of split 'dev'; it has \['test'\]"):
        read_biq2021(write(tmp_path, "a.jpg,0.5,test\n"), "dev")


def test_a_table_without_rows_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"BIQ2021 in .* lists no image"):
        read_biq2021(write(tmp_path, ""))


def test_a_path_out_of_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"line 2: image_name '../a.jpg' must be a relative path"):
        read_biq2021(write(tmp_path, "../a.jpg,0.5,test\n"))


def test_a_table_in_another_encoding_is_named(tmp_path):
    (tmp_path / "mos.csv").write_bytes(HEADER.encode() + b"caf\xe9.jpg,0.5,test\n")
    with pytest.raises(ValueError, match=r"BIQ2021: a label file in .* is not UTF-8"):
        read_biq2021(tmp_path)


def test_scales_by_hand():
    rising, falling, open_ended = Scale("MOS", 0, 100), Scale("DMOS", 0, 1, True), Scale("Elo")
    assert (rising.mos(75), rising.rating(75)) == (75, 4.0)  # 1 + 4 · 75 / 100
    assert (falling.mos(0.25), falling.rating(0.25)) == (0.75, 4.0)  # 1 + 4 · (1 − 0.25)
    assert open_ended.mos(1400) == 1400 and math.isnan(open_ended.rating(1400))
    assert [str(s) for s in (rising, falling, open_ended)] == ["MOS, 0–100", "1 − DMOS, 0–1", "Elo"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_ends_of_every_declared_range_are_the_ends_of_the_rating(name):
    scale = BENCHMARKS[name].scale
    if scale.bounded:
        ends = [scale.rating(scale.low), scale.rating(scale.high)]
        assert ends == ([5, 1] if scale.lower_is_better else [1, 5])
        assert scale.mos(scale.low) in (scale.low, scale.high)


def test_names_are_found_whatever_their_spelling(tmp_path):
    for name in ("KonIQ-10k", "koniq10k", "koniq_10k"):
        assert find_benchmark(name) is BENCHMARKS["koniq10k"]
    assert find_benchmark(str(tmp_path / "test_koniq.json")).title == "test_koniq"
    with pytest.raises(ValueError, match=r"unknown dataset 'flive'; expected one of koniq10k, .*"):
        read_benchmark("flive", tmp_path)


def test_no_reference_is_in_two_splits():
    references = [f"I{number:02d}" for number in (7, 3, 1, 9, 0, 5, 2, 8, 4, 6)]
    images = [RatedImage(Path(f"{r}_{n}"), 0, 1, reference=r) for n in (1, 2) for r in references]
    split = split_by_reference(images)
    assert [image.path for image in split] == [image.path for image in images]
    found = {(image.reference, image.split) for image in split}
    assert len(found) == len(references)
    # in alphabetical order the fourth of five is for validation, the fifth for test
    assert {r for r, name in found if name == "validation"} == {"I03", "I08"}
    assert {r for r, name in found if name == "test"} == {"I04", "I09"}
