"""Sampling with gradients through the ``__call__`` of a diffusers pipeline.

For pipelines without a :class:`.rollout.Chain` of their own. Their ``__call__`` is decorated with
``torch.no_grad``; the function underneath is differentiable. Truncation is laid around it: while
the call runs, evaluations of the network before the last K steps record nothing, and the later ones
and the decoding may compute their activations again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from restoration_guide.finetune.rollout import require_gradients


def sample_with_gradient(
    pipe: DiffusionPipeline, *, last: int = 1, checkpointing: bool = False, **call: Any
) -> Tensor:
    """Images of a pipeline with the gradient of its last evaluations.

    Args:
        pipe: any pipeline with a ``unet`` or ``transformer`` that counts its steps; parameters that
            require gradients get them.
        last: K, the sampling steps whose evaluations get a gradient; 0 for all.
        checkpointing: compute the activations of those evaluations and of the VAE's decoding again
            in the backward pass.
        call: arguments of the pipeline's ``__call__``; the output type is always "pt".

    Returns:
        (B, 3, H, W) in [0, 1] with a graph.

    Raises:
        TypeError: the pipeline's call is not wrapped as diffusers wraps it, or has no network of
            those names.
        RuntimeError: gradients are off, or the images came out without a graph.
    """
    require_gradients()
    inner = getattr(type(pipe).__call__, "__wrapped__", None)
    if inner is None:
        raise TypeError(
            f"{type(pipe).__name__}.__call__ has no __wrapped__: expected a diffusers pipeline, "
            "whose own __call__ is decorated with torch.no_grad. Of a subclass, take the parent."
        )
    with truncated(pipe, last=last, checkpointing=checkpointing):
        images = inner(pipe, **{**call, "output_type": "pt", "return_dict": False})[0]
    if not images.requires_grad:
        raise RuntimeError(
            "the images came out without a graph: nothing in the network requires a gradient (add "
            "an adapter), or the pipeline detaches its latents or switches gradients off inside"
        )
    return images


def denoiser_name(pipe: Any) -> str:
    """Name of the network that denoises: "transformer" or "unet".

    Raises:
        TypeError: it has neither.
    """
    for name in ("transformer", "unet"):
        if isinstance(getattr(pipe, name, None), nn.Module):
            return name
    raise TypeError(f"{type(pipe).__name__} has neither a transformer nor a unet to train")


@contextmanager
def truncated(pipe: Any, *, last: int = 1, checkpointing: bool = False) -> Iterator[None]:
    """While the block runs, the pipeline's parts know which evaluations get a gradient.

    Args:
        pipe: makes one call in the block.
        last: as in :func:`sample_with_gradient`.
        checkpointing: likewise.
    """
    denoiser = getattr(pipe, denoiser_name(pipe))
    done = 0
    forward, step = denoiser.forward, pipe.scheduler.step
    learned = _checkpointed(forward) if checkpointing else forward

    def counted_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        return step(*args, **kwargs)

    def truncated_forward(*args: Any, **kwargs: Any) -> Any:
        if last and done < _steps(pipe) - last:
            with torch.no_grad():
                return forward(*args, **kwargs)
        return learned(*args, **kwargs)

    vae = getattr(pipe, "vae", None)
    replaced: list[tuple[Any, str, Any]] = [
        (denoiser, "forward", truncated_forward),
        (pipe.scheduler, "step", counted_step),
    ]
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
                delattr(owner, name)  # the class's own method is seen again
            else:
                setattr(owner, name, function)


def _steps(pipe: Any) -> int:
    """How many steps the running call takes."""
    told = getattr(pipe, "_num_timesteps", None)
    if told is not None:
        return told
    # the others take all of their scheduler's, from where an image is the start
    return len(pipe.scheduler.timesteps) - (getattr(pipe.scheduler, "begin_index", None) or 0)


def _checkpointed(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(function, *args, use_reentrant=False, **kwargs)

    return run
