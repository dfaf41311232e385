"""Local damage: the masks' area and softness, and the truth of the rating map."""

import pytest
import torch

from zoomiqa_core.data.damage import local as local_damage
from zoomiqa_core.data.damage.kadid import cell_rating, distort
from zoomiqa_core.data.damage.local import CLEAN_RATING, damage_locally, hard_mask, soft_mask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hard_mask_by_hand() -> None:
    field = torch.tensor([[0.1, 0.9], [0.4, 0.7]])
    assert hard_mask(field, 0.5).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert int(hard_mask(torch.zeros(10, 10), 0.23).sum()) == 23  # ties
    assert int(hard_mask(field, 0.01).sum()) == 1


def test_masks_have_the_asked_area_and_soft_borders() -> None:
    masks = soft_mask(48, 96, 128, area=(0.2, 0.2), generator=seeded())
    assert masks.shape == (48, 1, 96, 128) and masks.dtype == torch.float32
    assert masks.min() >= 0 and masks.max() <= 1
    shares = masks.mean(dim=(1, 2, 3))
    assert float((shares - 0.2).abs().max()) < 0.03
    assert float(shares.mean()) == pytest.approx(0.2, abs=0.006)
    soft = ((masks > 0.05) & (masks < 0.95)).float().mean(dim=(1, 2, 3))
    assert float(soft.min()) > 0.0 and float(soft.mean()) < 0.25
    assert float(masks.amax(dim=(1, 2, 3)).median()) > 0.99


def test_area_is_spread_over_its_range() -> None:
    shares = soft_mask(64, 64, 64, area=(0.1, 0.3), generator=seeded()).mean(dim=(1, 2, 3))
    assert float(shares.min()) < 0.14 and float(shares.max()) > 0.26
    assert 0.17 < float(shares.mean()) < 0.23


@pytest.mark.parametrize("field", local_damage._FIELDS)
def test_every_field_is_continuous(field) -> None:  # type: ignore[no-untyped-def]
    values = field(48, 64, seeded())
    assert values.shape == (48, 64) and values.isfinite().all()
    step = max(float(values.diff(dim=0).abs().max()), float(values.diff(dim=1).abs().max()))
    assert step < 0.25 * float(values.max() - values.min())


@pytest.mark.parametrize("size", [(16, 16), (17, 90), (90, 17)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    masks = soft_mask(9, *size, generator=seeded())
    assert masks.shape == (9, 1, *size) and masks.isfinite().all()
    assert float(masks.amax(dim=(1, 2, 3)).min()) > 0.3


def test_masks_follow_the_generator_and_not_the_batch() -> None:
    masks = soft_mask(5, 48, 48, generator=seeded(3))
    assert torch.equal(masks, soft_mask(5, 48, 48, generator=seeded(3)))
    source = seeded(3)
    singles = torch.cat([soft_mask(1, 48, 48, generator=source) for _ in range(5)])
    assert torch.equal(masks, singles)
    assert not torch.equal(masks[0], masks[1])


def test_damage_and_map_follow_the_mask() -> None:
    images = torch.rand(3, 3, 64, 80, generator=seeded(1))
    result = damage_locally(images, "gaussian_blur", 5, area=(0.2, 0.3), generator=seeded(2))
    everywhere = distort(images, "gaussian_blur", 5, generator=seeded(2))
    untouched = (result.mask == 0).expand_as(images)
    assert torch.equal(result.images[untouched], images[untouched])
    inside = (result.mask > 0.9999).expand_as(images)
    torch.testing.assert_close(result.images[inside], everywhere[inside], atol=2e-4, rtol=0)
    expected = (1 - result.mask) * CLEAN_RATING + result.mask * cell_rating("gaussian_blur", 5)
    torch.testing.assert_close(result.rating_map, expected)
    assert result.rating_map.min() >= 1.3 - 1e-5 and result.rating_map.max() <= CLEAN_RATING
    assert result.images.min() >= 0 and result.images.max() <= 1


def test_result_is_reproducible_and_detached() -> None:
    images = torch.rand(2, 3, 48, 48, generator=seeded(1)).requires_grad_()
    first = damage_locally(images, "white_noise", 4, generator=seeded(7))
    second = damage_locally(images, "white_noise", 4, generator=seeded(7))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not first.images.requires_grad


@pytest.mark.parametrize("area", [(0.0, 0.3), (0.4, 0.3), (0.5, 1.0)])
def test_wrong_areas_are_named(area: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="area must be"):
        soft_mask(1, 32, 32, area=area, generator=seeded())


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        soft_mask(0, 32, 32, generator=seeded())
