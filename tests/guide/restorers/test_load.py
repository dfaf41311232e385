"""Restorers from folders, hub ids, pipelines saved as text-to-image, and plain functions."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from restoration_guide import BestOfN
from restoration_guide.restorers import Restorer, load_restorer
from restoration_guide.restorers.builtin.restorer import WeightsError
from tests.guide import tiny_pipelines

diffusers: Any = importlib.import_module("diffusers")


def image() -> Tensor:
    return torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["ldm_super_resolution", "sd_upscale", "sd3_img2img"])
def test_a_saved_pipeline_comes_back_as_its_class(name: str, tmp_path: Path) -> None:
    pipe = tiny_pipelines.build(name)
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    more: dict[str, Any] = {"options": tiny_pipelines.options(name), "plan": [{}]}
    loaded: Any = load_restorer(tmp_path, **more)
    assert type(loaded.adapter.pipe) is type(pipe) and loaded.name == str(tmp_path)
    ours = list(load_restorer(pipe, **more).restore(image(), n=1))
    theirs = list(loaded.restore(image(), n=1))
    assert torch.equal(ours[0].image, theirs[0].image)


def test_a_text_to_image_checkpoint_becomes_image_to_image(tmp_path: Path) -> None:
    pipe: Any = tiny_pipelines.build("sd_img2img")
    words = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    words.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == (
        "StableDiffusionPipeline"
    )
    more: dict[str, Any] = {"options": tiny_pipelines.options("sd_img2img"), "plan": [{}]}
    for source in (tmp_path, words):
        restorer: Any = load_restorer(source, **more)
        assert type(restorer.adapter.pipe).__name__ == "StableDiffusionImg2ImgPipeline"
        (ours,) = load_restorer(pipe, **more).restore(image(), n=1)
        (theirs,) = restorer.restore(image(), n=1)
        assert torch.equal(ours.image, theirs.image)


def test_what_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="expected a diffusers pipeline folder"):
        load_restorer(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder; give a folder, or a hub id"):
        load_restorer(tmp_path / "absent")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="the hub is out of reach"):
        load_restorer("owner/absent-restorer")
    with pytest.raises(TypeError, match="Cannot restore with int"):
        load_restorer(3)  # type: ignore[arg-type]


def noisy(image: Tensor, generator: torch.Generator, scale: float = 0.01) -> Tensor:
    """A stand-in for a GAN with test-time noise."""
    return (image + scale * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def test_a_function(stubs: Any) -> None:
    restorer = load_restorer(noisy, plan=[{}, {"scale": 0.1}])
    assert isinstance(restorer, Restorer) and restorer.name == "noisy"
    whole = list(restorer.restore(image(), n=8, seed=2))
    for n, batch_size in ((1, 1), (2, 3), (5, 8)):
        part = list(restorer.restore(image(), n=n, seed=2, batch_size=batch_size))
        for a, b in zip(part, whole, strict=False):
            assert torch.equal(a.image, b.image) and a.settings_dict == b.settings_dict
    result = BestOfN(restorer, stubs.Scorer(), n=3)(image()[0])
    assert len(result.candidates) == 3 and result.rows[2].settings == {"scale": 0.1}


def test_a_function_that_misbehaves(stubs: Any) -> None:
    with pytest.raises(ValueError, match="shows no previews, because it has no steps"):
        load_restorer(noisy).restore(image(), n=1, observer=lambda previews: [])
    with pytest.raises(ValueError, match="plan needs"):
        load_restorer(noisy, plan=[])
    with pytest.raises(TypeError, match="returned str; expected a tensor"):
        list(load_restorer(lambda image, generator: "x").restore(image(), n=1))
    enlarging = load_restorer(lambda image, generator: image.repeat(1, 1, 2, 2))
    result = BestOfN(enlarging, stubs.Scorer(), n=1)(image()[0])
    assert result.rows[1].status == "wrong_size"

    def spoiling(image: Tensor, generator: torch.Generator) -> Tensor:
        return image.mul_(0)

    kept = image()
    list(load_restorer(spoiling).restore(kept, n=2))
    assert torch.equal(kept, image())
