"""What a pipeline's call takes and allows: read from its signature, or from tables of classes.

The signature shows which arguments get the image, which callback there is, and whether the call
takes prompts. It does not show whether the tensors of a batch can shrink half-way, nor in which
form and range the image is expected: the tables below do, read from the code of diffusers 0.42.1,
and tried in the tests where there is a small pipeline of the class.
"""

from __future__ import annotations

import inspect
import re
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
"""In the name of classes that swap attention processors during the call, so that concurrent calls
would disturb each other."""

PACKED_FOR_GOOD = ("Flux2",)
"""Prefixes of classes that pack latents into tokens with positions kept inside the call, so that no
preview can be decoded from them."""

UPSCALERS = frozenset({"LDMSuperResolutionPipeline", "StableDiffusionUpscalePipeline"})
"""Classes whose latents are as large as the input: the autoencoder's factor is the scale. What
other classes enlarge is reduced afterwards."""

UNSUPPORTED = {
    "^IF": "it takes and returns tensors in [-1, 1] in more than one stage",
    "^Marigold": "it estimates maps, not a restored image",
    "Prior": "it makes embeddings for another pipeline",
    "Inpaint": "it repaints what a mask covers",
    "Video": "it makes videos",
    "^ShapE": "it makes 3D objects",
    "Gemma": "it is a language model and writes text",
    "UniDiffuser|VersatileDiffusion": "it draws new images, or describes the one it is given",
    "ImageVariation": "it draws new images after the one it is given",
    "VisualCloze": "it takes rows of example images",
    "Layered": "it splits the image into layers",
}
"""Pattern in the name of a class → why it cannot restore."""

NOT_A_RESTORER = {
    "mask_image": "a mask of what to repaint",
    "control_mask": "a mask of what to repaint",
    "example_image": "an example to paint",
    "image_embeds": "embeddings of another pipeline",
    "source_prompt": "a prompt that describes the input",
    "original_image": "a second image",
    "num_frames": "a number of frames: it makes videos",
    "frames": "a number of frames: it makes videos",
}
"""Parameter → what the pipeline needs beside a degraded image."""


@dataclass(frozen=True)
class Contract:
    """What a pipeline's call takes and allows.

    >>> Contract(images=("image",), callback="none", prompt=False).gradients
    True
    """

    images: tuple[str, ...]
    """Arguments that get the degraded image."""
    callback: Literal["step_end", "legacy", "none"]
    """`callback_on_step_end`, the older `callback`, or no callback at all."""
    shrinks: bool = False
    """Candidates of a batch can end half-way; where not, each runs alone when some may end."""
    prompt: bool = True
    negative_prompt: bool = True
    """Takes a negative prompt; Flux pipelines use it when `true_cfg_scale` exceeds 1."""
    previews: bool = True
    """Predicted clean images can be shown while sampling."""
    gradients: bool = True
    """The call can be made with gradients; see `PipelineAdapter.call`."""
    as_pil: bool = False
    """The image is given as a PIL image, rounded to 8 bits, one candidate at a time."""
    signed: bool = False
    """The image tensor is given in [-1, 1] instead of [0, 1]."""
    controls: int = 0
    """Number of ControlNets, each of which is given the image, where there are several."""
    scale: int = 1
    """Output pixels per input pixel; the input is reduced by it, so that the grid stays."""
    multiple: int = 8
    """Sides of the pipeline's input are multiples of this many pixels."""


def read_contract(pipe: DiffusionPipeline, options: Mapping[str, Any] | None = None) -> Contract:
    """The contract of a pipeline.

    >>> from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
    >>> contract = read_contract(load_builtin_pipeline())
    >>> contract.images, contract.prompt, contract.gradients
    (('image',), False, True)

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
    for word, meaning in NOT_A_RESTORER.items():
        if word in parameters and word not in options:
            raise TypeError(
                f"{name} needs {meaning} ({word}), which a restorer does not have; "
                f"give it as options={{{word!r}: …}} or use a pipeline without it."
            )
    needed = any(word in parameters for word in NOT_A_RESTORER)  # and given in options
    for pattern, reason in UNSUPPORTED.items():
        if re.search(pattern, name) and not needed:
            raise TypeError(
                f"{name} is not supported: {reason}. Where yours does restore, describe its call "
                "with contract=Contract(…)."
            )
    scheduler: Any = getattr(pipe, "scheduler", None)
    pil = name.startswith(PIL_ONLY)
    return Contract(
        images=images,
        callback=_callback(parameters),
        shrinks=name in SHRINKING and not _holds_rows_back(pipe, options),
        prompt="prompt" in parameters,
        negative_prompt="negative_prompt" in parameters,
        previews=(
            shows_clean(scheduler)
            and STATEFUL_ATTENTION not in name
            and not name.startswith(PACKED_FOR_GOOD)
        ),
        gradients=hasattr(call, "__wrapped__") and not pil,
        as_pil=pil,
        signed=name in SIGNED,
        controls=_controls(pipe),
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
    return (
        distilled
        or _controls(pipe) > 0
        or any(word == "callback_on_step_end" or word.startswith("ip_adapter") for word in options)
    )


def _controls(pipe: Any) -> int:
    """Number of the ControlNets of a `MultiControlNetModel`; 0 where there is no list of them."""
    return len(getattr(getattr(pipe, "controlnet", None), "nets", ()))


def _multiple(pipe: Any) -> int:
    """Two latents, as transformers pack them in pairs; on pixels, what the UNet halves."""
    factor = pixels_per_latent(pipe)
    if factor > 1:
        return 2 * factor
    levels = getattr(getattr(getattr(pipe, "unet", None), "config", None), "block_out_channels", ())
    return max(8, 2 ** (len(levels) - 1)) if levels else 8
