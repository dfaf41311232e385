"""Restoring with gradients: by the bundled class of restorer, or by any diffusers pipeline.

Both are trained by the same loop; they differ in how a batch is restored with gradients, and in the
files that are saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.pipeline_call import denoiser_name, truncated
from restoration_guide.finetune.rollout import BuiltinChain, RolloutConfig, draw_last, roll_out
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


class Sampled(NamedTuple):
    """A batch restored with gradients."""

    images: Tensor
    """(R·B, 3, H, W) in [0, 1] with a graph, the batch R times over."""
    again: Callable[[], Tensor]
    """The same without gradients by the network's current weights: from the same noise, and where a
    chain can start at its last evaluation, from the same state there."""


class Sampler(Protocol):
    """A restorer whose network is trained."""

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


class BuiltinSampler:
    """Of a :class:`TinyRestorationPipeline`.

    Args:
        pipe: the pipeline whose UNet is trained.
        config: of the roll-outs; steps and temperature also of :meth:`restore`.
    """

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


class PipelineSampler:
    """Of any diffusers pipeline that :class:`PipelineRestorer` drives with gradients.

    Args:
        restorer: its prompts and options are those of every call.
        config: ``steps`` is the call's ``num_inference_steps``, of which an image-to-image pipeline
            takes the share of its strength; ``last``, ``random_last`` and ``checkpointing`` count.

    Raises:
        ValueError: the pipeline gives no gradients, or the configuration wants what only the
            bundled chain can do.
    """

    def __init__(self, restorer: PipelineRestorer, config: RolloutConfig) -> None:
        self.adapter, self.config = restorer.adapter, config
        self.pipe: Any = restorer.adapter.pipe
        if not self.adapter.contract.gradients:
            raise ValueError(
                f"{type(self.pipe).__name__} gives no gradients, so it cannot be trained"
            )
        vae = getattr(self.pipe, "vae", None)
        if vae is not None and vae.dtype == torch.float16 and vae.config.get("force_upcast"):
            raise ValueError(
                f"the {type(vae).__name__} of this {type(self.pipe).__name__} overflows in float16 "
                "(force_upcast): set pipeline.dtype=bfloat16 or float32"
            )
        if config.early_stop or config.renoised:
            raise ValueError(
                "early_stop and renoised need the bundled kind of restorer, whose chain can be "
                "entered at any step; of another pipeline the last evaluations are trained (last)"
            )
        self.settings: Mapping[str, Any] = {"num_inference_steps": config.steps}
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The transformer or UNet."""
        return getattr(self.pipe, denoiser_name(self.pipe))

    def sample(self, degraded: Tensor, generator: torch.Generator) -> Sampled:
        """A call with the gradient of its last evaluations."""
        around = partial(
            truncated,
            last=draw_last(self.config, self.config.steps, generator),
            checkpointing=self.config.checkpointing,
        )
        seeds = torch.randint(2**31, (len(degraded),), generator=generator).tolist()
        images = self.adapter.call(
            degraded, self.settings, _seeded(seeds), grad=True, around=around
        )

        def again() -> Tensor:
            return self.adapter.call(degraded, self.settings, _seeded(seeds))

        return Sampled(images, again)

    def restore(self, degraded: Tensor, generator: torch.Generator) -> Tensor:
        """A call without gradients."""
        return self.adapter.call(degraded, self.settings, [generator]).float().clamp(0, 1)

    def save(self, tuned: TunedNetwork, folder: Path) -> str:
        """The adapter in diffusers' format, or the whole network where that was trained."""
        name = denoiser_name(self.pipe)
        if tuned.peft is None:
            cast(Any, self.network).save_pretrained(folder / name)
            return f"The `{name}` of a `{type(self.pipe).__name__}`."
        saves = getattr(type(self.pipe), "save_lora_weights", None)
        if saves is None:  # e.g. pipelines of unconditional UNets
            return f"PEFT's adapter, in `../adapter`, belongs to the `{name}`."
        layers, config = tuned.lora_layers()
        saves(folder, **{f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": config})
        return f"For `pipe.load_lora_weights(FOLDER)` of a `{type(self.pipe).__name__}`."


def load_sampler(
    source: str, config: PipelineConfig, rollout: RolloutConfig, device: torch.device
) -> Sampler:
    """The sampler of a restorer by name, folder or hub id, on its device.

    Raises:
        TypeError: nothing with a network to train.
    """
    if source == "builtin" or _is_builtin(source):
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
    sampler = PipelineSampler(made, rollout)
    if config.gradient_checkpointing:
        for part in (sampler.network, getattr(sampler.pipe, "vae", None)):
            if part is not None:
                cast(Any, part).enable_gradient_checkpointing()
    return sampler


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


def _seeded(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
