"""Every layout of votes, on a miniature folder: the pairs, and what a bad file is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoomiqa_core.data.benchmarks.votes import VotedPair, photos, read_votes


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_by_hand(tmp_path: Path) -> None:
    write(
        tmp_path / "set" / "choices.csv",
        "left,right,selected,input,photo\n"
        "x/a.png,x/b.png,right,x/low.png,one\n"
        "x/b.png,x/a.png,LEFT,x/low.png,one\n"  # the same pair: b again
        "x/a.png,x/b.png,0,x/low.png,one\n"
        "x/a.png,x/b.png,0.6,x/low.png,one\n"
        "../y.png,/z.png,1,,two\n",
    )
    first, second = read_votes(tmp_path / "set")
    root = tmp_path / "set"
    assert (first.left, first.right) == (root / "x/a.png", root / "x/b.png")
    assert first.share == pytest.approx((1 + 1 + 0 + 0.6) / 4) and first.votes == 4
    assert (first.photo, first.input) == ("one", root / "x/low.png")
    # outside the folder, absolute, without an input
    assert second == VotedPair(root / "../y.png", Path("/z.png"), 1.0, 1, "two", None)
    assert read_votes(root / "choices.csv") == [first, second]


def test_pairs_with_a_common_image_or_input_are_of_one_photo(tmp_path: Path) -> None:
    rows = "a,b,1,\nc,d,1,\nb,c,1,\ne,f,1,low\ng,h,1,low\ni,j,1,\n"
    table = write(tmp_path / "votes.csv", "left,right,selected,input\n" + rows)
    pairs = read_votes(table)
    clusters = [photos(pairs).index(pair.photo) for pair in pairs]
    assert clusters == [0, 0, 0, 1, 1, 2]
    rows = "a,b,1,x\nc,d,1,x\nc,e,1,\n"  # the last row names no photo and shares an image
    named = read_votes(write(tmp_path / "votes.csv", "left,right,selected,photo\n" + rows))
    assert photos(named) == ["x"]


def test_bapps_at_any_depth(tmp_path: Path) -> None:
    for part, values in (("val/cnn", [0.2, 1.0]), ("val/superres", [0.6])):
        for number, value in enumerate(values):
            file = tmp_path / part / "judge" / f"{number:06d}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, np.array([value], np.float32))
    pairs = read_votes(tmp_path)
    assert [round(pair.share, 3) for pair in pairs] == [0.2, 1.0, 0.6]
    assert photos(pairs) == ["val/cnn/000000", "val/cnn/000001", "val/superres/000000"]
    assert pairs[2].left == tmp_path / "val/superres/p0/000000.png"
    assert pairs[2].right == tmp_path / "val/superres/p1/000000.png"
    assert all(pair.votes == 1 and pair.input is None for pair in pairs)
    assert [pair.photo for pair in read_votes(tmp_path / "val" / "cnn")] == ["000000", "000001"]


def test_scores_are_compared_within_a_reference(tmp_path: Path) -> None:
    write(tmp_path / "Train_Label" / "A01.txt", "A01_00_00.bmp,1500\nA01_00_01.bmp,1400\n")
    write(tmp_path / "Val_Label" / "A02.txt", "A02_0_1.bmp,1\nA02_0_2.bmp,1\nA02_0_3.bmp,2\n")
    pairs = read_votes(tmp_path)
    assert [pair.photo for pair in pairs] == ["A01"] + ["A02"] * 3
    assert [pair.share for pair in pairs] == [0.0, 0.5, 1.0, 1.0]


def test_other_sets_with_references(tmp_path: Path) -> None:
    rows = "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.5,1\nI01_01_05.png,I01.png,1.5,1\n"
    write(tmp_path / "dmos.csv", rows)
    (pair,) = read_votes(tmp_path)
    assert (pair.left.name, pair.share, pair.photo) == ("I01_01_01.png", 0.0, "I01.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left,right\na,b\n", r"no column \['selected'\]"),
        ("left,right,selected\na,a,1\n", "line 2: left and right are both 'a'"),
        ("left,right,selected\na,,1\n", "line 2: no value for 'right'"),
        (
            "left,right,selected\na,b,up\n",
            "selected 'up' is not a number; selected is left, right",
        ),
        ("left,right,selected\na,b,2\n", r"line 2: selected 2 lies outside \[0, 1\]"),
        ("left,right,selected\na,b,nan\n", "line 2: selected 'nan' is not finite"),
        ("left,right,selected,input\na,b,1,x\nb,c,1,y\n", "line 3: input .*y' of .*b, which an"),
        ("left,right,selected\n", "holds no votes; expected a CSV file with the columns"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_votes(write(tmp_path / "votes.csv", text))


@pytest.mark.parametrize("content", [[0.5, 0.5], [1.5], [np.nan], []])
def test_a_bad_label_of_bapps_is_named(tmp_path: Path, content: list[float]) -> None:
    (tmp_path / "judge").mkdir()
    np.save(tmp_path / "judge" / "7.npy", np.array(content))
    with pytest.raises(ValueError, match=r"7\.npy: expected one share in \[0, 1\], got"):
        read_votes(tmp_path)


def test_what_is_no_folder_of_votes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give a folder of votes or a CSV file"):
        read_votes(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no votes; expected a CSV file"):
        read_votes(tmp_path)
    for name in ("one.csv", "two.csv"):
        write(tmp_path / name, "left,right,selected\na,b,1\n")
    with pytest.raises(ValueError, match=r"several tables of votes \(one\.csv, two\.csv\)"):
        read_votes(tmp_path)
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "1.npy").write_bytes(b"\x80\x04.")  # a pickle is not read
    (tmp_path / "one.csv").unlink()
    (tmp_path / "two.csv").unlink()
    with pytest.raises(ValueError, match=r"1\.npy is not a readable array"):
        read_votes(tmp_path)
