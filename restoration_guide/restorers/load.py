"""Restorers by name, folder, hub id or object."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restoration_guide.restorers.base import Restorer

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def load_restorer(
    source: str | os.PathLike[str] | DiffusionPipeline | Callable[..., Any] | Restorer = "builtin",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Restorer:
    """Load a restorer.

    A pipeline saved as text-to-image, as most checkpoints are, becomes its class's image-to-image
    pipeline. Weights are safetensors, and no code of a repository is run. A hub id is downloaded
    once; offline, or with `HF_HUB_OFFLINE=1`, the Hub cache is used.

    Args:
        source: "builtin" for the bundled weights; the folder or hub id of a saved diffusers
            pipeline; a pipeline object; a function or network `f(image)` or `f(image, generator)`,
            see `CallableRestorer`; or a `Restorer`, which is returned as it is.
        device: Device of a pipeline; a pipeline object is moved there, as `pipe.to` does. By
            default a loaded pipeline is on the CPU, and an object stays where it is.
        dtype: Of its weights, likewise; float32 by default.
        options: Arguments of the restorer, such as `prompt`, `negative_prompt`, `plan`, `options`,
            `tile`, `limits`, `name`: see `PipelineRestorer`, `CallableRestorer`, `BuiltinRestorer`.

    Returns:
        The restorer, named "builtin", by the folder or id as given, or by the class ("pipeline" for
        a `TinyRestorationPipeline`).

    Raises:
        WeightsError: A folder without a pipeline.
        FileNotFoundError: Neither a folder nor a hub id.
        OSError: A hub id that cannot be downloaded.
        TypeError: No restorer can be made of the source.
        ValueError: An argument that this kind of restorer does not take.

    >>> import torch
    >>> restorer = load_restorer("builtin")
    >>> restorer.name, len(restorer.plan)
    ('builtin', 12)
    >>> careful, bold = restorer.restore(torch.rand(1, 3, 32, 48), n=2, seed=0)
    >>> bold.image.shape, bold.settings
    (torch.Size([3, 32, 48]), Settings(steps=5, strength=1.0, temperature=0.5, churn=True))
    """
    # diffusers is heavy: imported only when a restorer is wanted
    from diffusers import DiffusionPipeline

    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return _wrapped(_loaded_pipeline(name, device, dtype), name, options)
    if isinstance(source, DiffusionPipeline):
        pipe: Any = source
        moves = {"device": device, "dtype": dtype}
        moves = {name: value for name, value in moves.items() if value is not None}
        return _wrapped(pipe.to(**moves) if moves else pipe, None, options)
    if device is not None or dtype is not None:
        raise ValueError(
            f"device and dtype are of pipelines; a {type(source).__name__} computes where its own "
            "code says: move its weights before you give it."
        )
    if isinstance(source, Restorer) and not inspect.isclass(source):
        if options:
            raise ValueError(f"{source.name} is a restorer already: it takes no {sorted(options)}.")
        return source
    if callable(source):
        from restoration_guide.restorers.function import CallableRestorer

        return CallableRestorer(source, **options)
    raise TypeError(
        f"Cannot restore with {type(source).__name__}: give 'builtin', the folder or hub id of a "
        "diffusers pipeline, a pipeline, or a function f(image) or f(image, generator)."
    )


def _loaded_pipeline(
    name: str, device: str | torch.device | None, dtype: torch.dtype | None
) -> Any:
    import diffusers

    from restoration_guide.restorers.builtin.restorer import (
        TinyRestorationPipeline,
        WeightsError,
        load_builtin_pipeline,
    )
    from zoomiqa_core.zoom_iqa.local.model_files import model_file

    kind = None
    if name != "builtin":
        index = model_file(name, "model_index.json")
        if index is None:
            raise WeightsError(
                f"No restorer in {name}: expected a diffusers pipeline folder with "
                "model_index.json, as `pipe.save_pretrained(FOLDER)` writes it."
            )
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if name == "builtin" or kind == TinyRestorationPipeline.__name__:
        pipe: Any = load_builtin_pipeline(None if name == "builtin" else Path(name).expanduser())
        pipe = pipe if dtype is None else pipe.to(dtype)
    else:
        # the argument was renamed
        release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
        argument = "dtype" if release >= (0, 42) else "torch_dtype"
        given = {} if dtype is None else {argument: dtype}
        pipe = diffusers.DiffusionPipeline.from_pretrained(name, use_safetensors=True, **given)
    return pipe if device is None else pipe.to(device)


def _wrapped(pipe: Any, name: str | None, options: dict[str, Any]) -> Restorer:
    from restoration_guide.restorers.builtin.restorer import (
        BuiltinRestorer,
        TinyRestorationPipeline,
    )
    from restoration_guide.restorers.diffusers.restorer import PipelineRestorer

    if isinstance(pipe, TinyRestorationPipeline):
        return BuiltinRestorer(pipe, **{"name": name or "pipeline", **options})
    return PipelineRestorer(_for_images(pipe), **{"name": name, **options})


def _for_images(pipe: Any) -> Any:
    """The pipeline, or, when it takes no image, its class's image-to-image pipeline."""
    from diffusers import AutoPipelineForImage2Image

    from restoration_guide.restorers.diffusers.contract import IMAGE_ARGUMENTS

    if any(name in inspect.signature(type(pipe).__call__).parameters for name in IMAGE_ARGUMENTS):
        return pipe
    try:
        return AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError:
        return pipe  # reading its contract says what is wrong with it
