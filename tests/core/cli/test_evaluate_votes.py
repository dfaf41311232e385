"""`zoomiqa eval votes` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zoomiqa_core.cli.main import app
from zoomiqa_core.images.sources import save_png


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PHOTOS/votes.csv: two photos; of each, people prefer less noise."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    rows = ["left,right,selected,input,photo"]
    ramp = torch.linspace(0.2, 0.8, 96).expand(3, 96, 96)
    for photo in "ab":
        noise = torch.randn(3, 96, 96, generator=generator)
        for level in (0, 1, 2, 3):
            image = (ramp + 0.05 * level * noise).clamp(0, 1)
            save_png(image, tmp_path / "photos" / f"{photo}{level}.png")
        for left, right in ((0, 1), (0, 2), (1, 2)):
            rows.append(f"{photo}{left}.png,{photo}{right}.png,left,{photo}3.png,{photo}")
    (tmp_path / "photos" / "votes.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def zoomiqa(*arguments: str):
    return CliRunner().invoke(app, ["eval", "votes", *arguments])


def test_the_restoration_judge_with_and_without_the_input(folder: Path) -> None:
    result = zoomiqa("--data", "photos", "--scorer", "restoration")
    assert result.exit_code == 0, result.output
    run = folder / "runs" / "eval" / "votes-photos-all-restoration"
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    title = "votes-photos · restoration · 2 photos · 6 images · 6 pairs · 6 votes"
    assert " ".join(lines[0]) == title
    rows = {line[0]: line for line in lines}
    # sharpness prefers noise: always wrong
    assert rows["sharpness"][1:3] == ["0.000", "[0.000,"]
    assert rows["chance"][1] == "0.500" and rows["chance"][7] == "0.333"
    summary = json.loads((run / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["agreement"]["with input"]["votes"]["value"] == 1
    assert summary["agreement"]["without input"]["judged"] == 6
    assert summary["agreement"]["majority ceiling"]["best"]["value"] == 1
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "agreement.png", "sharpness"}
    again = zoomiqa("--data", "photos/votes.csv", "--scorer", "restoration", "--out", str(run))
    assert again.exit_code == 1 and "another configuration" in again.stderr  # another name


def test_a_run_is_repeated_from_its_lines(folder: Path) -> None:
    first = zoomiqa("--data", "photos")
    assert first.exit_code == 0 and "  judge " in first.stdout, first.output
    for image in (folder / "photos").glob("*.png"):
        image.unlink()
    assert zoomiqa("--data", "photos").stdout == first.stdout
    assert zoomiqa("--data", "photos", "--limit", "1", "--out", "one").exit_code == 2
    refused = zoomiqa("--data", "photos", "--scorer", "alarm", "--out", "one")
    assert refused.exit_code == 1 and "another configuration" in refused.stderr


def test_mistakes_end_with_a_message(folder: Path) -> None:
    for arguments, message in (
        (("--data", "none"), "none does not exist; give a folder of votes"),
        (("--data", "."), "holds no votes"),
        (("--data", "photos", "--split", "test"), "votes have no --split"),
    ):
        result = zoomiqa(*arguments)
        assert result.exit_code == 1 and message in " ".join(result.output.split())


def test_the_largest_image_is_the_callers_to_set(folder: Path) -> None:
    result = zoomiqa("--data", "photos", "--scorer", "restoration", "--max-megapixels", "0.005")
    assert result.exit_code == 2  # 96² is more
    for row, name in (("with input", "input_too_large"), ("without input", "too_large")):
        assert f"{row}: 6 of 6 images failed (6 {name})" in result.stdout
    assert "sharpness: 6 of 6 images failed (6 too_large)" in result.stdout
