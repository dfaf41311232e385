"""What a pipeline's call takes and allows: read from its signature, or declared by its class.

The signature says which arguments get the image, which callback there is, and whether words are
taken. It does not say whether the tensors of a batch can shrink half-way, nor in which form and
range the image is expected: the tables below do, read from the code of diffusers 0.42.1, and tried
in the tests where there is a small pipeline of the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from restoration_guide.restorers.diffusers.previews import shows_clean

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

IMAGE_ARGUMENTS = ("image", "control_image")
"""Arguments that may get the degraded image: the picture to change (or, in the ControlNets of SD1,
SD2 and SDXL, to follow), and the picture to follow beside or instead of it."""

SHRINKING = frozenset(
    {
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionXLImg2ImgPipeline",
    }
)
"""Classes whose `callback_on_step_end` reaches every tensor of the batch. The others keep some out
of its reach: SD3 and Flux the pooled prompt, upscalers, Kontext and Qwen-Image-Edit the image."""

PIL_ONLY = ("Flux2", "JoyImageEdit", "LongCatImageEdit", "QwenImageEdit", "ZImageOmni")
"""Prefixes of classes that take PIL images, and in which a list means several references."""

SIGNED = frozenset({"LDMSuperResolutionPipeline"})
"""Classes that take image tensors as they are, in [-1, 1], where the others scale [0, 1]."""

STATEFUL_ATTENTION = "PAG"
"""In the name of classes that swap attention processors during the call, so that calls which take
turns would disturb each other."""

UPSCALERS = frozenset({"LDMSuperResolutionPipeline", "StableDiffusionUpscalePipeline"})
"""Classes whose latents are as large as the input: the autoencoder's factor is the scale. What
other classes enlarge is reduced afterwards."""

UNSUPPORTED = {
    "IF": "it takes and returns tensors in [-1, 1] in more than one stage",
    "Marigold": "it estimates maps, not a restored image",
}
"""Prefix → why."""

NOT_A_RESTORER = {
    "mask_image": "a mask of what to repaint",
    "example_image": "an example to paint",
    "image_embeds": "embeddings of another pipeline",
    "source_prompt": "words for the input",
    "original_image": "a second image",
    "num_frames": "a number of frames: it makes videos",
}
"""Parameter → what the pipeline needs beside a degraded image."""


@dataclass(frozen=True)
class Contract:
    """What a pipeline's call takes and allows."""

    images: tuple[str, ...]
    """Arguments that get the degraded image."""
    callback: Literal["step_end", "legacy", "none"]
    """`callback_on_step_end`, the older `callback`, or no callback at all."""
    shrinks: bool = False
    """Candidates of a batch can end half-way; where not, each runs alone when some may end."""
    prompt: bool = True
    negative_prompt: bool = True
    """Takes a negative prompt; pipelines of Flux heed it when `true_cfg_scale` exceeds 1."""
    previews: bool = True
    """Predicted clean images can be shown while sampling."""
    gradients: bool = True
    """The call can be made with gradients; see `PipelineAdapter.call`."""
    as_pil: bool = False
    """The image is given as a PIL image, rounded to 8 bits, one candidate at a time."""
    signed: bool = False
    """The image tensor is given in [-1, 1] instead of [0, 1]."""
    scale: int = 1
    """Output pixels per input pixel; the input is reduced by it, so that the grid stays."""
    multiple: int = 8
    """Sides of the pipeline's input are multiples of this many pixels."""


def read_contract(pipe: DiffusionPipeline, options: Mapping[str, Any] | None = None) -> Contract:
    """The contract of a pipeline.

    Args:
        pipe: Any pipeline whose call has an argument `image` or `control_image`.
        options: Fixed arguments of every call; they may supply what else the pipeline needs.

    Raises:
        TypeError: It takes no image, or needs what a restorer does not have.
    """
    options = options or {}
    kind = type(pipe)
    name, call = kind.__name__, kind.__call__
    parameters = inspect.signature(call).parameters
    images = tuple(word for word in IMAGE_ARGUMENTS if word in parameters and word not in options)
    if not images:
        raise TypeError(
            f"{name} takes no image: its call has no argument {' or '.join(IMAGE_ARGUMENTS)}. Give "
            "an image-to-image, upscaling, editing or ControlNet pipeline."
        )
    for prefix, reason in UNSUPPORTED.items():
        if name.startswith(prefix):
            raise TypeError(f"{name} is not supported: {reason}.")
    for word, meaning in NOT_A_RESTORER.items():
        if word in parameters and word not in options:
            raise TypeError(
                f"{name} needs {meaning} ({word}), which a restorer does not have; "
                f"give it as options={{{word!r}: …}} or use a pipeline without it."
            )
    scheduler: Any = getattr(pipe, "scheduler", None)
    pil = name.startswith(PIL_ONLY)
    return Contract(
        images=images,
        callback=_callback(parameters),
        shrinks=name in SHRINKING and not _holds_rows_back(pipe, options),
        prompt="prompt" in parameters,
        negative_prompt="negative_prompt" in parameters,
        previews=shows_clean(scheduler) and STATEFUL_ATTENTION not in name,
        gradients=hasattr(call, "__wrapped__") and not pil,
        as_pil=pil,
        signed=name in SIGNED,
        scale=pixels_per_latent(pipe) if name in UPSCALERS else 1,
        multiple=_multiple(pipe),
    )


def pixels_per_latent(pipe: DiffusionPipeline) -> int:
    """Side of the pixel square behind one latent; 1 for pipelines that work on pixels."""
    factor = getattr(pipe, "vae_scale_factor", None)
    if factor is None:
        autoencoder = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
        if autoencoder is None:
            return 1
        factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    return int(factor)


def _callback(parameters: Mapping[str, Any]) -> Literal["step_end", "legacy", "none"]:
    if "callback_on_step_end" in parameters:
        return "step_end"
    return "legacy" if "callback" in parameters else "none"


def _holds_rows_back(pipe: Any, options: Mapping[str, Any]) -> bool:
    """Whether this pipeline has rows of the batch that its callback does not reach."""
    distilled = getattr(pipe.unet.config, "time_cond_proj_dim", None) is not None
    several = hasattr(getattr(pipe, "controlnet", None), "nets")
    return (
        distilled
        or several
        or any(word == "callback_on_step_end" or word.startswith("ip_adapter") for word in options)
    )


def _multiple(pipe: Any) -> int:
    """Two latents, as transformers pack them in pairs; on pixels, what the UNet halves."""
    factor = pixels_per_latent(pipe)
    if factor > 1:
        return 2 * factor
    levels = getattr(getattr(getattr(pipe, "unet", None), "config", None), "block_out_channels", ())
    return max(8, 2 ** (len(levels) - 1)) if levels else 8
