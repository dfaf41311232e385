"""Greyscale inputs: told apart, measured, limited."""

import math

import torch

from restoration_guide.fidelity.colour import added_colour, is_grey, without_colour
from restoration_guide.fidelity.measure import FidelityLimits, measure_fidelity
from zoomiqa_core.images.sources import read_image, to_pil


def grey(side: int = 24) -> torch.Tensor:
    return torch.rand(1, side, side, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1)


def test_a_jpeg_of_a_grey_photo_is_grey(tmp_path) -> None:
    for quality in (30, 90):
        to_pil(grey()).save(tmp_path / "grey.jpg", quality=quality)
        assert is_grey(read_image(tmp_path / "grey.jpg").pixels)
    assert not is_grey(grey() + torch.tensor([0.0, 0.02, 0.0])[:, None, None])


def test_without_colour_by_hand() -> None:
    mixed = without_colour(torch.tensor([0.5, 1.0, 0.25])[:, None, None])
    expected = 0.299 * 0.5 + 0.587 + 0.114 * 0.25
    torch.testing.assert_close(mixed.flatten(), torch.full((3,), expected))
    torch.testing.assert_close(without_colour(grey()), grey())  # what is grey stays


def test_a_grey_input_that_comes_back_coloured_is_unfaithful() -> None:
    source = grey() * 0.5 + 0.25
    tinted = source + 13 / 255 * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    limits = FidelityLimits()
    same, coloured = measure_fidelity(torch.stack([source, tinted]), source[None])
    assert same.is_faithful(limits)
    (broken,) = coloured.violations(limits)
    assert broken.startswith("added_colour 0.0510 >") and "greyscale" in broken
    assert coloured.is_faithful(FidelityLimits(max_added_colour=math.inf))
    # an input with colour may change it as far as the other limits allow
    assert added_colour(tinted[None], tinted[None]).isnan().all()
    assert measure_fidelity(source[None], tinted[None])[0].is_faithful(limits)
