"""Arguments, tables and records of the benchmarks."""

import json

import pytest

from benchmarks import tables
from zoomiqa_core.evaluation.correlation import Estimate


def test_cells_by_hand() -> None:
    assert tables.cell(Estimate(0.1234, -0.5, 1)) == "0.123 [-0.500, 1.000]"
    assert tables.cell(Estimate(0.1, 0, 1), 1, sign=True) == "+0.1 [+0.0, +1.0]"
    assert [tables.cell(one, 2) for one in (0.125, 3, None, "|a|")] == ["0.12", "3", "", r"\|a\|"]


def test_columns_share_their_rows() -> None:
    lines = tables.side_by_side({"a": {"x": 1.0, "y": 2.0}, "b": {"y": 3.0}}, digits=1).splitlines()
    assert lines[0] == "| measure | a | b |"
    assert lines[2:] == ["| x | 1.0 |  |", "| y | 2.0 | 3.0 |"]


def test_the_record_says_how_it_was_made(tmp_path, capsys) -> None:
    parser = tables.arguments("doc", out="x.json", photos=..., count=3, weights=None)
    given = parser.parse_args(["--photos", "p", "--out", str(tmp_path / "r.json")])
    assert (given.count, given.weights, given.seed) == (3, None, 0)
    tables.finish(given, "| a |\n| b |", figures=Estimate(1.0, 0.0, float("nan")))
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert record["arguments"]["photos"] == "p" and "torch" in record["hardware"]
    assert record["table"] == ["| a |", "| b |"] and record["figures"] == [1.0, 0.0, None]
    assert capsys.readouterr().out.startswith("| a |\n| b |\nwritten: ")


def test_photos_must_be_given(capsys) -> None:
    with pytest.raises(SystemExit):
        tables.arguments("doc", out="x.json", photos=...).parse_args([])
    assert "--photos" in capsys.readouterr().err
