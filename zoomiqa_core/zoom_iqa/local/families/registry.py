"""Which family a model belongs to."""

from __future__ import annotations

from typing import Any

from zoomiqa_core.zoom_iqa.local.families.base import Family
from zoomiqa_core.zoom_iqa.local.families.fast_vlm import FastVLM
from zoomiqa_core.zoom_iqa.local.families.gemma3 import Gemma3
from zoomiqa_core.zoom_iqa.local.families.idefics3 import Idefics3
from zoomiqa_core.zoom_iqa.local.families.internvl import InternVL
from zoomiqa_core.zoom_iqa.local.families.llava_onevision import LlavaOneVision
from zoomiqa_core.zoom_iqa.local.families.other import Other
from zoomiqa_core.zoom_iqa.local.families.qwen_vl import QwenVL

FAMILIES: tuple[type[Family], ...] = (
    QwenVL,
    FastVLM,
    LlavaOneVision,
    InternVL,
    Idefics3,
    Gemma3,
)


def family_class(model_type: str) -> type[Family]:
    """The family of a model type; ``Other`` for a class of transformers that has none.

    >>> family_class("qwen3_vl").__name__, family_class("fast_vlm").__name__
    ('QwenVL', 'FastVLM')

    Raises:
        ValueError: not an image-text-to-text model of transformers.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN,
    )

    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    if model_type in KNOWN:
        return Other
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise ValueError(
        f"{model_type} is no image-text-to-text model of transformers; expected one of {known}, "
        "or another class of that kind"
    )


def family_of(model: Any, processor: Any, max_pixels: int | None = None) -> Family:
    """A model with its processor, and how it takes images.

    >>> import zoomiqa_core as zi
    >>> vlm = zi.load_scorer("tiny").backend
    >>> family = family_of(vlm.model, vlm.processor, max_pixels=64 * 64)
    >>> type(family).__name__, family.max_pixels
    ('QwenVL', 4096)

    Args:
        model: an image-text-to-text model of transformers.
        processor: its processor.
        max_pixels: larger images are reduced to this; None for the processor's own limit.

    Raises:
        ValueError: not an image-text-to-text model of transformers, or it has no such pixel
            budget.
    """
    return family_class(model.config.model_type)(model, processor, max_pixels)
