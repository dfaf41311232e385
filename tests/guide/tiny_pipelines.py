"""Tiny pipelines of the real diffusers classes, with random weights and tokenizers of their own.

As diffusers' own fast tests build them, but without the network: `build(name)` for each of `NAMES`,
and `options(name)` for a call that takes two steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils import logging

from restoration_guide.restorers.builtin.pipeline import tiny_unet
from restoration_guide.restorers.builtin.restorer import TinyRestorationPipeline
from tests.guide.tiny_text import WIDTH, clip_encoder, clip_tokenizer, t5_encoder, t5_tokenizer
from zoomiqa_core.training.tiny_vlm import TinySize, build_tiny_vlm

# as a module of unknown types: the annotations of its constructors do not fit their own defaults
diffusers: Any = importlib.import_module("diffusers")


def autoencoder(latents: int = 4, halvings: int = 1, **more: Any) -> Any:
    levels = halvings + 1
    return diffusers.AutoencoderKL(
        block_out_channels=(16,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latents,
        norm_num_groups=8,
        sample_size=64,
        **more,
    ).eval()


UNET: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 8,
}


def unet(channels: int = 4, **more: Any) -> Any:
    blocks = ("CrossAttnUpBlock2D", "UpBlock2D")
    options: dict[str, Any] = {**UNET, "attention_head_dim": 4, **more}
    return diffusers.UNet2DConditionModel(
        sample_size=32, in_channels=channels, out_channels=4, up_block_types=blocks, **options
    ).eval()


def controlnet() -> Any:
    network = diffusers.ControlNetModel(
        in_channels=4, attention_head_dim=4, conditioning_embedding_out_channels=(16, 32), **UNET
    )
    for parameter in network.parameters():
        if not parameter.any():  # it starts without effect
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def ddim(prediction: str = "epsilon") -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type=prediction,
    )


def _stable_diffusion(channels: int = 4) -> dict[str, Any]:
    return {
        "vae": autoencoder(),
        "text_encoder": clip_encoder(),
        "tokenizer": clip_tokenizer(),
        "unet": unet(channels),
        "scheduler": ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd_img2img() -> Any:
    parts = _stable_diffusion() | {
        "scheduler": diffusers.DPMSolverMultistepScheduler(steps_offset=1)
    }
    return diffusers.StableDiffusionImg2ImgPipeline(**parts)


def sd_controlnet() -> Any:
    return diffusers.StableDiffusionControlNetPipeline(
        controlnet=controlnet(), **_stable_diffusion()
    )


def sd_controlnet_img2img() -> Any:
    return diffusers.StableDiffusionControlNetImg2ImgPipeline(
        controlnet=controlnet(), **_stable_diffusion()
    )


def sd_instruct_pix2pix() -> Any:
    return diffusers.StableDiffusionInstructPix2PixPipeline(**_stable_diffusion(8))


def sd_upscale() -> Any:
    parts = _stable_diffusion(7)
    parts |= {
        "vae": autoencoder(halvings=2, scaling_factor=0.08333),
        "unet": unet(7, num_class_embeds=1000),
        "scheduler": ddim("v_prediction"),
        "low_res_scheduler": diffusers.DDPMScheduler(),
        "max_noise_level": 350,
    }
    del parts["requires_safety_checker"]
    return diffusers.StableDiffusionUpscalePipeline(**parts)


def sdxl_img2img() -> Any:
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=autoencoder(force_upcast=False),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTH + 6 * 8,
            transformer_layers_per_block=(1, 1),
            cross_attention_dim=2 * WIDTH,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


def ldm_super_resolution() -> Any:
    vqvae = diffusers.VQModel(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=8,
    )
    network = diffusers.UNet2DModel(
        in_channels=6,
        out_channels=3,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=4,
    )
    return diffusers.LDMSuperResolutionPipeline(
        vqvae=vqvae.eval(), unet=network.eval(), scheduler=ddim()
    )


def sd3_img2img() -> Any:
    return diffusers.StableDiffusion3Img2ImgPipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=32,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            out_channels=4,
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
    )


def flux_img2img() -> Any:
    return diffusers.FluxImg2ImgPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )


def qwen_img2img() -> Any:
    text_encoder, processor = build_tiny_vlm(TinySize(hidden=WIDTH, heads=2))
    return diffusers.QwenImageImg2ImgPipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(8, 4, 4),
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=16,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1] * 4,
            latents_std=[1.5] * 4,
        ).eval(),
        text_encoder=text_encoder,
        tokenizer=processor.tokenizer,
    )


def builtin() -> Any:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return TinyRestorationPipeline(tiny_unet((8, 16, 24), 1).eval(), scheduler, sigma_data=0.55)


_BUILDERS: dict[str, Callable[[], Any]] = {
    "builtin": builtin,
    "flux_img2img": flux_img2img,
    "ldm_super_resolution": ldm_super_resolution,
    "qwen_img2img": qwen_img2img,
    "sd3_img2img": sd3_img2img,
    "sd_controlnet": sd_controlnet,
    "sd_controlnet_img2img": sd_controlnet_img2img,
    "sd_img2img": sd_img2img,
    "sd_instruct_pix2pix": sd_instruct_pix2pix,
    "sd_upscale": sd_upscale,
    "sdxl_img2img": sdxl_img2img,
}
NAMES = tuple(_BUILDERS)

_SHORT = {"num_inference_steps": 2}
_OPTIONS: dict[str, dict[str, Any]] = {
    "builtin": {},
    "ldm_super_resolution": _SHORT,
    "sd_controlnet": _SHORT,
    "sd_instruct_pix2pix": _SHORT,
    "sd_upscale": _SHORT,
    "flux_img2img": {"max_sequence_length": 8},
    "sd3_img2img": {"max_sequence_length": 8},
}


def build(name: str, seed: int = 0) -> Any:
    """A pipeline by name, the same weights for the same seed; the global generator is kept."""
    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pipe = _BUILDERS[name]()
    finally:
        logging.set_verbosity(shown)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def options(name: str) -> dict[str, Any]:
    """Arguments of a call that takes two steps; image-to-image takes them of four."""
    given = _OPTIONS.get(name, {})
    if name == "builtin" or "num_inference_steps" in given:
        return dict(given)
    return {"num_inference_steps": 4, "strength": 0.5, **given}
