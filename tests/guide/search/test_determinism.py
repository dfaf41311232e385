"""The same seed gives the same bytes, whatever the batch size, the number or the folder."""

import json
from pathlib import Path

import pytest

from restoration_guide.report.write import write_report
from restoration_guide.search.best_of_n import BestOfN


def without_time(folder: Path) -> str:
    record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    del record["timing"]
    return json.dumps(record)  # order of keys included


def test_same_seed_same_bytes(photo_file, stubs, tmp_path) -> None:
    folders = []
    for name in ("first", "second"):
        selection = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3)(photo_file, seed=11)
        folders.append(write_report(selection, tmp_path / name))
    one, two = folders
    assert without_time(one) == without_time(two)
    pictures = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert len(pictures) == 5
    for picture in [*pictures, Path("config.yaml")]:
        assert (one / picture).read_bytes() == (two / picture).read_bytes(), picture


def test_another_seed_gives_another_picture(photo, stubs) -> None:
    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=1)
    assert not search(photo, seed=0).image(0).equal(search(photo, seed=1).image(0))


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 3}, {"n": 5}])
def test_candidates_do_not_depend_on_batch_or_number(photo, stubs, settings) -> None:
    plain = BestOfN(stubs.Restorer(), stubs.Scorer(), n=3)(photo, seed=2)
    other = BestOfN(stubs.Restorer(), stubs.Scorer(), **{"n": 3, **settings})(photo, seed=2)
    for index in range(3):
        assert plain.image(index).equal(other.image(index))
        assert plain.row(index).rating == other.row(index).rating


def test_the_whole_program_is_deterministic(photo_file, stubs, tmp_path) -> None:
    from typer.testing import CliRunner

    from restoration_guide.cli.main import app

    stubs.install()
    for name in ("a", "b"):
        arguments = ["best-of-n", str(photo_file), "--n", "2", "--out", str(tmp_path / name)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    first, second = tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png"
    assert without_time(first) == without_time(second)
    assert (first / "best.png").read_bytes() == (second / "best.png").read_bytes()
