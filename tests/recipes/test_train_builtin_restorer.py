"""The restorer's recipe: budget, schedule, data, an unbroken and a broken run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes import train_builtin_restorer as recipe
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.builtin import residual_flow
from zoomiqa_core.images.sources import save_png

SMOKE = Path(recipe.__file__).parent / "configs" / "train_builtin_restorer" / "smoke.yaml"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        coarse = torch.rand(1, 3, 9, 8, generator=generator)
        photo = torch.nn.functional.interpolate(coarse, (144, 128), mode="bicubic").clamp(0, 1)
        save_png(photo, folder / f"{number}.png")
    return folder


def arguments(photos: Path, out: Path, *more: str) -> list[str]:
    return ["--config", str(SMOKE), f"photos={photos}", f"out={out}", "threads=0", *more]


def test_budget_is_steps_or_minutes() -> None:
    by_steps = recipe.Config(photos="p", steps=200)
    by_time = recipe.Config(photos="p", minutes=2.0)
    assert recipe.spent(by_steps, 50, 1e9) == 0.25
    assert recipe.spent(by_time, 10**9, 30.0) == 0.25
    for wrong in ({}, {"steps": 1, "minutes": 1.0}):
        with pytest.raises(ValueError, match="give one budget"):
            recipe.Config(photos="p", **wrong)
    with pytest.raises(ValueError, match="multiple of 8, got 50"):
        recipe.Config(photos="p", steps=1, crop=50)
    with pytest.raises(ValueError, match="time_low < time_high"):
        recipe.Config(photos="p", steps=1, time_low=0.9, time_high=0.1)


def test_learning_rate_by_hand() -> None:
    config = recipe.Config(photos="p", steps=1, learning_rate=1.0, warmup_steps=10, cosine_from=0.5)
    assert recipe.learning_rate(config, 0, 0.0) == pytest.approx(0.1)  # first of ten steps
    assert recipe.learning_rate(config, 50, 0.5) == pytest.approx(1.0)
    assert recipe.learning_rate(config, 50, 0.75) == pytest.approx(0.51)  # 0.02 + 0.98 / 2
    assert recipe.learning_rate(config, 50, 1.0) == pytest.approx(0.02)


@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_a_broken_run_ends_as_an_unbroken_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    recipe.main(arguments(photos, unbroken, f"device={device}"))  # and without checks between

    flow_loss, calls = residual_flow.flow_loss, []

    def interrupted(*given: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return flow_loss(*given)  # type: ignore[arg-type]

    words = arguments(photos, broken, f"device={device}", f"val_photos={photos}", "save_minutes=0")
    monkeypatch.setattr(residual_flow, "flow_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe.main(words)
    monkeypatch.undo()
    recipe.main(words)

    weights = [
        load_file(run / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
        for run in (unbroken, broken)
    ]
    tolerance = 0.0 if device.startswith("cpu") else 1e-2  # CUDA adds in any order
    torch.testing.assert_close(weights[0], weights[1], atol=tolerance, rtol=tolerance)
    records = [json.loads(line) for line in (broken / "log.jsonl").read_text().splitlines()]
    assert records[-1]["steps"] == 4 and records[-1]["psnr_input"] > 10
    assert (broken / "preview.png").is_file()
    card = (broken / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "channels:" in card and "psnr_input:" in card
    assert str(tmp_path) not in card and str(photos) not in card  # nobody's paths

    restorer = load_restorer(broken / "pipeline")
    (candidate,) = restorer.restore(torch.rand(1, 3, 17, 23), n=1)
    assert candidate.image.shape == (3, 17, 23)
