"""The folder of results: whole files, resumed by name, refused for other settings."""

from pathlib import Path

import pytest

from zoomiqa_core.scale.names import is_done
from zoomiqa_core.scale.results import ResultFolder

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def table(**errors: str | None):
    names, reasons = list(errors), list(errors.values())
    return pa.table(
        {"name": names, "valid": [e is None for e in reasons], "error": pa.array(reasons, "string")}
    )


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_rows_are_kept_apart_and_found_again(tmp_path: Path, scheme: str) -> None:
    out = f"{scheme}{tmp_path}/out"
    folder = ResultFolder(out, {"scorer": "proxy"})
    folder.add(table(a=None, b="truncated"))
    assert not list((tmp_path / "out" / "results").iterdir()), "nothing is written yet"
    folder.add(table(c=None))
    folder.write()
    assert pq.read_table(tmp_path / "out" / "results")["name"].to_pylist() == ["a", "c"]
    assert pq.read_table(tmp_path / "out" / "invalid")["error"].to_pylist() == ["truncated"]
    again = ResultFolder(out, {"scorer": "proxy"})
    assert is_done(["a", "b", "c", "d"], again.done()).tolist() == [True, True, True, False]
    assert again.counts() == {"valid": 2, "truncated": 1}


def test_rows_are_written_when_they_have_waited(tmp_path: Path) -> None:
    folder = ResultFolder(str(tmp_path / "out"), {}, seconds=0)
    for name in ("a", "b"):
        folder.add(table(**{name: None}))
    assert len(list((tmp_path / "out" / "results").iterdir())) == 2


def test_other_settings_and_other_folders_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    ResultFolder(out, {"scorer": "proxy", "seed": None})
    with pytest.raises(ValueError, match=r"scorer: 'proxy' there, 'tiny' now.*another folder"):
        ResultFolder(out, {"scorer": "tiny", "seed": None})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(ValueError, match=r"no results \(a.png\)"):
        ResultFolder(str(tmp_path / "photos"), {})


def test_a_half_written_file_is_passed_over_and_a_damaged_one_named(tmp_path: Path) -> None:
    folder = ResultFolder(str(tmp_path / "out"), {})
    folder.add(table(a=None))
    folder.write()
    (tmp_path / "out" / "results" / ".0123.parquet").write_bytes(b"PAR1")
    assert folder.counts() == {"valid": 1}
    (tmp_path / "out" / "results" / "0-bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"0-bad.parquet cannot be read.*delete it"):
        folder.done()
