"""`--engine`: what the command line refuses before Ray is started."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from restoration_guide.cli.main import app as guide
from zoomiqa_core.cli.main import app as core


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "spark"], '--engine is "local" or "ray"'),
        (["--actors", "2"], "need --engine ray"),
        (["--out", "x"], "--out needs --engine ray"),
        (["--engine", "ray"], "give --out DIR"),
        (["--engine", "ray", "--out", "x", "--json"], "without --json"),
        (["--engine", "ray", "--out", "x", "--column", "a", "--column", "b"], "--column 1 time,"),
    ],
)
def test_score_says_what_does_not_fit(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "a.png").touch()
    ended = CliRunner().invoke(core, ["score", str(tmp_path / "a.png"), *arguments])
    assert ended.exit_code == 1 and message in ended.output


def test_gate_needs_a_folder_for_verdicts() -> None:
    ended = CliRunner().invoke(guide, ["gate", "a", "b", "--engine", "ray"])
    assert ended.exit_code == 1 and "give --out DIR" in ended.output


def test_a_missing_ray_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "a.png").touch()
    out = str(tmp_path / "out")
    ended = CliRunner().invoke(
        core, ["score", str(tmp_path / "a.png"), "--engine", "ray", "--out", out]
    )
    assert ended.exit_code == 1
    assert 'pip install "zoomiqa-restoration-guide[ray]"' in ended.output
