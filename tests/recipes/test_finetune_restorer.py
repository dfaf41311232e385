"""The fine-tuning recipe: what a run leaves, broken runs, roll-back, several processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file
from torch.nn import functional

from recipes import finetune_restorer as recipe
from restoration_guide.finetune import judges
from restoration_guide.finetune.checkpoints import load_checkpoint
from restoration_guide.finetune.rewards import RewardConfig, Weights
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from tests.guide import tiny_pipelines
from zoomiqa_core import load_scorer
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.runs.folder import RunFolder

ROOT = Path(recipe.__file__).parents[1]
SMOKE = ROOT / "recipes" / "configs" / "finetune_restorer" / "smoke.yaml"
URL = "http://127.0.0.1:1/v1"
SETTINGS = ("loop.steps=3", "monitor.every=1", "reward.weights.reference=1")


@pytest.fixture(scope="module", autouse=True)
def own_accelerator():
    """accelerate keeps what the first trainer of a process wished for."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


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
    places = ("photos", "restorer", "judge")
    return [*(f"{name}={folder / name}" for name in places), "threads=0"]


def run(data: list[str], out: Path, *more: str) -> None:
    recipe.main(["--config", str(SMOKE), *data, f"out={out}", *more])


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def records(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    timing = {"seconds", "cpu_seconds"}
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("whole")
    run(data, folder, *SETTINGS)
    return folder


def test_a_run_leaves_all_that_is_promised(data, whole):
    assert any(float(w.abs().max()) > 0 for name, w in adapter(whole).items() if "lora_B" in name)
    log = records(whole)
    assert [line["step"] for line in log] == [1, 2, 3]
    assert {"reward/restoration", "reward/rating", "reward/reward", "grad_norm"} <= log[0].keys()
    names = ("restoration", "rating", "low_pass", "reference")
    shares = [log[-1][f"share/{name}"] for name in names]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3) and min(map(abs, shares)) > 0
    checks = json.loads((whole / "checks.json").read_text())
    assert [check["step"] for check in checks] == [0, 1, 2, 3]
    for name in ("curves.png", "before_after.png", "previews/step-000003.png"):
        assert (whole / name).stat().st_size > 1000
    assert (whole / "checkpoints" / "step-000003" / "COMPLETE").is_file()
    assert "peft" in json.loads((whole / "versions.json").read_text())
    card = (whole / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "## Measured" in card and "rank: 2" in card and "| 2 |" in card
    assert str(whole) not in card and str(Path(data[0][7:]).parent) not in card
    (candidate,) = load_restorer(whole / "pipeline").restore(torch.rand(1, 3, 17, 23), n=1)
    assert candidate.image.shape == (3, 17, 23)
    assert UNet2DModel.from_pretrained(whole / "pipeline" / "unet").config["in_channels"] == 36


def test_a_broken_run_ends_with_the_weights_of_an_unbroken_one(data, whole, tmp_path, monkeypatch):
    take_step, calls = recipe.Loop.take_step, []

    def broken(self):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return take_step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipe.Loop, "take_step", broken)
        run(data, tmp_path, *SETTINGS)
    run(data, tmp_path, *SETTINGS)
    own, other = adapter(tmp_path), adapter(whole)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert records(tmp_path) == records(whole)


def test_a_hacked_run_stops_and_goes_back(data, tmp_path, monkeypatch):
    honest_check = recipe.Monitor.check

    def check(self, step):
        hacked = step >= 2
        reason = "hacked: as the test says" if hacked else "honest: as the test says"
        return replace(honest_check(self, step), honest=not hacked, hacked=hacked, reason=reason)

    monkeypatch.setattr(recipe.Monitor, "check", check)
    run(data, tmp_path, *SETTINGS)
    assert [line["step"] for line in records(tmp_path)] == [1, 2]
    text = (tmp_path / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "Stopped at step 2. Hacked: as the test says. Kept: step 1, the last honest" in text
    kept, last = (
        load_checkpoint(tmp_path / "checkpoints", step)["loop"]["tuned"] for step in (1, 2)
    )
    found = adapter(tmp_path)
    assert len(found) == len(kept)
    for name, weight in kept.items():
        (own,) = (w for n, w in found.items() if n.endswith(name.replace(".default", "")))
        assert torch.equal(own, weight)
    assert any(not torch.equal(kept[name], last[name]) for name in kept)


@pytest.mark.parametrize("method", ["nft", "dpo"])
def test_black_box_methods_run_with_full_weights(data, tmp_path, method):
    run(data, tmp_path, f"method={method}", "lora.rank=0", "loop.steps=1", "loop.batch_size=1")
    (record,) = records(tmp_path)
    assert record["used"] > 0 and record["grad_norm"] > 0
    assert not (tmp_path / "adapter").exists() and (tmp_path / "pipeline" / "unet").is_dir()


def test_the_log_of_a_killed_run_is_rewound_to_its_checkpoint(tmp_path):
    folder = RunFolder(tmp_path, "a: 1\n")
    for step in (1, 2, 3):
        folder.log({"step": step, "seconds": step / 2})
    with (tmp_path / "log.jsonl").open("a") as lines:
        lines.write('{"step": 4, "sec')
    assert [record["step"] for record in folder.records()] == [1, 2, 3]
    assert folder.rewind(2)[-1] == {"step": 2, "seconds": 1.0}
    assert [record["step"] for record in folder.records()] == [1, 2]
    assert RunFolder(tmp_path / "new", "a: 1\n").rewind(0) == []


def test_contradictions_are_refused_at_once():
    with pytest.raises(ValueError, match="take no reports"):
        recipe.Config(photos="p", pairs="folders", reports="r", method="dpo", held_out="h")
    with pytest.raises(ValueError, match="train and pipeline are settings of diffusers pipelines"):
        recipe.Config(photos="p", sampler="a:B", train="controlnet")
    reward = RewardConfig(Weights(reference=1.0))
    with pytest.raises(ValueError, match=r"reference must be 0 with method=nft"):
        recipe.Config(photos="p", method="nft", reward=reward)


def test_reports_want_dpo_and_photos_for_the_monitor():
    with pytest.raises(ValueError, match="reports need method=dpo"):
        recipe.Config(photos="p", reports="r")


def test_the_judges_may_change_parts_but_not_be_one(data, tmp_path):
    parts = ["judge=alarm", "independent_judge=proxy", "reward.weights.map=0", "loop.steps=1"]
    run(data, tmp_path, *parts)
    (record,) = records(tmp_path)
    assert record["grad_norm"] > 0 and "reward/map" not in record
    with pytest.raises(ValueError, match="is a judge of the reward: the monitor needs"):
        recipe.Config(photos="p", judge="alarm", reward=RewardConfig(Weights(rating=1.0)))
    recipe.Config(photos="p", judge="alarm")  # the restoration judge alone is the reward


FAILED = Assessment.failed("offline", "no answer")


class Bystander:
    """A judge without a gradient: brighter is better, and what is very dark it cannot judge."""

    name = "bystander"

    def assess(self, images: list[torch.Tensor]) -> list[Assessment]:
        said = [1 + 4 * float(image.mean()) for image in images]
        return [
            Assessment(rating, 0.2) if rating > 1.2 else Assessment.failed("dark", "too dark")
            for rating in said
        ]


def test_a_judge_without_a_gradient_teaches_by_nft(data, tmp_path, monkeypatch):
    asked = {}

    def load(name, **settings):
        asked[name] = settings
        return load_scorer(name) if name == "alarm" else Bystander()

    monkeypatch.setattr(recipe, "load_scorer", load)
    monkeypatch.setattr(judges, "load_scorer", load)
    words = [*data, f"judge={URL}", "judge_settings={model: m}", "reward.weights.map=0"]
    run(words, tmp_path / "nft", "method=nft", "nft.candidates=2", "loop.steps=1")
    (record,) = records(tmp_path / "nft")
    assert record["grad_norm"] > 0 and math.isfinite(record["reward/rating"])
    assert asked[URL]["model"] == "m"
    card = (tmp_path / "nft" / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert URL not in card and "judge_settings" not in card
    with pytest.raises(ValueError, match="have no gradient in the image; train with method="):
        run(words, tmp_path / "backprop", "loop.steps=1")
    monkeypatch.setattr(Bystander, "assess", lambda _, images: [FAILED] * len(images))
    with pytest.raises(ValueError, match="none of 8 images has a finite reward: does the judge"):
        run(words, tmp_path / "mute", "method=nft", "nft.candidates=2", "loop.steps=1")


def test_an_average_of_the_weights_is_kept_at_its_strength(data, tmp_path):
    run(data, tmp_path, *SETTINGS, "loop.ema_decay=0.9", "loop.merge_scale=0.5")
    state = load_checkpoint(tmp_path / "checkpoints", 3)["loop"]
    assert any(
        not torch.equal(own, average)
        for own, average in zip(state["tuned"].values(), state["averaged"], strict=True)
    )
    found = adapter(tmp_path)
    for name, average in zip(state["tuned"], state["averaged"], strict=True):
        (own,) = (w for n, w in found.items() if n.endswith(name.replace(".default", "")))
        assert torch.equal(own, average / 2 if ".lora_B." in name else average)
    assert len(json.loads((tmp_path / "checks.json").read_text(encoding="utf-8"))) == 4


def test_a_diffusers_pipeline_is_fine_tuned(data, tmp_path):
    tiny_pipelines.build("sd_img2img").save_pretrained(tmp_path / "restorer")
    words = [f"restorer={tmp_path / 'restorer'}", "rollout.steps=4", "loop.steps=2"]
    words += ["pipeline={prompt: a sharp photo, options: {strength: 0.5}}"]
    words += ["reward.weights.reference=0.1", "pipeline.gradient_checkpointing=true"]
    run(data, tmp_path / "run", *words)
    log = records(tmp_path / "run")
    assert [line["step"] for line in log] == [1, 2] and all(line["grad_norm"] > 0 for line in log)
    folder = tmp_path / "run" / "pipeline"
    assert "load_lora_weights" in (folder / "README.md").read_text(encoding="utf-8")
    plain = tiny_pipelines.build("sd_img2img")
    plain.load_lora_weights(folder)
    assert "lora" in " ".join(plain.unet.state_dict())
    with pytest.raises(ValueError, match="method=nft regresses on the forward process"):
        run(data, tmp_path / "nft", *words, "method=nft", "reward.weights.reference=0")
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("sd_upscale", "sd_upscale"),
        ("sdxl_tile", "sdxl_img2img"),
        ("flux_img2img", "flux_img2img"),
    ],
)
def test_a_preset_trains_a_small_pipeline_of_its_class(data, tmp_path, preset, kind):
    pipe = tiny_pipelines.build(kind)
    pipe.save_pretrained(tmp_path / "restorer")
    words = [*data, f"restorer={tmp_path / 'restorer'}", f"out={tmp_path / 'run'}", "crop=64"]
    words += ["loop.steps=1", "loop.gradient_accumulation=1", "loop.cpu=true"]
    words += ["rollout.steps=4", "monitor={every: 1, images: 2, side: 64}", "lora.rank=2"]
    words += ["independent_judge=null"]
    if preset == "sdxl_tile":
        ControlNetModel.from_unet(
            pipe.unet, conditioning_embedding_out_channels=(8, 8)
        ).save_pretrained(tmp_path / "controlnet")
        words += [f"pipeline.controlnet={tmp_path / 'controlnet'}"]
    if preset == "flux_img2img":  # 4 bits want CUDA
        words += ["pipeline.four_bit=false", "pipeline.options.max_sequence_length=8"]
    recipe.main(["--config", str(SMOKE.with_stem(preset)), *words])
    (log,) = records(tmp_path / "run")
    assert log["grad_norm"] > 0 and log["skipped"] == 0
    assert list((tmp_path / "run" / "pipeline").glob("*.safetensors"))
    card = (tmp_path / "run" / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "license: other\n" in card and str(tmp_path) not in card  # nor the ControlNet's folder


class Tracker:
    """An experiment tracker that keeps what it is told."""

    name = "tensorboard"

    def __init__(self) -> None:
        self.numbers: dict[int | None, dict] = {}
        self.pictures: dict[str, tuple] = {}

    def log(self, values, step=None, **_):
        self.numbers.setdefault(step, {}).update(values)

    def log_images(self, values, step=None, **_):
        self.pictures |= {f"{name}/{step}": each.shape for name, each in values.items()}

    def finish(self):
        pass


def test_a_one_step_restorer_is_a_sampler_by_import_path(data, tmp_path, monkeypatch):
    parts = dict(tiny_pipelines.build("sd_img2img").components)
    pipe = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path / "restorer")
    tracker = Tracker()
    monkeypatch.setattr(
        recipe.Accelerator, "init_trackers", lambda self, _: self.trackers.append(tracker)
    )
    words = [f"restorer={tmp_path / 'restorer'}", "loop.steps=2", "reward.weights.reference=1"]
    run(data, tmp_path / "run", *words, "sampler=recipes.samplers.one_step:OneStepSampler")
    log = records(tmp_path / "run")
    assert [line["step"] for line in log] == [1, 2] and all(line["grad_norm"] > 0 for line in log)
    UNet2DConditionModel.from_pretrained(tmp_path / "run" / "pipeline" / "unet")
    assert set(tracker.numbers) == {0, 1, 2} and "share/restoration" in tracker.numbers[2]
    wanted = {"check/in_sample/restoration", "check/judge", "check/honest"}
    assert wanted <= set(tracker.numbers[0]) and wanted <= set(tracker.numbers[2])
    assert {"previews/0", "previews/2"} <= set(tracker.pictures)
    assert any(name.startswith("before_after/") for name in tracker.pictures)
    assert all(shape[0] == 1 and shape[-1] == 3 for shape in tracker.pictures.values())


@pytest.mark.parametrize("rollout", ["{steps: 3}", "{steps: 3, renoised: 2}"])
def test_a_shifted_residual_sampler_trains_on_pairs_of_two_sizes(data, tmp_path, rollout):
    blocks: dict = {"block_out_channels": (8, 16), "norm_num_groups": 8}
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(in_channels=6, out_channels=3, layers_per_block=1, **kinds, **blocks)
    unet.save_pretrained(tmp_path / "restorer" / "unet")
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    diffusers.VQModel(num_vq_embeddings=32, **kinds, **blocks).save_pretrained(
        tmp_path / "restorer" / "vqvae"
    )
    for n, part in enumerate(("train", "valid")):
        clean = torch.rand(3, 72, 80, generator=torch.Generator().manual_seed(n))
        save_png(clean, tmp_path / part / "Canon" / f"Canon_{n}_HR.png")
        small = functional.avg_pool2d(clean, 4)
        save_png(small, tmp_path / part / "Canon" / f"Canon_{n}_LR4.png")
    words = [f"restorer={tmp_path / 'restorer'}", "loop.steps=2", f"rollout={rollout}"]
    words += [f"photos={tmp_path / 'train'}", f"held_out={tmp_path / 'valid'}", "pairs=realsr"]
    words += ["sampler=recipes.samplers.shifted_residual:ShiftedResidualSampler"]
    run(data, tmp_path / "run", *words)
    log = records(tmp_path / "run")
    assert len(log) == 2 and all(line["grad_norm"] > 0 and not line["skipped"] for line in log)
    UNet2DModel.from_pretrained(tmp_path / "run" / "pipeline" / "unet")


def test_a_sampler_that_cannot_be_imported_is_named(data, tmp_path):
    with pytest.raises(ValueError, match=r"sampler=no\.such:Thing: expected my_package"):
        run(data, tmp_path, "sampler=no.such:Thing")


def test_another_configuration_wants_another_folder(data, whole):
    with pytest.raises(ValueError, match="another configuration"):
        run(data, whole, "loop.steps=4")


def test_pairs_want_their_own_held_out_ones():
    with pytest.raises(ValueError, match="pairs need held_out=FOLDER"):
        recipe.Config(photos="p", pairs="div2k")


@pytest.mark.slow
def test_two_processes_train_as_one_with_two_batches(data, tmp_path):
    settings = ["loop.gradient_accumulation=2", "loop.steps=3", "loop.learning_rate=0.01"]
    run(data, tmp_path / "one", *settings)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--standalone", "-m", "recipes.finetune_restorer"]
    command += ["--config", str(SMOKE), *data, f"out={tmp_path / 'two'}", *settings]
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    ended = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-6, rtol=0)
    alone, together = records(tmp_path / "one")[-1], records(tmp_path / "two")[-1]
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert alone["used"] == together["used"] == 4
    assert alone["reward/reward"] == pytest.approx(together["reward/reward"], abs=1e-3)
