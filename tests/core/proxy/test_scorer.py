"""The proxy as a scorer: its copy of the model, batches, memory, one forward for everything."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from zoomiqa_core.images.errors import BadShapeError, BadTypeError, BadValuesError, ImageLimits
from zoomiqa_core.proxy.inference import for_inference
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.proxy.scorer import ProxyScorer


@pytest.fixture(scope="module")
def proxy() -> QualityProxy:
    return QualityProxy.from_pretrained()


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def counting(scorer: ProxyScorer) -> list[int]:
    """Sizes of the batches that the scorer's network is given from now on."""
    sizes: list[int] = []
    scorer._folded.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_the_model_given_keeps_its_mode_and_device_and_is_not_shared(proxy):
    model = QualityProxy(width=8).train()
    scorer = ProxyScorer(model)
    assert model.training and not scorer.model.training
    if torch.backends.mps.is_available() or torch.cuda.is_available():
        ProxyScorer(model, "cuda" if torch.cuda.is_available() else "mps")
    assert model.mean.device.type == "cpu"
    image = images((64, 64))[0]
    before = scorer.assess(image)
    with torch.no_grad():
        model.rating_head.weight.add_(1)
    assert scorer.assess(image) == before


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_the_copy_for_inference_gives_the_same_ratings(proxy, backbone):
    torch.manual_seed(0)
    is_bundled = backbone == "tf_efficientnet_lite0"
    proxy = proxy if is_bundled else QualityProxy(backbone, width=8)
    batch = torch.stack(images((96, 80), (96, 80)))
    copied = for_inference(proxy)
    with torch.no_grad():
        for found, wanted in zip(copied(batch), proxy(batch), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        assert float((copied(batch).rating - proxy(batch).rating).abs().max()) < 1e-5
    norms = [m for m in copied.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert bool(norms) != is_bundled  # folded where it is known how
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in proxy.backbone.modules())


def test_on_a_cpu_a_rating_has_the_same_bits_in_any_list(proxy):
    scorer = ProxyScorer(proxy)
    batch = images((64, 64), (80, 64), (64, 64), (96, 96))
    alone = [scorer.assess(image).rating for image in batch]
    assert [a.rating for a in scorer.assess(batch)] == alone
    assert [a.rating for a in scorer.assess(batch[::-1])] == alone[::-1]


def test_batches_hold_equal_sizes_and_keep_the_order(proxy, tmp_path):
    scorer = ProxyScorer(proxy)
    batch = images((64, 64), (80, 64), (64, 64), (64, 64))
    alone = [scorer.assess(image).rating for image in batch]
    sizes = counting(scorer)
    said = scorer.assess([*batch[:2], tmp_path / "none.png", *batch[2:]], batch_size=8)
    assert sorted(sizes) == [1, 3]
    assert said.pop(2).error == "missing"
    assert [a.rating for a in said] == pytest.approx(alone, abs=1e-5)


def test_a_batch_that_does_not_fit_is_halved_and_remembered(proxy, monkeypatch):
    scorer = ProxyScorer(proxy)
    batch = images(*[(64, 64)] * 8)
    alone = [scorer.assess(image).rating for image in batch]
    sizes: list[int] = []
    judge = scorer._judge

    def small_device(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return judge(pixels)

    monkeypatch.setattr(scorer, "_judge", small_device)
    said = scorer.assess(batch, batch_size=8)
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert [a.rating for a in said] == pytest.approx(alone, abs=1e-5)
    sizes.clear()
    scorer.assess(batch, batch_size=8)
    assert sizes == [2] * 4

    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(scorer, "_judge", full)
    assert [a.error for a in scorer.assess(batch[:2], batch_size=2)] == ["out_of_memory"] * 2


def test_rating_map_and_regions_of_an_image_cost_one_forward(proxy):
    scorer = ProxyScorer(proxy)
    first, second = images((64, 96), (64, 96))
    sizes = counting(scorer)
    rating = scorer.assess(first).rating
    quality_map = scorer.quality_map(first)
    (whole,) = scorer.score_regions(first, [(0, 0, 1, 1)])
    assert sizes == [1] and whole.rating == pytest.approx(rating, abs=1e-5)
    quality_map.zero_()  # what is given out is the caller's
    assert scorer.quality_map(first).min() >= 1
    scorer.quality_map(second)
    assert sizes == [1, 1]


def test_regions_have_their_own_standard_deviation(proxy):
    scorer = ProxyScorer(proxy)
    half = torch.cat([images((64, 64))[0], torch.full((3, 64, 64), 0.5)], 2)
    left, right = scorer.score_regions(half, [(0, 0, 0.5, 1), (0.5, 0, 1, 1)])
    assert abs(left.rating_std - right.rating_std) > 1e-3


def test_decoded_photos_are_not_held(proxy, monkeypatch):
    """A photo above ``max_pixels`` is reduced as soon as it is read."""
    scorer = ProxyScorer(proxy)
    held: list[int] = []
    rate = scorer._rate
    monkeypatch.setattr(
        scorer, "_rate", lambda batch: held.extend(x.nelement() for x in batch) or rate(batch)
    )
    scorer.model.max_pixels = scorer._folded.max_pixels = 64 * 64
    scorer.assess(images((640, 640), (640, 640)), batch_size=2)
    assert held == [3 * 64 * 64] * 2


def test_the_pixel_limit_is_the_callers(proxy):
    scorer = ProxyScorer(proxy)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    limits = ImageLimits(max_pixels=1999)
    said = scorer.assess(image, limits=limits)
    assert said.error == "too_large" and "limits=ImageLimits(max_pixels=…" in said.message
    for call in (scorer.quality_map, lambda x, **k: scorer.score_regions(x, [], **k)):
        with pytest.raises(ValueError, match="50×40"):
            call(image, limits=limits)
    assert scorer.assess(image, limits=ImageLimits(max_pixels=2000)).valid


def test_one_flat_colour_is_not_judged(proxy):
    scorer = ProxyScorer(proxy)
    flat = torch.full((3, 64, 64), 0.5)
    said = scorer.assess(flat)
    assert (said.valid, said.error) == (False, "constant") and math.isnan(said.rating)
    with pytest.raises(ValueError, match="one flat colour"):
        scorer.quality_map(flat)


MISTAKES: dict[str, tuple[Callable[[torch.Tensor], object], type[Exception], str]] = {
    "levels": (lambda x: x * 255, BadValuesError, "divide by 255"),
    "signed": (lambda x: x * 2 - 1, BadValuesError, r"use \(x \+ 1\) / 2"),
    "channels last": (lambda x: x.permute(1, 2, 0), BadShapeError, "permute"),
    "number": (lambda x: 3, BadTypeError, "got int"),
    "list with a number": (lambda x: [x, 3], BadTypeError, r"images\[1\]"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_the_caller_raises(proxy, name):
    make, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        ProxyScorer(proxy).assess(make(images((64, 64))[0]))  # pyright: ignore
    with pytest.raises(ValueError, match="batch_size"):
        ProxyScorer(proxy).assess(images((64, 64)), batch_size=0)
