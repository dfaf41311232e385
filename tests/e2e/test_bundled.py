"""The bundled restorer and judge, from the command line to the report, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from restoration_guide.cli import main as cli
from zoomiqa_core.cli.main import app as zoomiqa
from zoomiqa_core.images.sources import read_image, save_png


@pytest.fixture(scope="module")
def crop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128² of the bundled photo, sides that are no multiple of the map's cells."""
    pixels = read_image(cli.DEMO_PHOTO).pixels[:, 100:223, 100:229]
    return save_png(pixels, tmp_path_factory.mktemp("photo") / "crop.png")


def restore(crop: Path, out: Path, *options: str) -> Path:
    arguments = ["best-of-n", str(crop), "--n", "3", "--seed", "5", "--out", str(out), *options]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    (report,) = (path for path in out.iterdir() if path.is_dir())
    return report


def pixels_of(report: Path) -> dict[str, bytes]:
    pictures = [report / "best.png", *sorted((report / "candidates").iterdir())]
    return {path.name: path.read_bytes() for path in pictures}


def test_the_same_seed_gives_the_same_bytes(crop, tmp_path):
    first, again = restore(crop, tmp_path / "a"), restore(crop, tmp_path / "b")
    assert pixels_of(first) == pixels_of(again)
    records = [json.loads((run / "report.json").read_text()) for run in (first, again)]
    assert all(record.pop("timing") for record in records)
    assert records[0] == records[1]
    assert {"comparison.png", "report.html", "config.yaml"} <= {p.name for p in first.iterdir()}


def test_candidates_do_not_depend_on_the_batch_size_or_n(crop, tmp_path):
    alone = pixels_of(restore(crop, tmp_path / "one"))
    together = pixels_of(restore(crop, tmp_path / "three", "--batch-size", "3"))
    fewer = pixels_of(restore(crop, tmp_path / "two", "--n", "2"))
    assert alone == together
    assert fewer["00.png"] == alone["00.png"] and fewer["01.png"] == alone["01.png"]


def test_the_judge_scores_and_maps_the_photo(tmp_path):
    scored = CliRunner().invoke(zoomiqa, ["score", str(cli.DEMO_PHOTO), "--json"])
    (record,) = json.loads(scored.stdout)["results"]
    assert record["valid"] and 1 <= record["rating"] <= 5
    mapped = CliRunner().invoke(zoomiqa, ["map", str(cli.DEMO_PHOTO), "--out", str(tmp_path)])
    assert mapped.exit_code == 0
    assert read_image(mapped.stdout.strip()).pixels.shape[0] == 3
