"""The cache that grows in place holds what transformers' own holds."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from zoomiqa_core.zoom_iqa.local.kv_cache import RESERVE, InPlaceLayer


def states(tokens: int, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, tokens, 4)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_it_holds_what_the_dynamic_layer_holds():
    ours, theirs = InPlaceLayer(), DynamicLayer()
    for seed, tokens in enumerate([5, 1, RESERVE - 3, 1, 1, 2 * RESERVE, 1]):
        for mine, other in zip(
            ours.update(*states(tokens, seed=seed)),
            theirs.update(*states(tokens, seed=seed)),
            strict=True,
        ):
            assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if seed == 3:
            for layer in (ours, theirs):
                layer.batch_select_indices(torch.tensor([1, 1]))


def test_tokens_within_the_room_copy_nothing():
    layer = InPlaceLayer()
    first, _ = layer.update(*states(5))
    for seed in range(RESERVE):
        keys, _ = layer.update(*states(1, seed=seed))
        assert keys.data_ptr() == first.data_ptr()
    keys, _ = layer.update(*states(1))
    assert keys.data_ptr() != first.data_ptr()


def test_rows_taken_twice_go_on_apart():
    layer = InPlaceLayer()
    layer.update(*states(3, batch=1))
    layer.batch_select_indices(torch.tensor([0, 0]))
    new, _ = states(1, batch=2, seed=9)
    keys, _ = layer.update(new, new)
    assert torch.equal(keys[0, :, :3], keys[1, :, :3])
    assert torch.equal(keys[:, :, 3:], new)
