"""A batch of prompts that the model has processed: cache, positions and next-token logits.

``generate`` of transformers processes a prompt once per reply and keeps positions on the model
between calls. Here a prompt is processed once for all its replies, and the model keeps no state, so
threads can share it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class VisualFeatures(NamedTuple):
    """Output of the vision tower for one image."""

    tokens: Tensor
    """(tokens, hidden)."""
    deep: tuple[Tensor, ...] = ()
    """(tokens, hidden) for each early layer that also receives features (Qwen3-VL)."""


class Prompt(NamedTuple):
    """A prompt as input of the model."""

    ids: Tensor
    """(L,) token ids; one image token per visual feature."""
    grids: Tensor
    """(images, 3) temporal, vertical and horizontal patches of each image."""
    features: list[VisualFeatures]
    """Visual features of each image, in order."""


@dataclass
class Prefix:
    """A batch of processed prompts and the model's state after them."""

    cache: Any
    """Key-value cache of transformers."""
    ids: Tensor
    """(B, L) tokens so far; padding is filled with the row's first token."""
    mask: Tensor
    """(B, L) 1 on tokens, 0 on padding (left)."""
    padded: bool
    """Whether any row has padding; without it attention needs no mask and is faster."""
    next_position: Tensor
    """(B,) position of the next token, on all three axes."""
    logits: Tensor
    """(B, V) fp32, of the next token."""


@torch.inference_mode()
def read_prompts(model: Any, prompts: Sequence[Prompt], pad_id: int) -> Prefix:
    """Run the prompts through the model in one batch, left-padded to one length.

    >>> import zoomiqa_core as zi
    >>> from PIL import Image
    >>> vlm = zi.load_scorer("tiny").backend
    >>> from zoomiqa_core.zoom_iqa.chain import Chain
    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> chain = Chain(Image.new("RGB", (64, 64)), BUILTIN, "How good is this photo?")
    >>> prompt = vlm.encoder.encode(chain.request, {})
    >>> prefix = read_prompts(vlm.model, [prompt, prompt], vlm.pad_id)
    >>> prefix.ids.shape == (2, len(prompt.ids)), prefix.padded
    (True, False)

    Args:
        model: a Qwen2.5-VL or Qwen3-VL.
        prompts: at least one.
        pad_id: the padding token.
    """
    from zoomiqa_core.zoom_iqa.local.kv_cache import new_cache

    device = model.device
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), length), pad_id)
    filled, mask = ids.clone(), torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.ids) :] = prompt.ids
        mask[row, length - len(prompt.ids) :] = 1
        filled[row] = torch.where(mask[row] > 0, ids[row], prompt.ids[0])
    image_tokens = (ids == model.config.image_token_id).long()
    grids = torch.cat([prompt.grids for prompt in prompts])
    positions, _ = model.model.get_rope_index(
        ids, mm_token_type_ids=image_tokens, image_grid_thw=grids, attention_mask=mask
    )
    features = [feature for prompt in prompts for feature in prompt.features]
    mask, padded = mask.to(device), not bool(mask.all())
    cache = new_cache()
    out = model(
        input_ids=ids.to(device),
        attention_mask=mask if padded else None,
        position_ids=positions.to(device),
        mm_encoder_outputs={"image": _encoder_output(features)},
        use_cache=True,
        logits_to_keep=1,
        **{_cache_name(model): cache},
    )
    next_position = positions.amax((0, 2)).to(device) + 1
    logits = out.logits[:, -1].float()
    return Prefix(cache, filled.to(device), mask, padded, next_position, logits)


@torch.inference_mode()
def extend(model: Any, prefix: Prefix, ids: Tensor) -> Tensor:
    """Append (B, T) tokens to the prefix, in place; returns their (B, T, V) fp32 logits."""
    ids = ids.to(prefix.mask.device)
    prefix.ids = torch.cat([prefix.ids, ids], 1)
    prefix.mask = torch.cat([prefix.mask, torch.ones_like(ids)], 1)
    steps = torch.arange(ids.shape[1], device=ids.device)
    positions = prefix.next_position[:, None] + steps
    logits = model(
        input_ids=ids,
        attention_mask=prefix.mask if prefix.padded else None,
        position_ids=positions.expand(3, -1, -1),
        use_cache=True,
        **{_cache_name(model): prefix.cache},
    ).logits.float()
    prefix.next_position = prefix.next_position + ids.shape[1]
    prefix.logits = logits[:, -1]
    return logits


def select_rows(prefix: Prefix, rows: Sequence[int]) -> None:
    """Replace the batch by these rows of it, in this order; a row may be repeated."""
    if list(rows) == list(range(len(prefix.ids))):
        return  # indexing would copy the cache
    index = torch.tensor(rows, device=prefix.mask.device)
    prefix.cache.batch_select_indices(index)
    prefix.ids = prefix.ids[index]
    prefix.mask = prefix.mask[index]
    prefix.padded = not bool(prefix.mask.all())
    prefix.next_position = prefix.next_position[index]
    prefix.logits = prefix.logits[index]


def encode_images(model: Any, pixel_values: Tensor, grids: Tensor) -> list[VisualFeatures]:
    """Run the vision tower over the patches of several images."""
    with torch.inference_mode():
        out = model.model.get_image_features(
            pixel_values.to(model.device, model.dtype), grids.to(model.device), return_dict=True
        )
    deep = getattr(out, "deepstack_features", None) or []
    return [
        VisualFeatures(tokens, tuple(layer[index] for layer in deep))
        for index, tokens in enumerate(out.pooler_output)
    ]


def _encoder_output(features: Sequence[VisualFeatures]) -> Any:
    """The features in the form in which the model's own vision tower returns them."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tokens: Any = tuple(feature.tokens for feature in features)
    out: Any = BaseModelOutputWithPooling(pooler_output=tokens)
    if features and features[0].deep:
        layers = zip(*(f.deep for f in features), strict=True)
        out.deepstack_features = [tuple(layer) for layer in layers]
    return out


def _cache_name(model: Any) -> str:
    """transformers renamed the argument in 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
