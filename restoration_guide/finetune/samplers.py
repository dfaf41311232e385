"""Restoring with gradients: the bundled class of restorer, any diffusers pipeline, or your sampler.

All are trained by the same loop; they differ in how a batch is restored with gradients, and in the
files that are saved. A sampler of your own is a class with the members of :class:`Sampler`, made as
``Class(restorer, rollout, device)`` (:data:`SamplerClass`) and named by its import path,
``sampler=my_package.module:Class``. ``recipes/samplers`` has two: a one-step restorer
(OSEDiff-shaped) and a shifted-residual sampler (ResShift-shaped).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.pipeline_call import Trained
from restoration_guide.finetune.pipeline_sampler import PipelineSampler
from restoration_guide.finetune.rollout import BuiltinChain, RolloutConfig, Sampled, roll_out
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
from restoration_guide.restorers.diffusers.restorer import PipelineRestorer
from restoration_guide.restorers.load import load_restorer


@dataclass(frozen=True)
class PipelineConfig:
    """How a diffusers pipeline is loaded and called; the bundled kind of restorer needs none."""

    prompt: str = ""
    negative_prompt: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of every call, such as ``strength`` and ``guidance_scale``; the number of steps is
    the roll-out's."""
    controlnet: str | None = None
    """Folder or hub id of a ControlNet that is put before the pipeline's network."""
    controlnet_pipeline: str | None = None
    """Class of diffusers that takes it, where the pipeline is saved as text-to-image."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights; adapters learn in float32."""
    gradient_checkpointing: bool = False
    """Compute the activations of each block again in the backward pass, of the network and of the
    autoencoder: a third more time, a fraction of the memory."""
    four_bit: bool = False
    """Hold the network and its large text encoders in 4 bits (bitsandbytes, CUDA only)."""


class Sampler(Protocol):
    """A restorer whose network is trained."""

    scale: int
    """Side of a result over that of its input; 1 for restorers that keep the size."""

    @property
    def network(self) -> nn.Module:
        """The network to train; frozen until it is tuned."""
        ...

    def sample(self, degraded: Tensor, generator: torch.Generator) -> Sampled:
        """Restore (B, 3, H, W) in [0, 1] with gradients."""
        ...

    def restore(self, degraded: Tensor, generator: torch.Generator) -> Tensor:
        """Restore (1, 3, H, W) without gradients, as a user would."""
        ...

    def save(self, tuned: TunedNetwork, folder: Path) -> str:
        """Write the trained weights beside PEFT's adapter; returns how to load them."""
        ...


SamplerClass = Callable[[str, RolloutConfig, torch.device], Sampler]
"""``restorer=`` (a folder or hub id, as the class reads it), roll-out and device → a sampler."""


class BuiltinSampler:
    """Of a :class:`TinyRestorationPipeline`.

    Args:
        pipe: the pipeline whose UNet is trained.
        config: of the roll-outs; steps and temperature also of :meth:`restore`.
    """

    scale = 1

    def __init__(self, pipe: TinyRestorationPipeline, config: RolloutConfig) -> None:
        self.pipe, self.config = pipe, config

    @property
    def network(self) -> nn.Module:
        """The UNet."""
        return self.pipe.unet

    def sample(self, degraded: Tensor, generator: torch.Generator) -> Sampled:
        """A roll-out of the chain."""
        chain = BuiltinChain(self.pipe, degraded, self.config.steps, self.config.temperature)
        rollout = roll_out(chain, self.config, generator)

        @torch.no_grad()
        def again() -> Tensor:
            return chain.decode(chain.predict(rollout.latents, rollout.index))

        return Sampled(rollout.images, again)

    @torch.no_grad()
    def restore(self, degraded: Tensor, generator: torch.Generator) -> Tensor:
        """A call of the pipeline."""
        (images,) = self.pipe(
            degraded,
            self.config.steps,
            temperature=self.config.temperature,
            generator=generator,
            output_type="pt",
            return_dict=False,
        )
        return images

    def save(self, tuned: TunedNetwork, folder: Path) -> str:
        """The pipeline with the adapter merged."""
        unet = cast(UNet2DModel, tuned.merged())
        merged = TinyRestorationPipeline(unet, self.pipe.scheduler, **asdict(self.pipe.flow))
        merged.save_pretrained(folder)
        return "A `TinyRestorationPipeline` for `load_restorer(FOLDER)`."


def load_sampler(
    source: str,
    config: PipelineConfig,
    rollout: RolloutConfig,
    device: torch.device,
    *,
    train: Trained = "denoiser",
    sampler: str | None = None,
) -> Sampler:
    """The sampler of a restorer by name, folder or hub id, on its device.

    Args:
        source: ``builtin``, or the folder or hub id of a diffusers pipeline; with ``sampler``, what
            that class takes.
        config: how a pipeline is loaded and called.
        rollout: steps, and which of them get a gradient.
        device: where it computes.
        train: the part of a pipeline that is trained.
        sampler: import path ``my_package.module:Class`` of a :data:`SamplerClass`.

    Raises:
        TypeError: nothing with a network to train.
        ValueError: no such class.
    """
    if sampler is not None:
        return sampler_class(sampler)(source, rollout, device)
    if source == "builtin" or _is_builtin(source):
        if train != "denoiser":
            raise TypeError(f"train={train}: the bundled kind of restorer has a denoiser alone")
        pipe = load_builtin_pipeline(None if source == "builtin" else source)
        return BuiltinSampler(pipe.to(device), rollout)
    made = load_restorer(
        _load_pipeline(source, config).to(device),
        prompt=config.prompt,
        negative_prompt=config.negative_prompt,
        options=config.options,
        name=source,
    )
    if not isinstance(made, PipelineRestorer):
        raise TypeError(f"a {type(made).__name__} has no network to train")
    loaded = PipelineSampler(made, rollout, train)
    if config.gradient_checkpointing:
        for name in {loaded.component, "vae"} & set(loaded.pipe.components):
            getattr(loaded.pipe, name).enable_gradient_checkpointing()
    return loaded


def sampler_class(path: str) -> SamplerClass:
    """The class of an import path.

    >>> sampler_class("restoration_guide.finetune.samplers:BuiltinSampler").__name__
    'BuiltinSampler'

    Raises:
        ValueError: not such a path, or nothing there.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"sampler={path}: expected my_package.module:Class, importable from here ({error})"
        ) from error


def _is_builtin(source: str) -> bool:
    index = Path(source) / "model_index.json"
    return index.is_file() and TinyRestorationPipeline.__name__ in index.read_text(encoding="utf-8")


def _load_pipeline(source: str, config: PipelineConfig) -> Any:
    """A pipeline from safetensors, without code of a repository."""
    import diffusers

    kind: Any = diffusers.DiffusionPipeline
    given: dict[str, Any] = {"use_safetensors": True, "dtype": getattr(torch, config.dtype)}
    if config.controlnet_pipeline is not None:
        kind = getattr(diffusers, config.controlnet_pipeline)
    if config.controlnet is not None:
        # its own configuration names the class
        given["controlnet"] = diffusers.AutoModel.from_pretrained(config.controlnet, **given)
    if config.four_bit:
        given["quantization_config"] = diffusers.PipelineQuantizationConfig(
            quant_backend="bitsandbytes_4bit",
            quant_kwargs={
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": getattr(torch, config.dtype),
            },
            components_to_quantize=["transformer", "unet", "text_encoder_2", "text_encoder_3"],
        )
    return kind.from_pretrained(source, **given)
