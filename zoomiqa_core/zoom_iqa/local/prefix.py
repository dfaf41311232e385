"""A batch of prompts that the model has processed: cache, positions and next-token logits.

``generate`` of transformers processes a prompt once per reply and keeps positions on the model
between calls. Here a prompt is processed once for all its replies, and the model keeps no state, so
threads can share it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoomiqa_core.zoom_iqa.local.families.base import Family, Prompt


@dataclass
class Prefix:
    """A batch of processed prompts and the model's state after them."""

    family: Family
    """The model, and how it takes images."""
    cache: Any
    """Key-value cache of transformers."""
    ids: Tensor
    """(B, L) tokens so far; padding is filled with the row's first token."""
    mask: Tensor
    """(B, L) 1 on tokens, 0 on padding (left)."""
    padded: bool
    """Whether any row has padding; without it attention needs no mask and is faster."""
    next_position: Tensor
    """(B,) position of the next token."""
    logits: Tensor
    """(B, V) fp32, of the next token."""


@torch.inference_mode()
def read_prompts(family: Family, prompts: Sequence[Prompt]) -> Prefix:
    """Run the prompts through the model in one batch, left-padded to one length.

    >>> import zoomiqa_core as zi
    >>> from PIL import Image
    >>> vlm = zi.load_scorer("tiny").backend
    >>> from zoomiqa_core.zoom_iqa.chain import Chain
    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> chain = Chain(Image.new("RGB", (64, 64)), BUILTIN, "How good is this photo?")
    >>> prompt = vlm.encoder.encode(chain.request, {})
    >>> prefix = read_prompts(vlm.family, [prompt, prompt])
    >>> prefix.ids.shape == (2, len(prompt.ids)), prefix.padded
    (True, False)

    Args:
        family: the model, and how it takes images.
        prompts: at least one.
    """
    from zoomiqa_core.zoom_iqa.local.kv_cache import new_cache

    model = family.model
    device = model.device
    if not family.encodes_once:
        return _read_with_pixels(family, prompts)
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), length), family.pad_id)
    filled, mask = ids.clone(), torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.ids) :] = prompt.ids
        mask[row, length - len(prompt.ids) :] = 1
        filled[row] = torch.where(mask[row] > 0, ids[row], prompt.ids[0])
    images = [image for prompt in prompts for image in prompt.images]
    positions = family.position_ids(ids, mask, [image.inputs for image in images])
    next_position = positions.view(-1, *ids.shape).amax((0, 2)) + 1
    mask, padded = mask.to(device), not bool(mask.all())
    cache = new_cache()
    out = model(
        input_ids=ids.to(device),
        attention_mask=mask if padded else None,
        position_ids=positions.to(device),
        use_cache=True,
        logits_to_keep=1,
        **family.token_types(ids.to(device)),
        **family.feature_arguments([image.features for image in images]),
        **{_cache_name(model): cache},
    )
    logits = out.logits[:, -1].float()
    return Prefix(family, cache, filled.to(device), mask, padded, next_position.to(device), logits)


def _read_with_pixels(family: Family, prompts: Sequence[Prompt]) -> Prefix:
    """Run one prompt through the model, which encodes its images."""
    (prompt,) = prompts
    ids = prompt.ids[None].to(family.model.device)
    mask = torch.ones_like(ids)
    out = family.model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        **family.on_device(prompt.inputs or {}),
    )
    cache = getattr(out, _cache_name(family.model))
    if not hasattr(cache, "batch_select_indices"):
        raise ValueError(
            f"{type(family.model).__name__} keeps its state in a {type(cache).__name__}, which "
            "cannot be shared by several chains; serve it and load it by its address"
        )
    position = torch.tensor([family.first_position(ids.shape[1])], device=ids.device)
    return Prefix(family, cache, ids, mask, False, position, out.logits[:, -1].float())


@torch.inference_mode()
def extend(prefix: Prefix, ids: Tensor) -> Tensor:
    """Append (B, T) tokens to the prefix, in place; returns their (B, T, V) fp32 logits."""
    ids = ids.to(prefix.mask.device)
    prefix.ids = torch.cat([prefix.ids, ids], 1)
    prefix.mask = torch.cat([prefix.mask, torch.ones_like(ids)], 1)
    model = prefix.family.model
    logits = model(
        input_ids=ids,
        attention_mask=prefix.mask if prefix.padded else None,
        position_ids=prefix.family.next_positions(prefix.next_position, ids.shape[1]),
        use_cache=True,
        **{_cache_name(model): prefix.cache},
    ).logits.float()
    prefix.next_position = prefix.next_position + ids.shape[1]
    prefix.logits = logits[:, -1]
    return logits


def fork(prefix: Prefix, row: int, length: int, count: int) -> Prefix:
    """``count`` copies of the first ``length`` tokens of a row; the prefix is not changed."""
    from zoomiqa_core.zoom_iqa.local.kv_cache import new_cache

    cache = new_cache()
    for index, layer in enumerate(prefix.cache.layers):
        keys, values = (
            states[row : row + 1, :, :length].expand(count, -1, -1, -1)
            for states in (layer.keys, layer.values)
        )
        cache.update(keys, values, index)
    ids, mask = (part[row : row + 1, :length] for part in (prefix.ids, prefix.mask))
    position = prefix.next_position[row] - (prefix.ids.shape[1] - length)
    return Prefix(
        prefix.family,
        cache,
        ids.expand(count, -1),
        mask.expand(count, -1),
        not bool(mask.all()),
        position.expand(count),
        prefix.logits[row : row + 1].expand(count, -1),
    )


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


def _cache_name(model: Any) -> str:
    """transformers renamed the argument in 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
