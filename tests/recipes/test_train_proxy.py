"""The proxy's recipe: schedule, averaging, an unbroken run and a resumed one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes import train_proxy as recipe
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


def test_schedule_by_hand():
    config = recipe.Config(photos="p", biq2021="b", restored="r", start="s", steps=1000)
    assert recipe.schedule(0, 0, config) == pytest.approx(0.01)
    assert recipe.schedule(149, 150, config) == 0  # rests until its begin
    assert recipe.schedule(500, 0, config) == pytest.approx(0.5)
    assert recipe.schedule(1000, 0, config) == pytest.approx(0)


def test_average_by_hand():
    # count 8: decay 9/18 = ½; count 10⁶: the ceiling .9
    old, new = torch.tensor([1.0]), torch.tensor([3.0])
    assert recipe.average(old, new, 8, 0.9).item() == pytest.approx(2)
    assert recipe.average(old, new, 10**6, 0.9).item() == pytest.approx(1.2)


def test_only_what_should_learn_learns():
    proxy = QualityProxy(width=8)
    config = recipe.Config(photos="p", biq2021="b", restored="r", start="s")
    backbone, heads = recipe.parameter_groups(proxy, config)
    learning = {id(p) for group in (backbone, heads) for p in group["params"]}
    assert id(proxy.backbone.conv_stem.weight) not in learning
    assert id(proxy.backbone.blocks[3][0].conv_dw.weight) not in learning
    assert id(proxy.backbone.blocks[3][0].conv_pw.weight) in learning
    assert id(proxy.rating_head.weight) in learning
    everywhere = replace(config, frozen_depthwise=False)
    proxy.requires_grad_(True)
    backbone, _ = recipe.parameter_groups(proxy, everywhere)
    assert id(proxy.backbone.blocks[3][0].conv_dw.weight) in {id(p) for p in backbone["params"]}


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


def test_processes_that_draw_ahead_change_nothing(data, tmp_path):
    alone, helped = (run(data, tmp_path / n, f"workers={n}") for n in ("0", "2"))
    assert all(torch.equal(alone[name], helped[name]) for name in alone)


def test_a_run_may_start_from_a_trained_proxy(data, tmp_path):
    whole = run(data, tmp_path / "first")
    still = run(
        data, tmp_path / "second", f"start={tmp_path}/first/weights", "head_lr=0", "backbone_lr=0"
    )
    assert all(torch.equal(whole[name], still[name]) for name in whole)


def test_parts_that_a_trained_proxy_lacks_start_anew_and_unknown_ones_are_refused(tmp_path):
    proxy = QualityProxy()
    stored = {n: torch.full_like(v, 2) for n, v in proxy.state_dict().items() if "whole" not in n}
    save_file(stored, tmp_path / "model.safetensors")
    before = proxy.get_parameter("whole.1.weight").clone()
    recipe.load_start(proxy, tmp_path)
    assert bool((proxy.rating_head.weight == 2).all())
    assert torch.equal(proxy.get_parameter("whole.1.weight"), before)
    save_file({"another.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"another\.weight"):
        recipe.load_start(proxy, tmp_path)
