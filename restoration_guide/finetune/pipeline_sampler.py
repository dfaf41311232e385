"""Any diffusers pipeline as a sampler: restoring with gradients for one of its networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.finetune.pipeline_call import Trained, trained_component, truncated
from restoration_guide.finetune.rollout import RolloutConfig, Sampled, draw_last
from restoration_guide.restorers.diffusers.restorer import PipelineRestorer


class PipelineSampler:
    """Of any diffusers pipeline that :class:`PipelineRestorer` drives with gradients.

    Args:
        restorer: its prompts and options are those of every call.
        config: ``steps`` is the call's ``num_inference_steps``, of which an image-to-image pipeline
            takes the share of its strength; ``last``, ``random_last`` and ``checkpointing`` count.
        train: the part whose weights are trained. A decoder of the VAE gets the gradient of the
            decoding alone.

    Raises:
        ValueError: the pipeline gives no gradients, or the configuration wants what only the
            bundled chain can do.
        TypeError: it has no such part.
    """

    scale = 1
    """Upscalers get their input reduced, so that their results have its size."""

    def __init__(
        self, restorer: PipelineRestorer, config: RolloutConfig, train: Trained = "denoiser"
    ) -> None:
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
        self.train, (self.component, self._network) = train, trained_component(self.pipe, train)
        self.settings: Mapping[str, Any] = {"num_inference_steps": config.steps}
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The part in training."""
        return self._network

    def sample(self, degraded: Tensor, generator: torch.Generator) -> Sampled:
        """A call with the gradient of its last evaluations."""
        last = draw_last(self.config, self.config.steps, generator)
        around = partial(
            truncated,
            last=None if self.train == "vae_decoder" else last,
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
        """The adapter in diffusers' format; the merged component where there is no such format."""
        name = self.component
        if tuned.peft is None or self.train != "denoiser":
            component: Any = tuned.merged()
            if self.train == "vae_decoder":
                vae = copy.deepcopy(self.pipe.vae)
                vae.decoder, component = component, vae
            component.save_pretrained(folder / name)
            return f"The `{name}` of a `{type(self.pipe).__name__}`."
        saves = getattr(type(self.pipe), "save_lora_weights", None)
        if saves is None:  # e.g. pipelines of unconditional UNets
            return f"PEFT's adapter, in `../adapter`, belongs to the `{name}`."
        layers, config = tuned.lora_layers()
        saves(folder, **{f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": config})
        return f"For `pipe.load_lora_weights(FOLDER)` of a `{type(self.pipe).__name__}`."


def _seeded(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
