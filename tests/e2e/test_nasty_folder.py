"""Five verbs over a nasty folder: every good image judged, every bad one named, nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from restoration_guide.cli.main import app as guide
from restoration_guide.restorers.base import Candidate, Settings
from tests.core.judges import GOOD, ScriptedBackend
from tests.nasty_folder import NastyFolder, make_nasty_folder
from zoomiqa_core.cli.main import app as zoomiqa
from zoomiqa_core.images.sources import ImageLimits
from zoomiqa_core.zoom_iqa.judge import ZoomIQA


class QuickRestorer:
    """Its one candidate is the input, a little smoother."""

    name = "quick"
    plan = (Settings(1, 1.0, 0.0, False),)
    limits = ImageLimits(min_side=8)

    def restore(self, image, *, n, seed=0, batch_size=1):
        for index in range(n):
            smooth = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)[0]
            yield Candidate(index, seed, self.plan[0], smooth, 0.1)


@pytest.fixture
def nasty(tmp_path, monkeypatch) -> NastyFolder:
    """A nasty folder ``in`` in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return make_nasty_folder(Path("in"))


def snapshot(without: Path) -> dict[str, int]:
    """Sizes of all files and links below the working folder, except those below ``without``."""
    return {
        os.path.join(parent, name): os.lstat(os.path.join(parent, name)).st_size
        for parent, folders, files in os.walk(".")
        if without not in (Path(parent), *Path(parent).parents)
        for name in files
    }


def run(program, *arguments: str, out: Path | None = None):
    before = snapshot(out or Path("none"))
    result = CliRunner().invoke(program, [*arguments, *(["--out", str(out)] if out else [])])
    assert snapshot(out or Path("none")) == before
    assert result.exit_code == 0, result.output
    return result


def names_of(paths) -> set[str]:
    return {Path(path).relative_to("in").as_posix() for path in paths}


def check_messages(result, nasty: NastyFolder) -> None:
    """Each bad file has one error of its own, and what was passed over is counted by kind."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(nasty.bad)
    for name in nasty.bad:
        assert sum(f"in/{name}" in line for line in errors) == 1, name
    (note,) = [line for line in result.stderr.splitlines() if "passed over" in line]
    assert all(kind in note for kind in nasty.passed_over)


def test_score(nasty) -> None:
    result = run(zoomiqa, "score", "in", "--json")
    check_messages(result, nasty)
    rows = json.loads(result.stdout)["results"]
    assert names_of(row["name"] for row in rows if row["valid"]) == nasty.good
    assert names_of(row["name"] for row in rows if not row["valid"]) == nasty.bad


@pytest.mark.parametrize("out", ["in/out", "out"])
def test_map(nasty, out) -> None:
    first = run(zoomiqa, "map", "in", out=Path(out))
    check_messages(first, nasty)
    again = run(zoomiqa, "map", "in", out=Path(out))  # its own output is no input
    assert again.stdout == first.stdout
    assert len(list(Path(out).rglob("*_map.png"))) == len(nasty.good)


@pytest.fixture
def quick(monkeypatch) -> None:
    import restoration_guide.cli.config as module

    monkeypatch.setattr(module, "load_restorer", lambda name, **_: QuickRestorer())


@pytest.mark.parametrize("out", ["in/out", pytest.param("out", marks=pytest.mark.slow)])
def test_best_of_n_and_gate_on_its_reports(nasty, quick, out) -> None:
    first = run(guide, "best-of-n", "in", "--n", "1", out=Path(out))
    check_messages(first, nasty)
    again = run(guide, "best-of-n", "in", "--n", "1", "--resume", out=Path(out))
    assert again.stdout.count("already done") == len(nasty.good)
    rows = json.loads(Path(out, "index.json").read_text(encoding="utf-8"))["images"]
    status = {row["name"]: row["status"] for row in rows}
    assert len(rows) == len(nasty.good) + len(nasty.bad)
    assert all(status[name] == "unreadable" for name in nasty.bad)
    assert all(status[Path(name).name] in ("restored", "kept") for name in nasty.good)

    verdicts = run(guide, "gate", "in", out, "--min-rating", "1", "--json")
    results = json.loads(verdicts.stdout)["results"]
    assert names_of(row["before"] for row in results if row["action"] != "reject") == nasty.good
    rejected = {Path(row["before"]).name: " ".join(row["reasons"]) for row in results}
    for name in nasty.bad:
        assert name in rejected[name]


def test_gate_on_a_folder_of_the_same_names(nasty) -> None:
    make_nasty_folder(Path("results/after"))
    verdicts = run(guide, "gate", "in", "results/after", "--min-rating", "1", "--json")
    results = json.loads(verdicts.stdout)["results"]
    kept = [row["before"] for row in results if row["action"] == "keep_input"]
    assert names_of(kept) == nasty.good


def test_prompts(nasty, monkeypatch) -> None:
    thought = "Directions for Improvement: Crisp edges.\nIssues to Avoid: Noise.\n"
    judge = ZoomIQA(ScriptedBackend(lambda _: thought + GOOD))
    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", lambda name, **_: judge)
    result = run(guide, "prompts", "in", "--json")
    check_messages(result, nasty)
    rows = json.loads(result.stdout)["results"]
    assert names_of(row["name"] for row in rows if row["phrases"]) == nasty.good
