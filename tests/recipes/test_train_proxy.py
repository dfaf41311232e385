"""The proxy's recipe: a resumed run, worker processes, and training from a trained proxy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes import train_proxy as recipe
from recipes.compose import compose
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy.batches import VERSIONS
from zoomiqa_core.proxy.model import QualityProxy

SMOKE = Path(recipe.__file__).parent / "configs" / "train_proxy" / "smoke.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A miniature BIQ2021, its photos as clean ones, a restored set, and backbone weights."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["image_name,mos,set"]
    for index in range(8):
        generator = torch.Generator().manual_seed(index)
        save_png(
            torch.rand(3, 180, 190, generator=generator), folder / "images" / f"ss01 ({index}).png"
        )
        rows.append(f"ss01 ({index}).png,{index / 8},{'training' if index < 4 else 'validation'}")
    (folder / "mos.csv").write_text("\n".join(rows), encoding="utf-8")
    torch.save(QualityProxy(width=8).backbone.state_dict(), folder / "imagenet.pth")
    save_png(torch.rand(3, 180, 180 * len(VERSIONS)), folder / "sets" / "0.png")
    return [
        f"photos={folder}/images",
        f"biq2021={folder}",
        f"restored={folder}/sets",
        f"start={folder}/imagenet.pth",
    ]


def run(data: list[str], out: Path, *more: str) -> dict[str, torch.Tensor]:
    recipe.main(["--config", str(SMOKE), *data, f"out={out}", "device=cpu:0", *more])
    return load_file(out / "weights" / "model.safetensors")


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(data, tmp_path, monkeypatch):
    whole = run(data, tmp_path / "whole")
    shipped = QualityProxy.from_pretrained(tmp_path / "whole" / "weights").state_dict()
    assert all(torch.equal(shipped[name].half(), whole[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").open()]
    assert [line["step"] for line in log] == [1, 2]
    assert {"rated_regression", "made_ranking", "made_map", "made_error", "srcc"} <= log[-1].keys()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipe, "validate", stop)  # breaks after the first step's checkpoint
        run(data, tmp_path / "broken")
    resumed = run(data, tmp_path / "broken")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_features_are_standardised_on_different_batches(data, monkeypatch):
    config, _ = compose(recipe.Config, ["--config", str(SMOKE), *data])
    photos, _ = recipe.read_data(config)
    batches = []
    monkeypatch.setattr(QualityProxy, "standardise", lambda self, images: batches.extend(images))
    recipe.start_proxy(config, photos)
    assert len(batches) == 20
    assert len({float(images.sum()) for images in batches}) > 10


def test_processes_that_draw_ahead_change_nothing(data, tmp_path):
    alone, helped = (run(data, tmp_path / n, f"workers={n}") for n in ("0", "2"))
    assert all(torch.equal(alone[name], helped[name]) for name in alone)


def test_a_run_may_start_from_a_trained_proxy(data, tmp_path):
    whole = run(data, tmp_path / "first")
    still = run(
        data, tmp_path / "second", f"start={tmp_path}/first/weights", "head_lr=0", "backbone_lr=0"
    )
    assert all(torch.equal(whole[name], still[name]) for name in whole)
