"""Pairs of an image and its copy: what each operator does, and what the loss asks of it."""

from __future__ import annotations

import pytest
import torch

from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy import invariances
from zoomiqa_core.proxy.batches import VERSIONS
from zoomiqa_core.proxy.invariances import ALIKE, NOT_HIGHER, draw_pairs, pair_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(seed: int = 0) -> torch.Tensor:
    return 0.2 + 0.6 * torch.rand(3, 48, 64, generator=seeded(seed))


@pytest.mark.parametrize(
    "operator", dict.fromkeys((*ALIKE, *NOT_HIGHER)), ids=lambda operator: operator.__name__
)
def test_a_copy_keeps_the_size_differs_and_follows_its_generator(operator):
    first, again = (operator(image(), seeded(3)) for _ in range(2))
    assert first.shape == image().shape
    assert torch.equal(first, again)
    assert not torch.equal(first, image())


def test_a_grid_repeats_and_stays_within_six_levels():
    for seed in range(20):
        pattern = invariances.gridded(image(), seeded(seed)) - image()
        assert float(pattern.abs().max()) <= 6 / 255 + 1e-6
        assert torch.allclose(pattern[:, 8:40, 8:40], pattern[:, :32, :32], atol=1e-6)


def test_chroma_noise_has_no_brightness():
    noise = invariances.chroma_noised(image(), seeded()) - image()
    assert float(noise.std()) > 0.004
    assert float(invariances.grey(noise, seeded()).abs().max()) < 1e-6


def test_a_letterbox_covers_both_ends_of_one_axis_alone():
    for seed in range(8):
        changed = (invariances.letterboxed(image(), seeded(seed)) != image()).all(0)
        rows, columns = changed.all(1), changed.all(0)
        bars = rows if rows.any() else columns
        assert bars[0] and bars[-1] and not bars[len(bars) // 2]


def test_the_loss_by_hand():
    ratings = torch.tensor([3.0, 3.0, 3.0, 3.0])
    copies = torch.tensor([3.5, 2.5, 3.5, 2.5])
    alike = torch.tensor([True, True, False, False])
    # |0.5| and |-0.5| beyond beta = .25: .5 - .125 each; 0.5 + .02 higher: .395; lower: 0
    expected = (0.375 + 0.375 + 0.395 + 0.0) / 4
    assert float(pair_loss(ratings, copies, alike)) == pytest.approx(expected)


def test_only_the_copy_learns_and_a_fair_one_is_left_alone():
    ratings = torch.full((2,), 3.0, requires_grad=True)
    copies = torch.tensor([3.4, 2.4], requires_grad=True)
    pair_loss(ratings, copies, torch.tensor([False, False])).backward()
    assert ratings.grad is None
    assert copies.grad.tolist() == pytest.approx([0.5, 0.0])


def test_pairs_are_drawn_again_the_same_and_in_range(tmp_path):
    for name, size in (("photo", (70, 80)), ("set", (70, 70 * len(VERSIONS)))):
        (tmp_path / name).mkdir()
        save_png(torch.rand(3, *size, generator=seeded()), tmp_path / name / "0.png")
    photos, sets = (
        PhotoPool(sorted((tmp_path / name).iterdir()), min_side=64) for name in ("photo", "set")
    )
    pairs, again = (draw_pairs(photos, sets, 12, 64, generator=seeded(1)) for _ in range(2))
    assert pairs.images.shape == pairs.copies.shape == (12, 3, 64, 64)
    assert all(torch.equal(one, other) for one, other in zip(pairs, again, strict=True))
    assert float(pairs.copies.min()) >= 0 and float(pairs.copies.max()) <= 1
    assert 0 < int(pairs.alike.sum()) < 12
