"""Text over photographs: somewhere, readable, reproducible."""

from __future__ import annotations

import torch

from zoomiqa_core.data.damage.overlay import add_text


def test_a_line_of_text_covers_a_small_part_and_leaves_the_rest_as_it_is():
    images = torch.full((12, 3, 128, 160), 128 / 255)
    written = add_text(images, generator=torch.Generator().manual_seed(0))
    assert written.shape == images.shape
    changed = ((written - images).abs().amax(1) > 1e-3).flatten(1).float().mean(1)
    assert bool((changed < 0.35).all())
    assert int((changed > 0.001).sum()) >= 11  # a line of blanks may show nothing
    assert not torch.equal(written[0], written[1])


def test_the_generator_decides():
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        add_text(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
