"""Windows of one length attended together: as one by one, in the tower as in the function."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
from zoomiqa_core.training.vision_chunks import attend_chunks, join_chunks


def test_each_chunk_attends_within_itself():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(11, 2, 4, generator=generator) for _ in range(3))
    bounds = torch.tensor([0, 4, 7, 7, 11])  # an empty one among them
    found = attend_chunks(q, k, v, bounds)
    for start, end in ((0, 4), (4, 7), (7, 11)):
        one, other, third = (part[start:end].transpose(0, 1) for part in (q, k, v))
        alone = functional.scaled_dot_product_attention(one, other, third).transpose(0, 1)
        assert torch.allclose(found[start:end], alone, atol=1e-6)


def test_a_tower_sees_and_learns_the_same():
    vlm, processor = build_tiny_vlm()
    tower: Any = vlm.model.visual
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in ((140, 168), (56, 196))]
    made = processor.image_processor(images, do_resize=False, do_rescale=False, return_tensors="pt")
    results = []
    for _ in range(2):
        tower.zero_grad()
        seen = tower(made["pixel_values"], made["image_grid_thw"]).pooler_output
        seen.square().sum().backward()
        results.append((seen.detach(), tower.blocks[0].attn.qkv.weight.grad.clone()))
        join_chunks(tower)
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)
    assert "_forward" in tower.blocks[0].attn.forward.__func__.__name__
