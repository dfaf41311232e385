"""Calls a diffusers pipeline: images on the input's grid in, restored images on that grid out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from restoration_guide.restorers.diffusers.contract import Contract
from restoration_guide.restorers.diffusers.previews import decode_latents
from restoration_guide.restorers.diffusers.stepping import StepWatch
from restoration_guide.restorers.grid import Grid
from zoomiqa_core.images.sources import read_image, to_pil

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Around = Callable[[Any], AbstractContextManager[Any]]
"""From the pipeline of one call to a context around it."""

TRUE_GUIDANCE = 4.0
"""`true_cfg_scale` where a negative prompt is given and the pipeline's default would ignore it."""

PROMPTS = ("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds")

RESERVED = {
    "generator": "the seed and the index of a candidate determine its noise; give restore(seed=…)",
    "latents": "every candidate starts from noise of its own; give restore(seed=…)",
    "num_images_per_prompt": "a candidate is one image; give restore(n=…)",
    "output_type": "images are taken as tensors",
    "return_dict": "images are taken as tensors",
}
"""Arguments of a call that cannot be options, and why."""


class Restored(NamedTuple):
    """What one call made."""

    images: Tensor
    """(B, 3, H, W) on the input's grid, as the pipeline gave it: on its device, NaN included."""
    notes: tuple[tuple[str, ...], ...]
    """Per image: what was done to make it fit, and what the pipeline said of it."""
    steps: int
    """Network evaluations of each; 0 where the pipeline has no scheduler to count them."""


@dataclass(frozen=True)
class PipelineAdapter:
    """A pipeline, its contract, and the arguments of every call.

    Each call runs on a shallow copy of the pipeline with a scheduler of its own: the models are
    shared, and the user's pipeline and its scheduler stay as they were, also when a call fails.
    """

    pipe: DiffusionPipeline
    contract: Contract
    prompt: str = ""
    negative_prompt: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of every call, e.g. `num_inference_steps`; a plan's settings override
    them, and prompts among either override `prompt` and `negative_prompt`."""

    @property
    def grid(self) -> Grid:
        """The grid the pipeline works on."""
        return Grid(self.contract.multiple, self.contract.scale)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        pipe: Any = self.pipe
        return torch.device(getattr(pipe, "_execution_device", pipe.device))

    def with_prompts(self, positive: str, negative: str = "") -> PipelineAdapter:
        """The same pipeline with other prompts, in place of those among the options too."""
        options = {name: value for name, value in self.options.items() if name not in PROMPTS}
        return replace(self, prompt=positive, negative_prompt=negative, options=options)

    def call(
        self,
        image: Tensor,
        settings: Mapping[str, Any],
        generators: Sequence[torch.Generator],
        *,
        grad: bool = False,
        around: Around = nullcontext,
    ) -> Tensor:
        """Restore a batch: (B, 3, H, W) in [0, 1] → (B, 3, H, W) in [0, 1].

        With `grad` the call is made without the pipeline's `no_grad`, as
        `type(pipe).__call__.__wrapped__(pipe, …, output_type="pt")`: gradients reach the image and
        every parameter that requires them (weights, LoRA adapters).

        Args:
            image: On any device.
            settings: Arguments of this call, over `options`.
            generators: One per image; all chance comes from them.
            grad: Keep the graph.
            around: Makes a context around the call from the pipeline's copy that is called.

        Raises:
            ValueError: Wrong shapes, or gradients from a pipeline that gives none.
            RuntimeError: Gradients are wanted where they are switched off.
        """
        return self.run(image, settings, generators, grad=grad, around=around).images

    def run(
        self,
        image: Tensor,
        settings: Mapping[str, Any],
        generators: Sequence[torch.Generator],
        *,
        grad: bool = False,
        pause: Callable[[StepWatch], Sequence[int]] | None = None,
        around: Around = nullcontext,
    ) -> Restored:
        """As `call`, with notes and the number of steps; `pause` as in `StepWatch`."""
        if image.ndim != 4 or image.shape[1] != 3 or len(image) != len(generators):
            raise ValueError(
                f"Expected (B, 3, H, W) and one generator per image, got {tuple(image.shape)} and "
                f"{len(generators)} generators."
            )
        if grad:
            self._check_gradients()
        pipe: Any = copy.copy(self.pipe)
        pipe.set_progress_bar_config(disable=True)
        fitted = self.grid.fit(image.to(self.device))
        arguments, said = self._arguments(fitted, settings, generators)
        watch = None
        if hasattr(getattr(pipe, "scheduler", None), "step"):
            pipe.scheduler = copy.deepcopy(pipe.scheduler)
            watch = StepWatch(pipe.scheduler, generators, pause)
            if pause is not None and self.contract.shrinks and len(image) > 1:
                arguments["callback_on_step_end"] = watch.shrink_call
                arguments["callback_on_step_end_tensor_inputs"] = pipe._callback_tensor_inputs
        call: Any = type(pipe).__call__
        call = call.__wrapped__ if grad else call
        try:
            with torch.set_grad_enabled(grad), around(pipe):
                output = call(pipe, **arguments)
        except BaseException:
            pipe.maybe_free_model_hooks()  # what a whole call does at its end
            raise
        images, flagged = self._images(output)
        if grad and not images.requires_grad:
            raise RuntimeError(
                f"What {type(pipe).__name__} made does not depend on anything that requires "
                "gradients: neither the image nor a weight does, or the call switches them off."
            )
        size, came = (image.shape[-2], image.shape[-1]), (images.shape[-2], images.shape[-1])
        said = said + self.grid.notes(size, came)
        notes = tuple(
            said + (("the safety checker flagged it",) if flag else ()) for flag in flagged
        )
        return Restored(self.grid.back(images, size), notes, watch.done if watch else 0)

    def preview(self, clean: Tensor, size: tuple[int, int]) -> Tensor:
        """Predicted x0 in latent space, (B, …) → images (B, 3, *size) in [0, 1] on the CPU."""
        full = self.grid.padded_size(size)
        asked = (full[0] // self.contract.scale, full[1] // self.contract.scale)
        return self.grid.back(decode_latents(self.pipe, clean, asked), size).cpu()

    def _arguments(
        self,
        fitted: Tensor,
        settings: Mapping[str, Any],
        generators: Sequence[torch.Generator],
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Arguments of the call, and notes on what was left out or changed."""
        count, contract = len(fitted), self.contract
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        arguments: dict[str, Any] = {**self.options, **settings}
        if contract.as_pil:
            if count != 1:
                raise ValueError(f"{type(self.pipe).__name__} takes one image at a time.")
            given: Any = to_pil(fitted[0].clamp(0, 1))
        else:
            given = fitted * 2 - 1 if contract.signed else fitted
        arguments.update(dict.fromkeys(contract.images, given))
        if contract.controls and "control_image" in parameters:
            arguments["control_image"] = [given] * contract.controls
        elif contract.controls:
            arguments["image"] = [given] * contract.controls
        for name, value in arguments.items():
            if isinstance(value, Tensor) and len(value) == 1 < count and _is_embedding(name):
                arguments[name] = value.expand(count, *value.shape[1:])
        said = self._add_prompts(arguments, parameters, count)
        known = {"generator": list(generators), "output_type": "pt", "return_dict": True}
        if contract.scale == 1:
            known |= {"height": fitted.shape[-2], "width": fitted.shape[-1]}
        for name, value in known.items():
            if name in parameters:
                arguments.setdefault(name, value)
        return arguments, said

    def _add_prompts(
        self, arguments: dict[str, Any], parameters: Mapping[str, inspect.Parameter], count: int
    ) -> tuple[str, ...]:
        """Add the prompts; returns notes on those that are left out or have no effect."""

        def add(name: str, prompt: str) -> bool:
            """Add a prompt unless the call has its own, as text or embedded; whether it has any."""
            if arguments.get(f"{name}_embeds") is not None:
                return True
            text = arguments.get(name) or prompt
            if not text and name == "negative_prompt":
                return False
            several = isinstance(text, str) and not self.contract.as_pil
            arguments[name] = [text] * count if several else text
            return True

        def setting(name: str) -> float | None:
            given = arguments.get(name, parameters[name].default if name in parameters else None)
            return given if isinstance(given, int | float) else None

        said = ()
        if self.contract.prompt:
            add("prompt", self.prompt)
        elif self.prompt:
            said += ("the pipeline takes no prompt: left out",)
        if not self.contract.negative_prompt:
            if self.negative_prompt:
                said += ("the pipeline takes no negative prompt: left out",)
            return said
        if not add("negative_prompt", self.negative_prompt):
            return said
        true_scale = setting("true_cfg_scale")
        scale = setting("guidance_scale") if true_scale is None else true_scale
        if scale is not None and scale <= 1:
            if true_scale is None or "true_cfg_scale" in arguments:
                return (*said, f"guidance {scale:g}: the negative prompt has no effect")
            arguments["true_cfg_scale"] = TRUE_GUIDANCE
            said += (f"true_cfg_scale {TRUE_GUIDANCE:g}, so that the negative prompt has effect",)
        return said

    def _images(self, output: Any) -> tuple[Tensor, list[bool]]:
        """(B, 3, h, w) and, per image, whether a safety checker flagged it."""
        images: Any = output[0] if isinstance(output, tuple) else getattr(output, "images", output)
        if isinstance(images, list):  # of PIL images, where the call knows no "pt"
            images = torch.stack([read_image(image).pixels for image in images])
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(
                f"{type(self.pipe).__name__} gave {shape} instead of images (B, 3, H, W); its call "
                "must return what it restored, as tensors or PIL images."
            )
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
        return images, [bool(flag) for flag in flagged]

    def _check_gradients(self) -> None:
        if not self.contract.gradients:
            raise ValueError(
                f"{type(self.pipe).__name__} gives no gradients: its call is not undecorated by "
                "`__wrapped__`, or it takes the image rounded to 8 bits."
            )
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "Gradients are switched off here: leave `torch.no_grad()`, or call "
                "`torch.set_grad_enabled(True)` if a pipeline has switched them off for good."
            )


def _is_embedding(name: str) -> bool:
    """Whether an argument holds one row per image, such as `prompt_embeds` and its mask."""
    return "prompt" in name and ("embeds" in name or "mask" in name)
