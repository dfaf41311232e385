"""Batched window attention for the vision tower of Qwen2.5-VL.

Without flash attention, transformers calls the kernel once per window: nine windows an image, in
every layer. Here all windows of one length are computed together, with the same result.
"""

from __future__ import annotations

from itertools import pairwise
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def attend_chunks(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor) -> Tensor:
    """Softmax attention within each chunk of a sequence.

    >>> q = k = torch.zeros(3, 1, 1)  # equal keys: the mean of the chunk's values
    >>> v = torch.tensor([1.0, 3.0, 8.0]).view(3, 1, 1)
    >>> attend_chunks(q, k, v, bounds=torch.tensor([0, 2, 3])).flatten()
    tensor([2., 2., 8.])

    Args:
        query, key, value: (T, heads, width).
        bounds: (chunks + 1,) starts of the chunks and T, ascending from 0.

    Returns:
        (T, heads, width).
    """
    edges = bounds.tolist()
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(edges):
        if end > start:
            starts.setdefault(end - start, []).append(start)
    places, found = [], []
    for length, firsts in starts.items():
        place = torch.tensor(firsts)[:, None] + torch.arange(length)  # (chunks, length)
        place = place.to(query.device)
        q, k, v = (part[place].transpose(1, 2) for part in (query, key, value))
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        places.append(place.flatten())
        found.append(seen.flatten(0, 1))
    return torch.cat(found)[torch.cat(places).argsort()]


def join_chunks(tower: Any) -> None:
    """Replace a vision tower's attention by :func:`attend_chunks`, unless it is flash attention.

    Args:
        tower: of a Qwen2.5-VL, changed in place; its weights and their names are not.
    """
    if "flash" in (tower.config._attn_implementation or ""):
        return
    for block in tower.blocks:
        block.attn.forward = MethodType(_forward, block.attn)


def _forward(
    self: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: Any = None,
    **_: Any,
) -> Tensor:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    length = len(hidden_states)
    query, key, value = (
        self.qkv(hidden_states).view(length, 3, self.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
    )
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    return self.proj(attend_chunks(query, key, value, cu_seqlens).flatten(1))
