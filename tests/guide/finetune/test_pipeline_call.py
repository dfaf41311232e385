"""Gradients through the call of a real, tiny Stable Diffusion img2img pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.pipeline_call import sample_with_gradient
from zoomiqa_core.training.policy import LoraSettings

SCHEDULERS = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]


@pytest.fixture(scope="module")
def parts():
    """Its networks, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        blocks: dict[str, Any] = {
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        }
        vae = AutoencoderKL(norm_num_groups=4, **blocks)
    tuned = TunedNetwork(unet, LoraSettings(2, 4, ".*attn.*|conv_out"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    vae.requires_grad_(False)
    return unet.eval(), vae.eval(), tuned


@pytest.fixture(params=SCHEDULERS, ids=lambda scheduler: scheduler.__name__)
def pipeline(request, parts):
    unet, vae, _ = parts
    missing: Any = None  # embeddings are given, so no text is encoded
    made = StableDiffusionImg2ImgPipeline(
        vae,
        missing,
        missing,
        unet,
        request.param(num_train_timesteps=100, steps_offset=1),
        missing,
        missing,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def call(steps: int = 6) -> dict:
    return {
        "image": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)),
        "prompt_embeds": torch.ones(1, 3, 8),
        "negative_prompt_embeds": torch.zeros(1, 3, 8),
        "num_inference_steps": steps,
        "strength": 0.7,
        "guidance_scale": 2.0,
        "generator": torch.Generator().manual_seed(3),
    }


def gradient(parts, images) -> torch.Tensor:
    grads = torch.autograd.grad(images.square().mean(), parts[2].parameters)
    return torch.cat([grad.flatten() for grad in grads])


def test_images_are_the_pipelines_and_gradients_flow(pipeline, parts):
    (expected,) = pipeline(**call(), output_type="pt", return_dict=False)[:1]
    images = sample_with_gradient(pipeline, last=2, **call())
    torch.testing.assert_close(images.detach(), expected)
    own = gradient(parts, images)
    assert bool(own.isfinite().all()) and float(own.norm()) > 0
    again = sample_with_gradient(pipeline, last=2, checkpointing=True, **call())
    torch.testing.assert_close(gradient(parts, again), own, rtol=1e-4, atol=1e-7)
    whole = gradient(parts, sample_with_gradient(pipeline, last=0, **call()))
    assert float((whole - own).norm()) > 1e-3 * float(whole.norm())
    # strength .7 of 6 steps leaves 4
    all_four = gradient(parts, sample_with_gradient(pipeline, last=4, **call()))
    torch.testing.assert_close(all_four, whole)
    assert "forward" not in vars(pipeline.unet) and "step" not in vars(pipeline.scheduler)


def test_what_the_graph_keeps_does_not_grow_with_the_steps(pipeline):
    def kept(**settings) -> int:
        total = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: total.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            sample_with_gradient(pipeline, **settings)
        return sum(total)

    assert kept(last=1, **call(15)) <= 1.01 * kept(last=1, **call(6))


def test_what_cannot_be_sampled_is_refused(pipeline):
    class Sub(StableDiffusionImg2ImgPipeline):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    pipeline.__class__ = Sub
    with pytest.raises(TypeError, match="has no __wrapped__"):
        sample_with_gradient(pipeline, **call())
    pipeline.__class__ = StableDiffusionImg2ImgPipeline
    with torch.no_grad(), pytest.raises(RuntimeError, match="gradients are switched off"):
        sample_with_gradient(pipeline, **call())
