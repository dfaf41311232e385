"""Restoration networks from one file, through spandrel: ESRGAN, SwinIR, NAFNet and 40 others."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restoration_guide.restorers.network import DEFAULT_TILE, Network, NetworkRestorer

SUFFIXES = (".safetensors", ".pth", ".ckpt")
"""Endings of the files. TorchScript (``.pt``) is not among them: it holds code."""


def is_model_file(name: str) -> bool:
    """Whether a name is that of a file with a network's weights.

    >>> is_model_file("4x_photo.pth"), is_model_file("owner/pipeline")
    (True, False)
    """
    return name.lower().endswith(SUFFIXES)


def load_model_file(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> NetworkRestorer:
    """A network of any architecture that spandrel knows, from its weights; extra ``spandrel``.

    The architecture, its size and its scale are read from the tensors. A ``.pth`` or ``.ckpt`` file
    is unpickled by an unpickler that makes tensors and dictionaries only: a file that asks for
    anything else, which could run code, is refused. Prefer ``.safetensors``.

    Images are padded to the sizes that the network accepts, by reflection, and cropped back.

    Args:
        path: File; its name is the restorer's.
        device: Where the network computes; the CPU by default.
        dtype: Of its weights; float32 by default.
        options: See `NetworkRestorer`. Networks that need the whole image, such as those with
            global attention, have no tiles by default.

    Raises:
        ImportError: The extra is not installed.
        FileNotFoundError: There is no such file.
        ValueError: The file holds no network that restores images; the message says what instead.
    """
    library, model = _read(Path(path).expanduser())
    refusal = _refusal(model)
    if refusal is not None:
        raise ValueError(f"{path} holds {model.architecture.name}, {refusal}.")

    try:
        model.to(device=device, dtype=dtype or torch.float32).eval()
    except library.UnsupportedDtypeError as error:
        raise ValueError(f"{path} holds {model.architecture.name}: no {dtype} for it") from error
    model.model.requires_grad_(False)

    def run(image: Tensor) -> Tensor:
        return model(image.to(model.device, model.dtype)).to("cpu", torch.float32)

    tile = DEFAULT_TILE if model.tiling is library.ModelTiling.SUPPORTED else None
    network = Network(run, model.scale, model.input_channels)
    return NetworkRestorer(network, **{"name": os.fspath(path), "tile": tile, **options})


def _read(path: Path) -> tuple[Any, Any]:
    """The module spandrel, and what it makes of a file."""
    try:
        library = importlib.import_module("spandrel")  # this file has its name
    except ImportError as error:
        raise ImportError(
            f"{path}: reading it takes spandrel: pip install 'zoomiqa-restoration-guide[spandrel]'"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        return library, library.ModelLoader().load_from_file(path)
    except library.UnsupportedModelError as error:
        raise ValueError(
            f"{path} holds no image model that spandrel knows: expected the weights of a "
            "restoration or super-resolution network. A diffusion model in one file is loaded by "
            "its pipeline's from_single_file, and given as a pipeline."
        ) from error
    except Exception as error:  # unpickling, a cut file, tensors of other shapes than expected
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as the weights of an image model: {problem}. Files that hold "
            "more than tensors are refused, because unpickling them could run code."
        ) from error


def _refusal(model: Any) -> str | None:
    """Why a model cannot restore photos; None when it can."""
    purpose = model.purpose
    if purpose not in ("SR", "Restoration"):
        does = {"FaceSR": "restores aligned faces", "Inpainting": "fills what a mask covers"}
        return f"which {does.get(purpose, purpose)}: no restorer of whole photos"
    channels = (model.input_channels, model.output_channels)
    if channels not in ((3, 3), (1, 1)):
        return f"which turns {channels[0]} channels into {channels[1]}: expected 3 or 1 of each"
    return None
