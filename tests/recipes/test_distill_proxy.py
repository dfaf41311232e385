"""The distillation's recipe: an unbroken run and a resumed one, and what the teacher is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes import distill_proxy as recipe
from zoomiqa_core.assessment import Assessment, RegionScore
from zoomiqa_core.images.sources import read_image, save_png
from zoomiqa_core.proxy.batches import VERSIONS
from zoomiqa_core.proxy.model import QualityProxy

SMOKE = Path(recipe.__file__).parent / "configs" / "distill_proxy" / "smoke.yaml"


class Contrast:
    """A teacher that likes contrast, and fails on one image."""

    name = "contrast"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def assess(self, path: Path) -> Assessment:
        self.asked.append(path.name)
        if path.name == "00002.png":
            return Assessment.failed("truncated")
        return Assessment(1 + 4 * min(1.0, 3 * float(read_image(path).pixels.std())), 0.3)

    def score_regions(self, path: Path, bboxes) -> list[RegionScore]:
        return [RegionScore(bbox, 3.0, 0.3) for bbox in bboxes]


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Contrast:
    judge = Contrast()
    monkeypatch.setattr(recipe, "load_scorer", lambda *_, **__: judge)
    return judge


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A miniature BIQ2021, its photos as clean ones, a restored set, and a proxy to go on from."""
    folder = tmp_path_factory.mktemp("data")
    rows, generator = ["image_name,mos,set"], torch.Generator().manual_seed(0)
    for index in range(8):
        save_png(
            torch.rand(3, 180, 190, generator=generator), folder / "images" / f"ss01 ({index}).png"
        )
        rows.append(f"ss01 ({index}).png,{index / 8},{'training' if index < 4 else 'validation'}")
    (folder / "mos.csv").write_text("\n".join(rows), encoding="utf-8")
    torch.manual_seed(0)
    QualityProxy().save_pretrained(folder / "start")
    save_png(torch.rand(3, 180, 180 * len(VERSIONS)), folder / "sets" / "0.png")
    return [
        "teacher=contrast",
        f"photos={folder}/images",
        f"biq2021={folder}",
        f"restored={folder}/sets",
        f"start={folder}/start",
    ]


def run(data: list[str], out: Path) -> dict[str, torch.Tensor]:
    recipe.main(["--config", str(SMOKE), *data, f"out={out}", "device=cpu:0"])
    return load_file(out / "weights" / "model.safetensors")


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    data, tmp_path, monkeypatch, teacher, capsys
):
    whole = run(data, tmp_path / "whole")
    assert "5 labels, 1 failures {'truncated': 1}" in capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").open()]
    assert [line["step"] for line in log] == [0, 1, 2]
    assert {"taught_rating", "taught_spread", "taught_regions", "taught_order"} <= log[-1].keys()
    assert {"rated_regression", "made_map", "srcc", "srcc_with_teacher"} <= log[-1].keys()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipe, "validate", stop)  # breaks after the first step's checkpoint
        run(data, tmp_path / "broken")
    teacher.asked.clear()
    resumed = run(data, tmp_path / "broken")
    assert teacher.asked == []
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_too_few_labels_are_refused(data, tmp_path, teacher, monkeypatch):
    monkeypatch.setattr(teacher, "assess", lambda path: Assessment.failed("truncated"))
    with pytest.raises(ValueError, match="0 valid labels, 0 held out: give at least 3"):
        run(data, tmp_path)
