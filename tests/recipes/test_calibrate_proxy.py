"""Calibration of the proxy's spread: by simulation, by its effect on the model, by rejection."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from recipes import calibrate_proxy as recipe
from zoomiqa_core.evaluation.correlation import interval_coverage
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy.model import QualityProxy


def drawn(count: int, scale: float, shift: float) -> list[recipe.ErrorOutput]:
    """Errors whose true spread is what the fit (scale, shift) would say."""
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    found = []
    for _ in range(count):
        logits = 2 * torch.randn(1, 1, 1, 1, generator=generator).expand(1, 1, 2, 3)
        output = recipe.ErrorOutput(logits, torch.ones(1, 1, 2, 3), 0.0, "ss01")
        std = recipe.standard_deviations([output], recipe.Fit(scale, shift))[0]
        found.append(output._replace(error=random.normal() * std))
    return found


def test_spreads_by_hand():
    # softplus(2·0.5 + 1) = log(1 + e²) = 2.126928; weights 1 and 3 on logits .5 and -.5:
    # softplus(0) = .693147, (2.126928 + 3 · .693147) / 4 = 1.051592, and .01
    output = recipe.ErrorOutput(
        torch.tensor([0.5, -0.5]).view(1, 1, 1, 2), torch.tensor([1.0, 3]).view(1, 1, 1, 2), 0, ""
    )
    assert recipe.standard_deviations([output], recipe.Fit(2, 1))[0] == pytest.approx(
        1.061592, abs=1e-5
    )


def test_the_fit_finds_the_spread_errors_were_drawn_with():
    found = drawn(1200, 0.5, -0.7)
    fit = recipe.fit_error_head(found, 0.9)
    assert fit.scale == pytest.approx(0.5, rel=0.2)
    assert fit.shift == pytest.approx(-0.7, abs=0.15)
    error = [d.error for d in found]
    assert interval_coverage(error, recipe.standard_deviations(found, fit), 0.9) == pytest.approx(
        0.9, abs=2e-3
    )
    untouched = recipe.standard_deviations(found, recipe.Fit(1, 0))
    assert interval_coverage(error, untouched, 0.9) > 0.92


def test_subsets_count_the_same_however_large():
    # errors are the spread's in "easy" and twice that in "hard": 900 and 100 photos
    easy = [d._replace(subset="easy") for d in drawn(900, 1, 0)]
    hard = [d._replace(subset="hard", error=2 * d.error) for d in drawn(100, 1, 0)]
    found = easy + hard
    std = recipe.standard_deviations(found, recipe.fit_error_head(found, 0.9))
    error = np.array([d.error for d in found])
    each = [
        interval_coverage(error[part], std[part], 0.9) for part in (slice(900), slice(900, None))
    ]
    assert np.mean(each) == pytest.approx(0.9, abs=6e-3)  # a photo of 100 is .5 % of the mean
    assert interval_coverage(error, std, 0.9) > 0.93


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="19 images are too few"):
        recipe.fit_error_head(drawn(19, 1, 0), 0.9)


def test_the_saved_proxy_says_what_the_fit_says_and_rates_as_before(tmp_path):
    torch.manual_seed(0)
    proxy = QualityProxy(width=8)
    proxy.half().save_pretrained(tmp_path / "weights")
    proxy = QualityProxy.from_pretrained(tmp_path / "weights")
    rows, generator = ["image_name,mos,set"], torch.Generator().manual_seed(0)
    for index in range(24):
        save_png(
            torch.rand(3, 64, 70, generator=generator), tmp_path / "images" / f"ss01 ({index}).png"
        )
        rows.append(f"ss01 ({index}).png,{index / 24},validation")
    (tmp_path / "mos.csv").write_text("\n".join(rows), encoding="utf-8")
    words = [f"weights={tmp_path}/weights", f"biq2021={tmp_path}"]
    recipe.main([*words, f"out={tmp_path}/calibrated"])
    record = json.loads((tmp_path / "calibrated" / "calibration.json").read_text())
    fit = recipe.Fit(**record["fit"])
    images = recipe.read_biq2021(str(tmp_path), "validation")
    wanted = recipe.standard_deviations(recipe.error_outputs(proxy, images, "cpu"), fit)
    calibrated = QualityProxy.from_pretrained(tmp_path / "calibrated")
    with torch.no_grad():
        for image, std in zip(images, wanted, strict=True):
            pixels = recipe.to_batch(image.path)
            before, after = proxy(pixels), calibrated(pixels)
            torch.testing.assert_close(after.rating, before.rating, rtol=0, atol=0)
            assert float(after.rating_std) == pytest.approx(std, rel=2e-3)  # stored in half
    assert record["after"]["coverage_90"] == pytest.approx(0.9, abs=0.05)
    with pytest.raises(ValueError, match="would replace"):
        recipe.main([*words, f"out={tmp_path}/weights"])
