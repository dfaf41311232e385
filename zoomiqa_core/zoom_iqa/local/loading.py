"""Load an image-text-to-text model and its processor, with the options that transformers has."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from zoomiqa_core.zoom_iqa.local.families.registry import family_class
from zoomiqa_core.zoom_iqa.local.model_files import model_file

Quantization = Literal["4bit", "8bit"]

LOADING = ("device", "device_map", "dtype", "quantization", "revision", "attn_implementation")
"""Settings of :func:`load_model`."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def load_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    device_map: str | dict[str, Any] | None = None,
    dtype: str | torch.dtype = "auto",
    quantization: Quantization | Any | None = None,
    revision: str | None = None,
    attn_implementation: str | None = "sdpa",
) -> tuple[Any, Any]:
    """Load a model and its processor from a folder or hub id.

    >>> from zoomiqa_core.zoom_iqa.local.model import TINY  # the bundled small judge
    >>> model, processor = load_model(TINY, dtype="bfloat16")
    >>> model.dtype, type(processor).__name__
    (torch.bfloat16, 'Qwen2_5_VLProcessor')

    Args:
        path: folder (``~`` is expanded) or hub id of a model, or of a LoRA adapter, whose base
            model is loaded too; an adapter without a processor takes the base model's.
        device: torch device, or ``"auto"`` to spread the layers over all accelerators.
        device_map: the same in transformers' own form; overrides ``device``.
        dtype: ``"auto"`` for that of the weights, or e.g. ``"bfloat16"``.
        quantization: ``"4bit"`` (NF4) or ``"8bit"``, with bitsandbytes; or any quantisation
            configuration of transformers.
        revision: branch, tag or commit on the hub; None for the newest.
        attn_implementation: transformers' name, e.g. ``"flash_attention_2"``; None for the
            model's default.

    Raises:
        ImportError: a library that the options need is not installed.
        OSError: no model there.
        ValueError: a model that is not supported.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    name, folder = str(path), Path(path).expanduser()
    path = str(folder) if folder.is_dir() else name
    base = _base_of(path, revision)
    kind = AutoConfig.from_pretrained(base or path, revision=None if base else revision).model_type
    family_class(kind)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attn_implementation,
        "revision": revision,
        "quantization_config": _quantization_config(quantization),
    }
    if device_map is None and str(device) == "auto":
        device_map = "auto"
    if device_map is None and quantization is not None:
        device_map = {"": str(device)}  # quantised weights cannot be moved
    options["device_map"] = device_map
    options = {key: value for key, value in options.items() if value is not None}
    model: Any = AutoModelForImageTextToText.from_pretrained(path, **options)
    own = any(model_file(path, file, revision) for file in PROCESSOR_FILES)
    if own or base is None:
        processor = AutoProcessor.from_pretrained(path, revision=revision)
    else:
        processor = AutoProcessor.from_pretrained(base)
    return (model if device_map is not None else model.to(device)), processor


def _base_of(path: str, revision: str | None) -> str | None:
    """The base model of a LoRA adapter; None when the path is a model itself."""
    if model_file(path, "config.json", revision):
        return None
    adapter = model_file(path, "adapter_config.json", revision)
    if adapter is None:
        raise FileNotFoundError(f"{path} has neither config.json nor adapter_config.json")
    return json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]


def _quantization_config(quantization: Any) -> Any:
    """transformers' configuration of a quantisation."""
    if quantization not in ("4bit", "8bit"):
        if isinstance(quantization, str):
            raise ValueError(
                f'quantization must be "4bit", "8bit" or a configuration, got {quantization!r}'
            )
        return quantization
    if find_spec("bitsandbytes") is None:
        raise ImportError(
            f'quantization="{quantization}" needs bitsandbytes: pip install bitsandbytes',
            name="bitsandbytes",
        )
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
