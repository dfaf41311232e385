"""The proxy's contract: shapes, ranges, pooling, gradients, independence, save and load."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoomiqa_core.images.errors import BadValuesError
from zoomiqa_core.proxy.model import QualityProxy, load_imagenet, moments, squash, weighted_mean


def awake(proxy: QualityProxy) -> QualityProxy:
    """With a whole-image part that says something, as after training; a new one is silent."""
    torch.nn.init.normal_(proxy.get_parameter("whole.3.weight"), std=0.5)
    return proxy


@pytest.fixture(scope="module")
def proxy() -> QualityProxy:
    torch.manual_seed(0)
    return awake(QualityProxy(width=16))


def images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size", "cells"),
    [((1, 1), (1, 1)), ((16, 17), (1, 2)), ((100, 37), (7, 3)), ((64, 96), (4, 6))],
)
def test_any_size_gives_ratings_in_range_on_a_grid_of_16_px(proxy, size, cells):
    out = proxy(images(2, *size))
    assert out.rating.shape == out.rating_std.shape == (2,)
    assert out.map.shape == out.weight.shape == (2, 1, *cells)
    assert bool(((out.rating >= 1) & (out.rating <= 5)).all())
    assert bool((out.rating_std > 0).all() and (out.weight > 0).all())


def test_rating_is_the_weighted_mean_of_the_map(proxy):
    out = proxy(images(2, 80, 48))
    by_hand = (out.map * out.weight).sum((1, 2, 3)) / out.weight.sum((1, 2, 3))
    torch.testing.assert_close(out.rating, by_hand, rtol=0, atol=1e-6)


def test_weighted_mean_by_hand():
    values = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    weight = torch.tensor([1.0, 1.0, 2.0]).view(1, 1, 1, 3)
    assert weighted_mean(values, weight).item() == pytest.approx((1 + 2 + 8) / 4)


def test_a_large_image_is_judged_at_max_pixels():
    torch.manual_seed(0)
    small = QualityProxy(width=16, max_pixels=64 * 64)
    assert small(images(1, 128, 256)).map.shape[-2:] == (3, 6)  # 45 × 91 px


def test_input_gradient_is_finite_and_nonzero_at_every_pixel(proxy):
    batch = images(1, 96, 80).requires_grad_()
    out = proxy(batch)
    out.rating.sum().backward()
    assert bool(batch.grad.isfinite().all())
    assert float((batch.grad.abs().amax(1) > 0).float().mean()) > 0.99


def test_gradient_equals_a_finite_difference():
    torch.manual_seed(0)
    proxy = awake(QualityProxy(width=8)).double()
    generator = torch.Generator().manual_seed(1)
    batch = torch.rand(1, 3, 64, 64, generator=generator).double().requires_grad_()
    direction = torch.randn(batch.shape, generator=generator).double()
    rating = proxy(batch).rating.sum()
    (gradient,) = torch.autograd.grad(rating, batch)
    step = 1e-8  # small enough that no activation crosses its kink
    with torch.no_grad():
        ahead, behind = (proxy(batch + s * step * direction).rating.sum() for s in (1, -1))
    difference = float((ahead - behind) / (2 * step))
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-4)


def test_error_head_cannot_move_the_rating():
    torch.manual_seed(0)
    proxy = QualityProxy(width=8)
    proxy(images(1, 64, 64)).rating_std.sum().backward()
    moved = {n.split(".")[0] for n, p in proxy.named_parameters() if p.grad is not None}
    assert moved == {"error_head"}


def test_one_image_does_not_depend_on_its_batch_even_in_training(proxy):
    batch = images(3, 64, 64)
    proxy.train()
    proxy.whole[0].eval()  # dropout alone is drawn for a batch
    together = proxy(batch).rating
    alone = torch.cat([proxy(image[None]).rating for image in batch])
    proxy.eval()
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_moments_by_hand_and_without_the_padding():
    # 4 cells of which the last column is padding, and a level of half the resolution
    values = torch.tensor([[1.0, 3.0, 100.0, 100.0], [5.0, 7.0, 100.0, 100.0]]).view(1, 1, 2, 4)
    coarse = torch.tensor([[2.0, 100.0]]).view(1, 1, 1, 2)
    fine = values.repeat_interleave(4, 2).repeat_interleave(4, 3)
    covered = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]]).view(1, 1, 2, 4)
    found = moments([fine, fine[..., ::2, ::2], values, coarse], covered)
    mean, spread = 4.0, 5.0**0.5  # of 1, 3, 5, 7
    expected = torch.tensor([[mean, spread] * 3 + [2.0, 1e-3]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_squash_keeps_small_values_and_bounds_large_ones():
    values = torch.tensor([0.0, 0.1, -0.1, 1e6, -1e6])
    torch.testing.assert_close(
        squash(values), torch.tensor([0.0, 0.1, -0.1, 4.0, -4.0]), rtol=0, atol=1e-4
    )


def test_standardise_makes_the_statistics_of_its_images_usual():
    torch.manual_seed(0)
    proxy = QualityProxy(width=8)
    assert not proxy.standardised
    batches = [images(6, 64, 64, seed) for seed in range(3)]
    proxy.standardise(batches)
    assert proxy.standardised
    seen: list[Any] = []
    proxy.statistics.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    for batch in batches:
        proxy(batch)
    values = torch.cat(seen)
    torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), rtol=0, atol=1e-2)
    assert float(values.detach().std(0).median()) == pytest.approx(1, abs=0.15)


def test_the_whole_image_is_heard_in_every_cell():
    torch.manual_seed(0)
    silent = QualityProxy(width=16)
    heard = QualityProxy(width=16)
    heard.load_state_dict(silent.state_dict())
    awake(heard)
    batch = images(1, 160, 160)
    other = batch.clone()
    other[..., :32] = 0.5  # far from the last column: beyond what its own cells can see
    with torch.no_grad():
        moved = (heard(other).map - heard(batch).map).abs()[..., -1]
    assert float(moved.min()) > 1e-5


def test_save_and_load_is_the_identity_and_prints_nothing(proxy, tmp_path, capsys):
    proxy.save_pretrained(tmp_path)
    loaded = QualityProxy.from_pretrained(tmp_path)
    assert capsys.readouterr().out == ""
    batch = images(1, 64, 64)
    torch.testing.assert_close(loaded(batch).rating, proxy(batch).rating, rtol=0, atol=0)


def test_weights_that_lack_a_tensor_are_refused(proxy, tmp_path):
    proxy.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    del stored["rating_head.weight"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"rating_head\.weight"):
        QualityProxy.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["empty", "absent", "absent/below/here"])
def test_a_folder_without_weights_names_the_fix(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        QualityProxy.from_pretrained(tmp_path / name)


def test_load_imagenet_maps_by_order_and_refuses_another_network(proxy, tmp_path):
    own = proxy.backbone.state_dict()
    stored = {f"_{i}": torch.full_like(value, 0.5) for i, value in enumerate(own.values())}
    torch.save({**stored, "head": torch.zeros(3)}, tmp_path / "features.pth")
    fresh = QualityProxy(width=8)
    load_imagenet(fresh.backbone, tmp_path / "features.pth")
    assert bool((fresh.backbone.conv_stem.weight == 0.5).all())

    torch.save({"_0": torch.zeros(3, 3)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match="first mismatch"):
        load_imagenet(proxy.backbone, tmp_path / "wrong.pth")


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 8, 8), ValueError, r"\(B, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"got \(1, 1, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), ValueError, r"got \(1, 3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "floating-point"),
        ([1], TypeError, "to_batch reads paths"),
    ],
)
def test_wrong_input_is_refused_with_the_fix(proxy, bad, error, message):
    with pytest.raises(error, match=message):
        proxy(bad)


@pytest.mark.parametrize("factor", [(255, 0), (2, -1)])
def test_values_out_of_range_raise_unless_the_check_is_switched_off(proxy, factor):
    batch = images(1, 64, 64) * factor[0] + factor[1]
    with pytest.raises(BadValuesError, match=r"divide by 255|use \(x \+ 1\) / 2"):
        proxy(batch)
    with pytest.raises(BadValuesError):
        proxy.reward(batch, generator=torch.Generator().manual_seed(0))
    proxy.check_range = False
    try:
        assert proxy(batch).rating.isfinite().all()
    finally:
        proxy.check_range = True
    assert proxy(images(1, 64, 64) * 1.0009).rating.isfinite().all()  # tolerated: rounding
    assert proxy(torch.full((1, 3, 64, 64), torch.nan)).rating.isnan().all()  # a value, no mistake


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_of_model_and_images(proxy, dtype):
    batch = images(2, 90, 70)
    wanted = proxy(batch)
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15, torch.float64: 1e-5}[dtype]
    whole = copy.deepcopy(proxy).to(dtype)
    for model, given in ((whole, batch.to(dtype)), (whole, batch), (proxy, batch.to(dtype))):
        out = model(given)
        assert out.rating.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(out.rating.float(), wanted.rating, rtol=0, atol=tolerance)
    given = batch.to(dtype).requires_grad_()
    whole(given).rating.sum().backward()
    assert given.grad.isfinite().all() and given.grad.abs().sum() > 0


def test_large_images_in_half_precision():
    small = QualityProxy(width=8, max_pixels=64 * 64).half()
    assert small(images(1, 128, 128).half()).map.shape[-2:] == (4, 4)
