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
from restoration_guide.restorers import Restorer, candidate_generator, load_restorer
from restoration_guide.restorers.builtin.restorer import WeightsError
from tests.guide import tiny_pipelines
from tests.guide.own_pipeline import build_own_pipeline
from zoomiqa_core.images.sources import to_pil

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
    with pytest.raises(ValueError, match="plan needs"):
        load_restorer(noisy, plan=[])
    with pytest.raises(TypeError, match="returned str; expected a float tensor"):
        list(load_restorer(lambda image, generator: "x").restore(image(), n=1))
    with pytest.raises(TypeError, match=r"returned torch\.uint8; expected a float tensor"):
        list(load_restorer(lambda image: (255 * image).byte()).restore(image(), n=1))
    enlarging = load_restorer(lambda image, generator: image.repeat(1, 1, 2, 2))
    result = BestOfN(enlarging, stubs.Scorer(), n=1)(image()[0])
    assert result.rows[1].status == "wrong_size"

    def spoiling(image: Tensor, generator: torch.Generator) -> Tensor:
        return image.mul_(0)

    kept = image()
    list(load_restorer(spoiling).restore(kept, n=2))
    assert torch.equal(kept, image())


def test_a_function_without_a_generator() -> None:
    (darker,) = load_restorer(lambda image: image / 2).restore(image(), n=1)
    assert torch.equal(darker.image, image()[0] / 2)
    plan = [{"gain": 0.5}, {}]
    restorer = load_restorer(lambda image, gain=1.0: image * gain, plan=plan)
    first, second = restorer.restore(image(), n=2)
    assert torch.equal(first.image, image()[0] / 2) and torch.equal(second.image, image()[0])
    (drawn,) = load_restorer(
        lambda image, rng=None: image * 0 + torch.rand(1, generator=rng)
    ).restore(image(), n=1, seed=3)
    assert float(drawn.image[0, 0, 0]) == float(torch.rand(1, generator=candidate_generator(3, 0)))


@pytest.mark.parametrize(
    ("function", "plan"),
    [(lambda: None, [{}]), (lambda image: image, [{"gain": 1}]), (lambda a, b, c: a, [{}])],
)
def test_a_function_that_cannot_be_called_is_refused_at_once(function: Any, plan: Any) -> None:
    with pytest.raises(TypeError, match=r"as f\(image\) or f\(image, generator\)"):
        load_restorer(function, plan=plan)


def test_a_network() -> None:
    network = torch.nn.Conv2d(3, 3, 1).double()
    with pytest.raises(ValueError, match=r"in training mode.*call its \.eval\(\) first"):
        load_restorer(network)
    (candidate,) = load_restorer(network.eval()).restore(image(), n=1)
    expected = network(image().double())[0].float()
    assert torch.equal(candidate.image, expected.detach()) and not candidate.image.requires_grad
    with pytest.raises(TypeError, match=r"Identity is a class: give an instance"):
        load_restorer(torch.nn.Identity)


def test_pictures_and_arrays_are_read() -> None:
    (picture,) = load_restorer(lambda image: to_pil(image[0])).restore(image(), n=1)
    torch.testing.assert_close(picture.image, image()[0], atol=0.5 / 255 + 1e-6, rtol=0)
    (array,) = load_restorer(lambda image: image[0].permute(1, 2, 0).numpy()).restore(image(), n=1)
    assert torch.equal(array.image, image()[0])


def test_a_candidate_that_fails_leaves_the_others() -> None:
    def fragile(image: Tensor, fails: bool = False) -> Tensor:
        if fails:
            raise RuntimeError("the second entry fails")
        return image

    restorer, made = load_restorer(fragile, plan=[{}, {"fails": True}]), []
    with pytest.raises(RuntimeError, match="the second entry fails"):
        for candidate in restorer.restore(image(), n=4):
            made.append(candidate.index)
    assert made == [0, 2]


def test_a_deadline_works_with_a_function(stubs: Any) -> None:
    search = BestOfN(load_restorer(noisy), stubs.Scorer(), n=4, deadline_s=1000.0)
    assert [c.index for c in search(image()[0]).candidates] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must not be negative"),
        ({"n": 0}, ValueError, "n and batch_size must be at least 1"),
        ({"image": 255 * torch.rand(1, 3, 16, 16)}, ValueError, "divide 8-bit values by 255"),
        ({"image": 2 * torch.rand(1, 3, 16, 16) - 1}, ValueError, "image / 2 [+] 0.5"),
        ({"image": torch.rand(3, 16, 16)}, ValueError, r"Expected one image \(1, 3, H, W\)"),
        ({"image": torch.zeros(1, 3, 16, 16).byte()}, TypeError, "to_batch makes one"),
    ],
)
@pytest.mark.parametrize("source", ["builtin", "pipeline", "function"])
def test_arguments_are_checked_when_restore_is_called(
    source: str, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    made: Any = {"pipeline": build_own_pipeline(), "function": noisy}.get(source, source)
    restorer = load_restorer(made)
    with pytest.raises(error, match=message):  # before the first candidate is asked for
        restorer.restore(**{"image": image(), "n": 1, **asked})


def test_device_and_dtype_reach_a_pipeline_object() -> None:
    pipe: Any = build_own_pipeline()
    restorer: Any = load_restorer(pipe, dtype=torch.float64)
    assert restorer.adapter.pipe.unet.dtype == torch.float64
    assert load_restorer(pipe, device="meta").adapter.device.type == "meta"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="device and dtype are of pipelines"):
        load_restorer(noisy, device="cpu")


def test_a_restorer_is_returned_as_it_is() -> None:
    restorer = load_restorer(noisy)
    assert load_restorer(restorer) is restorer
    with pytest.raises(ValueError, match=r"noisy is a restorer already: it takes no \['plan'\]"):
        load_restorer(restorer, plan=[{}])
