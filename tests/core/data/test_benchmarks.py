"""BIQ2021's layout: scale, splits, subsets, faults named by line."""

from __future__ import annotations

import pytest

from zoomiqa_core.data.benchmarks import read_biq2021

HEADER = "image_name,mos,set\n"


def write(folder, rows):
    (folder / "mos.csv").write_text(HEADER + rows, encoding="utf-8")
    return folder


def test_rows_become_rated_images(tmp_path):
    folder = write(tmp_path, "ss01 (1).jpg,0.25,training\nss03 (7).jpg,1.0,test\n")
    first, second = read_biq2021(folder)
    assert (first.rating, first.split, first.subset) == (2.0, "training", "ss01")
    assert first.path == tmp_path / "images" / "ss01 (1).jpg"
    assert read_biq2021(folder, "test") == [second]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,high,test\n", "line 2: mos 'high' is not a number"),
        ("a.jpg,1.5,test\n", r"line 2: mos 1.5 lies outside \[0, 1\]"),
        ("a.jpg,,test\n", r"line 2: no value for \['mos'\]"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_biq2021(write(tmp_path, row))


def test_a_missing_table_or_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holding mos"):
        read_biq2021(tmp_path)
    with pytest.raises(ValueError, match="no image of split 'dev'; it has"):
        read_biq2021(write(tmp_path, "a.jpg,0.5,test\n"), "dev")
