"""``restoration-guide pick``: one input, many methods, no input."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from restoration_guide.cli.main import app
from restoration_guide.cli.restorer import read_plan
from zoomiqa_core.images.sources import read_image, save_png


@pytest.fixture
def folder(tmp_path: Path, stubs) -> Path:
    """Two photos and the outputs of two methods; one output is text, one has another size."""
    stubs.install()
    for name in ("a", "b"):
        photo = stubs.make_photo()
        smooth = stubs.smooth(photo, torch.Generator().manual_seed(0))
        save_png(photo, tmp_path / "in" / f"{name}.png")
        save_png(smooth, tmp_path / "out" / "good" / f"{name}.png")
        save_png(photo, tmp_path / "out" / "idle" / f"{name}.png")
    (tmp_path / "out" / "idle" / "b.png").write_text("text")
    save_png(smooth[:, ::2], tmp_path / "small.png")
    return tmp_path


def run(*line: object):
    return CliRunner().invoke(app, ["pick", *map(str, line)])


def test_methods_are_compared_photo_by_photo(folder) -> None:
    for given in ([folder / "out"], [folder / "out" / "good", folder / "out" / "idle"]):
        result = run(folder / "in", *given)
        assert result.exit_code == 0, result.output
        assert result.stdout.count(": good\n") == 2
        assert "unreadable: idle: " in result.stdout
        assert result.stdout.splitlines()[-1] == "2 photos, won by: input 0, good 2, idle 0"


def test_one_input_and_candidates_of_all_kinds(folder) -> None:
    given = [folder / "in" / "a.png", folder / "out", folder / "small.png", folder / "none.png"]
    result = run(*given, "--json", "--out", folder / "best.png")
    assert result.exit_code == 0 and "none.png: no such file" in result.stderr
    (row,) = json.loads(result.stdout)["results"]
    assert row["choice"].endswith("good/a.png") == row["ranking"][0].endswith("good/a.png")
    statuses = {Path(r["settings"]["image"]).name: r["status"] for r in row["rows"][1:]}
    assert statuses == {"a.png": "ok", "b.png": "unreadable", "small.png": "wrong_size"}
    best, good = (read_image(folder / name).pixels for name in ("best.png", "out/good/a.png"))
    assert torch.equal(best, good)


def test_reports_and_their_index(folder) -> None:
    result = run(folder / "in", folder / "out", "--out", folder / "reports")
    assert result.exit_code == 0, result.output
    index = json.loads((folder / "reports" / "index.json").read_text(encoding="utf-8"))
    assert index["totals"]["restored"] == 2
    assert (folder / "reports" / "a.png" / "report.html").is_file()


def test_without_an_input(folder) -> None:
    result = run("--no-input", folder / "out" / "good", folder / "out" / "idle" / "a.png")
    assert result.exit_code == 0 and "images: " in result.stdout and "/good/" in result.stdout
    nothing = run("--no-input", folder / "out" / "idle" / "b.png")
    assert nothing.exit_code == 2 and "all 1 were skipped (1 unreadable)" in nothing.stderr


def test_wrong_usage_is_explained(folder) -> None:
    alone = run(folder / "in" / "a.png")
    assert alone.exit_code == 1 and "add --no-input" in alone.stderr
    mixed = run(folder / "in", folder / "small.png")
    assert mixed.exit_code == 1 and "small.png is not a folder" in mixed.stderr


# --- --plan of best-of-n -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3", "expected a list of settings, such as"),
        ("[]", "expected a list of settings"),
        ("- {steps: 3}\n- strength", "entry 2 is 'strength', expected settings as"),
        ("- {steps: [", "cannot read a plan"),
    ],
)
def test_plans_that_cannot_be_read(tmp_path, text, message) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.yaml") as caught:
        read_plan(tmp_path / "plan.yaml")
    assert message in str(caught.value)


def test_a_plan_makes_the_candidates(tmp_path, photo_file) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("- {steps: 1, strength: 0.25, temperature: 0, churn: false}\n")
    line = ["best-of-n", photo_file, "--n", 1, "--out", tmp_path / "out", "--scorer", "proxy"]
    made = CliRunner().invoke(app, [*map(str, line), "--plan", str(plan)])
    assert made.exit_code == 0, made.output
    record = json.loads((tmp_path / "out" / "photo.png" / "report.json").read_text())
    assert record["rows"][1]["settings"]["strength"] == 0.25
    plan.write_text("- {steps: 3}\n")
    short = CliRunner().invoke(app, [*map(str, line), "--plan", str(plan)])
    assert short.exit_code == 1 and "entry 1 has steps; the builtin restorer needs" in short.stderr
    pool = [*map(str, line), "--plan", str(plan), "--restorer", "builtin", "--restorer", "x.pth"]
    assert "a plan is of one restorer" in CliRunner().invoke(app, pool).stderr
