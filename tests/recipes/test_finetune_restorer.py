"""The fine-tuning recipe: what a run leaves, broken runs, roll-back, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from torch.nn import functional

from recipes import finetune_restorer as recipe
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.pipeline import TinyRestorationPipeline
from zoomiqa_core.images import save_png
from zoomiqa_core.proxy.model import QualityProxy

ROOT = Path(recipe.__file__).parents[1]
SMOKE = ROOT / "recipes" / "configs" / "finetune_restorer" / "smoke.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, pipe: TinyRestorationPipeline) -> list[str]:
    """Photos, a tiny restorer and a tiny judge."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        coarse = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(number))
        photo = functional.interpolate(coarse, (72, 80), mode="bicubic").clamp(0, 1)
        save_png(photo, folder / "photos" / f"{number}.png")
    pipe.save_pretrained(folder / "restorer")
    QualityProxy(width=8).save_pretrained(folder / "judge")
    return [
        f"photos={folder}/photos",
        f"restorer={folder}/restorer",
        f"judge={folder}/judge",
        "threads=0",
    ]


def run(data: list[str], out: Path, *more: str) -> dict[str, torch.Tensor]:
    recipe.main(["--config", str(SMOKE), *data, f"out={out}", *more])
    return load_file(out / "adapter" / "adapter_model.safetensors")


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_that_is_promised(data, tmp_path, capsys):
    adapter = run(data, tmp_path)
    assert any(float(weight.abs().max()) > 0 for n, weight in adapter.items() if "lora_B" in n)
    log = records(tmp_path)
    assert [line["step"] for line in log] == [1, 2]
    assert {"reward/rating", "reward/low_pass", "reward/reward", "grad_norm"} <= log[0].keys()
    checks = json.loads((tmp_path / "checks.json").read_text())
    assert [check["step"] for check in checks] == [0, 1, 2]
    names = ["curves.png", "before_after.png", "previews/step-000002.png", "versions.json"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in names[:3])
    assert (tmp_path / "checkpoints" / "step-000002" / "COMPLETE").is_file()
    card = (tmp_path / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "## Measured" in card and "rank: 2" in card and "| 2 |" in card
    assert str(tmp_path) not in card and str(Path(data[0][7:]).parent) not in card
    (candidate,) = load_restorer(tmp_path / "pipeline").restore(torch.rand(1, 3, 17, 23), n=1)
    assert candidate.image.shape == (3, 17, 23)
    assert UNet2DModel.from_pretrained(tmp_path / "pipeline" / "unet").config["in_channels"] == 36
    assert "weights:" in capsys.readouterr().out


def interrupt(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Break off at the start of the given optimiser step, counted over the whole process."""
    take_step, calls = recipe.Loop.take_step, []

    def broken(self):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return take_step(self)

    monkeypatch.setattr(recipe.Loop, "take_step", broken)


@pytest.mark.parametrize("more", [(), ("reward.weights.reference=1", "lora.rank=2")])
def test_a_broken_run_ends_with_the_weights_of_an_unbroken_one(data, tmp_path, monkeypatch, more):
    settings = ("loop.steps=3", "monitor.every=1", *more)
    whole = run(data, tmp_path / "whole", *settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 3)
        run(data, tmp_path / "broken", *settings)
    resumed = run(data, tmp_path / "broken", *settings)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    timing = {"seconds", "cpu_seconds"}
    own, other = (records(tmp_path / name) for name in ("whole", "broken"))
    assert [{k: v for k, v in line.items() if k not in timing} for line in own] == [
        {k: v for k, v in line.items() if k not in timing} for line in other
    ]


def test_a_hacked_run_stops_and_goes_back(data, tmp_path, monkeypatch):
    compare = recipe.Monitor.look

    def look(self, step):
        from dataclasses import replace

        check = compare(self, step)
        if step < 2:
            return replace(check, honest=True, hacked=False)
        return replace(check, honest=False, hacked=True, reason="hacked: as the test says")

    monkeypatch.setattr(recipe.Monitor, "look", look)
    settings = ("loop.steps=4", "monitor.every=1", "loop.learning_rate=0.01")
    kept = run(data, tmp_path / "stopped", *settings)
    log = records(tmp_path / "stopped")
    assert [line["step"] for line in log] == [1, 2]  # stopped at the check of step 2
    card = (tmp_path / "stopped" / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "Stopped at step 2. Hacked: as the test says. Kept: step 1, the last honest" in card
    unstopped = run(data, tmp_path / "unstopped", *settings, "monitor.stop=false")
    assert len(records(tmp_path / "unstopped")) == 4
    text = (tmp_path / "unstopped" / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "Step 4 was kept although it is hacked" in text
    first = run(data, tmp_path / "first", "loop.steps=1", "loop.learning_rate=0.01")
    assert all(torch.equal(kept[name], first[name]) for name in kept)
    assert any(not torch.equal(kept[name], unstopped[name]) for name in kept)


def test_full_weights_leave_no_adapter(data, tmp_path):
    recipe.main(["--config", str(SMOKE), *data, f"out={tmp_path}", "lora.rank=0", "loop.steps=1"])
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "pipeline" / "unet").is_dir()


def test_another_configuration_wants_another_folder(data, tmp_path):
    run(data, tmp_path, "loop.steps=1")
    with pytest.raises(ValueError, match="another configuration"):
        run(data, tmp_path, "loop.steps=2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one source of images"),
        ({"photos": "p", "pairs": "q"}, "give one source of images"),
        ({"pairs": "p"}, "pairs need held_out"),
    ],
)
def test_senseless_configurations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        recipe.Config(**settings)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_in_two_passes(data, tmp_path):
    settings = ["loop.passes=2", "loop.steps=3", "loop.learning_rate=0.01"]
    one = run(data, tmp_path / "one", *settings)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "-m", "recipes.finetune_restorer"]
    command += ["--config", str(SMOKE), *data, f"out={tmp_path / 'two'}", *settings]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    two = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-6, rtol=0)
    own, other = records(tmp_path / "one")[-1], records(tmp_path / "two")[-1]
    assert own["used"] == other["used"] == 4
    assert own["reward/reward"] == pytest.approx(other["reward/reward"], abs=1e-3)
