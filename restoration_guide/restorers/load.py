"""Restorers by name, file, folder, hub id or object, alone or several as a pool."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restoration_guide.restorers.base import Restorer

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    Source = str | os.PathLike[str] | DiffusionPipeline | Callable[..., Any] | Restorer


def load_restorer(
    source: Source | Sequence[Source] = "builtin",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Restorer:
    """Load a restorer.

    A pipeline saved as text-to-image, as most checkpoints are, becomes its class's image-to-image
    pipeline. Weights are safetensors, and no code of a repository is run; a `.pth` file is
    unpickled by an unpickler that makes nothing but tensors, see `load_model_file`. A hub id is
    downloaded once; offline, or with `HF_HUB_OFFLINE=1`, the Hub cache is used.

    Args:
        source: One of

            - "builtin" for the bundled weights;
            - "realesrgan" or "realesrgan-anime", on the CPU (extra `ncnn`);
            - a `.safetensors` or `.pth` file of a network that spandrel knows (extra `spandrel`);
            - the folder or hub id of a saved diffusers pipeline, or a pipeline object;
            - a function or network `f(image)`, `f(image, generator)` or `f(image, seed)`, see
              `CallableRestorer`;
            - a `Restorer`, which is returned as it is;
            - a list of these, which take turns as one `RestorerPool`. It takes no options: give
              restorers that were loaded with theirs.
        device: Device of a pipeline or a file's network; a pipeline object is moved there, as
            `pipe.to` does. By default what is loaded is on the CPU, and an object stays where it
            is.
        dtype: Of its weights, likewise; float32 by default.
        options: Arguments of the restorer, such as `plan`, `options`, `prompt`, `negative_prompt`,
            `tile`, `limits`, `name`: see `PipelineRestorer`, `NetworkRestorer`, `CallableRestorer`,
            `BuiltinRestorer`. A diffusers pipeline further takes `steps`, the number of steps of
            every candidate; from a folder or hub id `controlnet`, the folder or hub id of a
            ControlNet, and `loading`, arguments of its `from_pretrained`, such as `variant` or
            `quantization_config`.

    Returns:
        The restorer, named as `source` is, or by the class of an object ("pipeline" for a
        `TinyRestorationPipeline`).

    Raises:
        WeightsError: A folder without a pipeline.
        FileNotFoundError: Neither a folder nor a hub id, or a missing file.
        ImportError: An extra is not installed.
        OSError: A hub id that cannot be downloaded.
        TypeError: No restorer can be made of the source.
        ValueError: An argument that this kind of restorer does not take; a file without a network
            that restores images.

    >>> import torch
    >>> restorer = load_restorer("builtin")
    >>> restorer.name, len(restorer.plan)
    ('builtin', 12)
    >>> careful, bold = restorer.restore(torch.rand(1, 3, 32, 48), n=2, seed=0)
    >>> bold.image.shape, bold.settings
    (torch.Size([3, 32, 48]), Settings(steps=5, strength=1.0, temperature=0.5, churn=True))
    """
    if isinstance(source, (str, os.PathLike)):
        return _by_name(os.fspath(source), device, dtype, options)
    if isinstance(source, Sequence):
        from restoration_guide.restorers.pool import RestorerPool

        hint = ": load each by itself and give those"
        _refuse("A list of restorers", options, hint, device=device, dtype=dtype)
        return RestorerPool(*(load_restorer(each) for each in source))
    # diffusers is heavy: imported only when a restorer is wanted
    from diffusers import DiffusionPipeline

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
        "diffusers pipeline, a pipeline, a .safetensors or .pth file, or a function f(image) or "
        "f(image, generator)."
    )


def _by_name(
    name: str,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    options: dict[str, Any],
) -> Restorer:
    from restoration_guide.restorers.ncnn import MODELS, load_realesrgan
    from restoration_guide.restorers.spandrel import is_model_file, load_model_file

    if name in MODELS:
        hint = ": it computes on the CPU, in its own precision"
        _refuse(name, {}, hint, device=None if str(device) == "cpu" else device, dtype=dtype)
        return load_realesrgan(name, **options)
    if is_model_file(name) and not Path(name).expanduser().is_dir():
        return load_model_file(name, device=device, dtype=dtype, **options)
    if Path(name).expanduser().is_file():
        raise ValueError(
            f"{name} is a file of another kind: expected .safetensors, .pth or .ckpt. TorchScript "
            "(.pt) holds code."
        )
    loading, controlnet = options.pop("loading", None), options.pop("controlnet", None)
    pipe = _loaded_pipeline(name, device, dtype, loading or {}, controlnet)
    return _wrapped(pipe, name, options)


def _refuse(name: str, options: Mapping[str, Any], hint: str = "", **more: Any) -> None:
    given = [*options, *(key for key, value in more.items() if value is not None)]
    if given:
        raise ValueError(f"{name} takes no {', '.join(given)}{hint}.")


def _loaded_pipeline(
    name: str,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    loading: Mapping[str, Any],
    controlnet: str | None,
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
        if loading or controlnet:
            raise ValueError(f"{name} is no pipeline that takes loading or controlnet.")
        pipe = pipe if dtype is None else pipe.to(dtype)
    else:
        # the argument was renamed
        release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
        argument = "dtype" if release >= (0, 42) else "torch_dtype"
        given = {} if dtype is None else {argument: dtype}
        given |= {"use_safetensors": True, **loading}
        pipe = diffusers.DiffusionPipeline.from_pretrained(name, **given)
        if controlnet is not None:
            kept = {key: given[key] for key in ("use_safetensors", argument) if key in given}
            net = diffusers.AutoModel.from_pretrained(controlnet, **kept)
            pipe = diffusers.AutoPipelineForImage2Image.from_pipe(pipe, controlnet=net)
    return pipe if device is None else pipe.to(device)


def _wrapped(pipe: Any, name: str | None, options: dict[str, Any]) -> Restorer:
    from restoration_guide.restorers.builtin.restorer import (
        BuiltinRestorer,
        TinyRestorationPipeline,
    )
    from restoration_guide.restorers.diffusers.restorer import PipelineRestorer

    steps = options.pop("steps", None)
    if steps is not None:
        argument = "steps" if isinstance(pipe, TinyRestorationPipeline) else "num_inference_steps"
        options["options"] = {**(options.get("options") or {}), argument: steps}
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
