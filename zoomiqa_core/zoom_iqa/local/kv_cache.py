"""A key-value cache that grows in place.

The dynamic cache of transformers copies all keys and values for every new token. On a CPU these
copies took two thirds of the time of eight chains (``benchmarks.judge_cost``); here memory is
reserved ahead.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

RESERVE = 128
"""Number of tokens that memory is reserved for when none is left."""


class InPlaceLayer(DynamicLayer):
    """One layer of the cache; its keys and values are views of a larger tensor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stores: dict[str, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, heads, T, head size); returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch; memory is reserved again with the next token."""
        super().batch_select_indices(indices)
        self._stores.clear()

    def _appended(self, name: str, past: Tensor | None, new: Tensor) -> Tensor:
        batch, heads, count, width = new.shape
        start = past.shape[-2] if past is not None and past.numel() else 0
        store = self._stores.get(name)
        if store is None or store.shape[-2] < start + count:
            store = new.new_empty(batch, heads, start + count + RESERVE, width)
            if past is not None and start:
                store[..., :start, :] = past
            self._stores[name] = store
        store[..., start : start + count, :] = new
        return store[..., : start + count, :]


def new_cache() -> Cache:
    """An empty cache; its layers are created in the first pass of the model."""
    return Cache(layer_class_to_replicate=InPlaceLayer)
