"""Trainings side by side: words anywhere on the command line, what is there, what differs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import train_methods
from recipes import finetune_restorer
from recipes.compose import compose


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of the recipe that were started; each run leaves what a finished one leaves."""
    started: list[list[str]] = []

    def run(command: list[str], **_) -> SimpleNamespace:
        started.append(command)
        words = command[command.index("--config") :]
        config, resolved = compose(finetune_restorer.Config, words)
        (Path(config.out) / "pipeline").mkdir(parents=True)
        (Path(config.out) / "config.yaml").write_text(resolved, encoding="utf-8")
        (Path(config.out) / "pipeline" / "README.md").touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(train_methods.subprocess, "run", run)
    return started


def test_words_may_follow_the_seeds_and_finished_runs_are_kept(tmp_path, runs, capsys) -> None:
    line = ["--photos", "p", "--methods", "draft1", "ablation/1_global", "--out", str(tmp_path)]
    line += ["--seeds", "0", "3", "held_out=h", "loop.cpu=true"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            train_methods.main(line)
        assert ended.value.code == 0
    assert len(runs) == 4
    assert all(command[-2:] == ["held_out=h", "loop.cpu=true"] for command in runs)
    assert f"out={tmp_path / 'ablation-1_global' / 'seed-3'}" in runs[3]
    assert capsys.readouterr().out.count("there already") == 4


def test_a_finished_run_of_other_words_is_no_result(tmp_path, runs, capsys) -> None:
    line = ["--photos", "p", "--methods", "draft1", "--seeds", "0", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        train_methods.main(line)
    with pytest.raises(SystemExit) as ended:
        train_methods.main([*line, "loop.steps=40"])
    assert ended.value.code == 1 and len(runs) == 1
    assert "holds a run of another configuration" in capsys.readouterr().out


def test_an_unknown_method_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no configuration 'draft9'; there are ablation/"):
        train_methods.main(["--photos", "p", "--methods", "draft9", "--out", str(tmp_path)])
