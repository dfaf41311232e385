"""Differentiable sampling through the ``__call__`` of any diffusers pipeline.

For pipelines without a :class:`.rollout.Chain`. Their ``__call__`` is decorated with
``torch.no_grad``, but the wrapped function is differentiable. While it runs, network evaluations
before the last K steps record no graph; the later ones and the decoding may be checkpointed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from restoration_guide.finetune.rollout import require_gradients

Trained = Literal["denoiser", "controlnet", "vae_decoder"]
"""Part of a pipeline that is trained: UNet or transformer, ControlNet, or decoder of the VAE."""


def sample_with_gradient(
    pipe: DiffusionPipeline, *, last: int = 1, checkpointing: bool = False, **call: Any
) -> Tensor:
    """Call a pipeline with gradients through its last network evaluations.

    ``sample_with_gradient(pipe, last=1, image=image, prompt="")``

    Args:
        pipe: any pipeline with a ``unet`` or ``transformer``; parameters that require gradients get
            them.
        last: K, the number of last sampling steps that get a gradient; 0 for all.
        checkpointing: recompute the activations of those evaluations and of the VAE's decoding in
            the backward pass.
        call: arguments of the pipeline's ``__call__``; the output type is always "pt".

    Returns:
        (B, 3, H, W) in [0, 1] with a graph.

    Raises:
        TypeError: the pipeline's ``__call__`` is not decorated, or it has no such network.
        RuntimeError: gradients are switched off, or the images have no graph.
    """
    require_gradients()
    inner = getattr(type(pipe).__call__, "__wrapped__", None)
    if inner is None:
        raise TypeError(
            f"{type(pipe).__name__}.__call__ has no __wrapped__: expected a diffusers pipeline, "
            "whose __call__ is decorated with torch.no_grad. Of a subclass, pass the parent class."
        )
    with truncated(pipe, last=last, checkpointing=checkpointing):
        images = inner(pipe, **{**call, "output_type": "pt", "return_dict": False})[0]
    if not images.requires_grad:
        raise RuntimeError(
            "the images have no graph: no parameter requires a gradient (add an adapter), or the "
            "pipeline detaches its latents or switches gradients off"
        )
    return images


def denoiser_name(pipe: Any) -> str:
    """Name of a pipeline's denoising network: "transformer" or "unet".

    >>> from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
    >>> denoiser_name(load_builtin_pipeline())
    'unet'

    Raises:
        TypeError: it has neither.
    """
    for name in ("transformer", "unet"):
        if isinstance(getattr(pipe, name, None), nn.Module):
            return name
    raise TypeError(f"{type(pipe).__name__} has neither a transformer nor a unet to train")


def trained_component(pipe: Any, train: Trained) -> tuple[str, nn.Module]:
    """Name of the pipeline's component that is trained, and the network in it.

    >>> from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
    >>> name, network = trained_component(load_builtin_pipeline(), "denoiser")
    >>> name, type(network).__name__
    ('unet', 'UNet2DModel')

    Raises:
        TypeError: the pipeline has no such part.
    """
    if train == "denoiser":
        name = denoiser_name(pipe)
        return name, getattr(pipe, name)
    name = "controlnet" if train == "controlnet" else "vae"
    component = getattr(pipe, name, None)
    network = component if train == "controlnet" else getattr(component, "decoder", None)
    if not isinstance(network, nn.Module):
        has = sorted(k for k, v in pipe.components.items() if isinstance(v, nn.Module))
        raise TypeError(f"train={train}: a {type(pipe).__name__} has none; its networks are {has}")
    return name, network


@contextmanager
def truncated(pipe: Any, *, last: int | None = 1, checkpointing: bool = False) -> Iterator[None]:
    """Within the block, give only the last network evaluations of a pipeline a gradient.

    Args:
        pipe: is called once in the block.
        last: as in :func:`sample_with_gradient`; None gives none a gradient, but the decoding.
        checkpointing: as in :func:`sample_with_gradient`.
    """
    networks = [getattr(pipe, denoiser_name(pipe)), getattr(pipe, "controlnet", None)]
    done = 0
    step = pipe.scheduler.step

    def counted_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        return step(*args, **kwargs)

    def truncated_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
        differentiable = _checkpointed(forward) if checkpointing else forward

        def run(*args: Any, **kwargs: Any) -> Any:
            if last is None or (last and done < _steps(pipe) - last):
                with torch.no_grad():
                    return forward(*args, **kwargs)
            return differentiable(*args, **kwargs)

        return run

    vae = getattr(pipe, "vae", None)
    replaced: list[tuple[Any, str, Any]] = [
        (network, "forward", truncated_forward(network.forward))
        for network in networks
        if isinstance(network, nn.Module)
    ]
    replaced.append((pipe.scheduler, "step", counted_step))
    if checkpointing and vae is not None:
        replaced.append((vae, "decode", _checkpointed(vae.decode)))
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in replaced]
    try:
        for owner, name, function in replaced:
            setattr(owner, name, function)
        yield
    finally:
        for owner, name, function in before:
            if function is None:
                delattr(owner, name)  # uncovers the method of the class
            else:
                setattr(owner, name, function)


def _steps(pipe: Any) -> int:
    """Number of steps of the running call."""
    declared = getattr(pipe, "_num_timesteps", None)
    if declared is not None:
        return declared
    # other pipelines take all of the scheduler's steps, image-to-image ones from an offset
    return len(pipe.scheduler.timesteps) - (getattr(pipe.scheduler, "begin_index", None) or 0)


def _checkpointed(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(function, *args, use_reentrant=False, **kwargs)

    return run
