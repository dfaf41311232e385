"""The comparison of fine-tuned restorers: changes by hand, and one tiny run."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import UNet2DModel

from benchmarks import evaluate_finetuned
from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.training.policy import LoraSettings


def test_changes_by_hand():
    before = {"psnr": [20.0, 30.0]}
    after = [{"psnr": [21.0, 33.0]}, {"psnr": [23.0, 33.0]}]  # two seeds
    found = evaluate_finetuned.changes(before, after)
    assert found["psnr"].value == pytest.approx(2.5)
    assert 2.0 <= found["psnr"].low <= found["psnr"].high <= 3.0
    assert evaluate_finetuned.spread(before, after) == {"psnr": pytest.approx(1.0)}


def write_config(run: Path, *, restorer: str, rating: float) -> None:
    """What a run's folder says of a reward by the alarm."""
    weights = f"{{rating: {rating}, map: 0.0, worst_region: 0.0, truth: 1.0}}"
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text(
        f"restorer: {restorer}\njudge: alarm\nrollout: {{steps: 2, temperature: 0.5}}\n"
        f"reward: {{weights: {weights}}}\n",
        encoding="utf-8",
    )


def test_a_reward_without_a_rating_is_by_no_judge(tmp_path):
    write_config(tmp_path / "run", restorer="builtin", rating=0.0)
    assert evaluate_finetuned.read_run(tmp_path / "run").judge == "none"


def test_an_unchanged_restorer_changes_nothing(pipe, tmp_path, capsys, monkeypatch):
    photo = torch.rand(3, 64, 65, generator=torch.Generator().manual_seed(0))
    photo = torch.nn.functional.interpolate(photo[None], (256, 260), mode="bicubic").clamp(0, 1)
    save_png(photo, tmp_path / "photos" / "0.png")
    pipe.save_pretrained(tmp_path / "start")
    start = TinyRestorationPipeline.from_pretrained(tmp_path / "start")
    network = TunedNetwork(start.unet, LoraSettings(2, 4, ".*"))
    unet = cast(UNet2DModel, network.merged())
    merged = TinyRestorationPipeline(unet, pipe.scheduler, sigma_data=0.55)
    merged.save_pretrained(tmp_path / "run" / "pipeline")
    write_config(tmp_path / "run", restorer=str(tmp_path / "start"), rating=1.0)
    words = ["--photos", str(tmp_path / "photos"), "--runs", str(tmp_path / "run"), "--count", "1"]
    words += ["--kept", str(tmp_path / "kept"), "--out", str(tmp_path / "out.json")]
    evaluate_finetuned.main(words)
    (sampler,) = json.loads((tmp_path / "out.json").read_text())["samplers"]
    changes = sampler["methods"]["run"]["changes"]
    assert {"proxy", "alarm", "psnr", "ms_ssim", "gridding"} <= set(changes)
    assert all(abs(estimate[0]) < 1e-3 for estimate in changes.values())
    printed = capsys.readouterr().out
    assert "| run | alarm | 1 |" in printed

    def restore(*_: object, **__: object) -> None:
        raise AssertionError("figures are kept: nothing is restored again")

    monkeypatch.setattr(evaluate_finetuned, "measure", restore)
    evaluate_finetuned.main(words)
    assert capsys.readouterr().out.partition("1 crops")[2] == printed.partition("1 crops")[2]
