"""Every kind of pipeline learns: gradients, the reference, and what is left at the end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.methods import Batch
from restoration_guide.finetune.pipeline_sampler import PipelineSampler
from restoration_guide.finetune.reward_backprop import RewardBackprop
from restoration_guide.finetune.rewards import Reward, RewardConfig, Weights
from restoration_guide.finetune.rollout import RolloutConfig
from restoration_guide.finetune.samplers import PipelineConfig, load_sampler
from restoration_guide.restorers.diffusers.restorer import PipelineRestorer
from tests.guide import tiny_pipelines
from tests.guide.tiny_text import WIDTH
from zoomiqa_core.proxy.views import ViewConfig
from zoomiqa_core.training.policy import LoraSettings

# the schedulers' own: NumPy's protocols of before 2.0
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning:diffusers")

OTHERS = [name for name in tiny_pipelines.NAMES if name != "builtin"]
REWARD = RewardConfig(Weights(0.0, rating=1.0, reference=1.0), views=ViewConfig(count=0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler_of(name: str, train: Any = "denoiser", **config: Any) -> PipelineSampler:
    options = dict(tiny_pipelines.options(name))
    steps = options.pop("num_inference_steps")
    restorer = PipelineRestorer(tiny_pipelines.build(name), options=options)
    return PipelineSampler(restorer, RolloutConfig(steps, **config), train)


def tuned_of(sampler: PipelineSampler) -> TunedNetwork:
    names = [name for name, _ in sampler.network.named_modules()]
    attention = any(name.endswith("to_q") for name in names)
    targets = ".*to_[qv]" if attention else ".*conv[12]"
    return TunedNetwork(sampler.network, LoraSettings(2, 4, targets))


@pytest.mark.parametrize("name", OTHERS)
def test_every_pipeline_gets_gradients_and_its_reference(name, judge, degraded):
    sampler = sampler_of(name)
    tuned = tuned_of(sampler)
    method = RewardBackprop(sampler, tuned, Reward(REWARD, judge))
    step = method.compute_loss(Batch(degraded), generator=generator())
    assert step.skipped == 0 and len(step.losses) == len(degraded)
    # a new adapter changes nothing, so the tuned image is the reference
    assert float(step.terms["reference"].abs().max()) < 1e-5
    grads = torch.autograd.grad(step.losses.sum(), tuned.parameters, allow_unused=True)
    sizes = [0.0 if grad is None else float(grad.abs().sum()) for grad in grads]
    assert all(torch.isfinite(torch.tensor(sizes))) and sum(sizes) > 0


@pytest.mark.parametrize("name", ["sd_img2img", "sd_upscale", "flux_img2img"])
def test_truncation_and_checkpointing_leave_image_and_gradient(name, degraded):
    found = {}
    for key, config in {
        "one": {"last": 1},
        "all": {"last": 0},
        "checkpointed": {"last": 0, "checkpointing": True},
    }.items():
        sampler = sampler_of(name, **config)
        tuned = tuned_of(sampler)
        with torch.no_grad():
            for parameter in tuned.parameters:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(1)))
        images = sampler.sample(degraded, generator()).images
        grads = torch.autograd.grad(images.square().sum(), tuned.parameters, allow_unused=True)
        flat = torch.cat([grad.flatten() for grad in grads if grad is not None])
        found[key] = (images.detach(), flat)
    torch.testing.assert_close(found["one"][0], found["all"][0])
    torch.testing.assert_close(found["checkpointed"][1], found["all"][1], rtol=1e-3, atol=1e-6)
    one, whole = found["one"][1], found["all"][1]
    assert float((one - whole).norm()) > 1e-4 * float(whole.norm())  # one evaluation less


def test_the_adapter_loads_in_plain_diffusers_and_gives_the_same_image(degraded, tmp_path):
    sampler = sampler_of("sd_img2img")
    tuned = tuned_of(sampler)
    before = sampler.restore(degraded[:1], generator())
    with torch.no_grad():
        for parameter in tuned.parameters:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator(1)))
    after = sampler.restore(degraded[:1], generator())
    assert float((after - before).abs().max()) > 1e-3
    assert "load_lora_weights" in sampler.save(tuned, tmp_path)
    plain = tiny_pipelines.build("sd_img2img")
    plain.load_lora_weights(tmp_path)
    options = dict(tiny_pipelines.options("sd_img2img"))
    steps = options.pop("num_inference_steps")
    again = PipelineSampler(PipelineRestorer(plain, options=options), RolloutConfig(steps))
    torch.testing.assert_close(again.restore(degraded[:1], generator()), after)


def test_a_saved_pipeline_is_loaded_frozen_and_checkpointed(tmp_path: Path):
    pipe: DiffusionPipeline = tiny_pipelines.build("sd_img2img")
    pipe.save_pretrained(tmp_path)
    config = PipelineConfig(prompt="sharp", options={"strength": 0.5}, gradient_checkpointing=True)
    sampler = load_sampler(str(tmp_path), config, RolloutConfig(4), torch.device("cpu"))
    assert isinstance(sampler, PipelineSampler) and sampler.adapter.prompt == "sharp"
    assert not any(weight.requires_grad for weight in sampler.network.parameters())
    assert sampler.network.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("name", "train"), [("sd_controlnet", "controlnet"), ("sd_img2img", "vae_decoder")]
)
@pytest.mark.parametrize("rank", [0, 2])
def test_other_parts_learn_and_are_saved_merged(name, train, rank, degraded, tmp_path):
    sampler = sampler_of(name, train)
    targets = ".*conv[12]"
    tuned = TunedNetwork(sampler.network, LoraSettings(rank, 4, targets))
    images = sampler.sample(degraded, generator()).images
    grads = torch.autograd.grad(images.sum(), tuned.parameters, allow_unused=True)
    sizes = [0.0 if grad is None else float(grad.abs().sum()) for grad in grads]
    assert all(math.isfinite(size) for size in sizes) and sum(sizes) > 0
    frozen = sampler.pipe.unet.parameters()
    assert not any(weight.requires_grad for weight in frozen)
    with torch.no_grad():
        for parameter in tuned.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(1)))
    after = sampler.restore(degraded[:1], generator())
    sampler.save(tuned, tmp_path)
    fresh = sampler_of(name, train)
    part = "controlnet" if train == "controlnet" else "vae"
    loaded = type(getattr(fresh.pipe, part)).from_pretrained(tmp_path / part)
    setattr(fresh.pipe, part, loaded)
    torch.testing.assert_close(
        fresh.restore(degraded[:1], generator()), after, atol=1e-4, rtol=1e-3
    )


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(TypeError, match=r"train=controlnet: a .*Img2ImgPipeline has none"):
        sampler_of("sd_img2img", "controlnet")


def test_what_only_the_bundled_chain_can_do_is_refused():
    with pytest.raises(ValueError, match="bundled kind of restorer"):
        sampler_of("sd_img2img", early_stop=1)


def test_an_autoencoder_that_overflows_in_float16_is_refused():
    pipe: Any = tiny_pipelines.build("sd_img2img")
    pipe.vae.half().register_to_config(force_upcast=True)
    with pytest.raises(ValueError, match=r"AutoencoderKL of this .*overflows in float16"):
        PipelineSampler(PipelineRestorer(pipe), RolloutConfig(4))
    pipe.vae.bfloat16()
    assert PipelineSampler(PipelineRestorer(pipe), RolloutConfig(4)).network is pipe.unet


def test_a_controlnet_is_loaded_as_the_class_it_was_saved_as(tmp_path: Path):
    pipe: Any = tiny_pipelines.build("sd3_img2img")
    pipe.save_pretrained(tmp_path / "base")
    network = diffusers.SD3ControlNetModel(
        sample_size=32,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
    )
    network.save_pretrained(tmp_path / "controlnet")
    config = PipelineConfig(
        controlnet=str(tmp_path / "controlnet"),
        controlnet_pipeline="StableDiffusion3ControlNetPipeline",
    )
    sampler = load_sampler(str(tmp_path / "base"), config, RolloutConfig(4), torch.device("cpu"))
    assert type(sampler.pipe.controlnet) is diffusers.SD3ControlNetModel  # type: ignore[attr-defined]
