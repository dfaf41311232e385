"""Deterministic networks as restorers: reductions, strengths, tiles, luma."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restoration_guide import BestOfN
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.network import Network, NetworkRestorer


def image(height: int = 30, width: int = 44) -> Tensor:
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def nearest(scale: int) -> Network:
    return Network(lambda part: F.interpolate(part, scale_factor=scale), scale)


def test_strength_blends_with_the_input_by_hand() -> None:
    half = NetworkRestorer(Network(lambda part: part * 0.5), plan=[{"strength": 0.5}, {}])
    first, second = half.restore(torch.full((1, 3, 16, 16), 0.8), n=2)
    torch.testing.assert_close(first.image, torch.full((3, 16, 16), 0.6))  # .8 + .5 · (.4 - .8)
    torch.testing.assert_close(second.image, torch.full((3, 16, 16), 0.4))


def test_one_evaluation_for_each_reduction_and_the_same_image_whatever_n() -> None:
    seen: list[tuple[int, ...]] = []

    def run(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape[-2:]))
        return F.interpolate(part, scale_factor=4)

    restorer = NetworkRestorer(Network(run, 4))
    whole = list(restorer.restore(image(), n=9, seed=3))
    assert seen == [(15, 22), (8, 11)]  # 30 × 44 by 2; padded to 32 × 44, by 4
    assert [candidate.nfe for candidate in whole] == [1, 1] + [0] * 7
    assert len({candidate.image.sum().item() for candidate in whole[:8]}) == 8
    assert torch.equal(whole[8].image, whole[0].image)
    assert "the same as candidate 0" in whole[8].notes[0]
    for part, candidate in zip(restorer.restore(image(), n=3, batch_size=2), whole, strict=False):
        assert torch.equal(part.image, candidate.image)


def test_sizes_that_are_no_multiple_stay_in_place() -> None:
    """A smooth image that is reduced and enlarged keeps its geometry: no shift, no stretch."""
    ramp = torch.linspace(0.1, 0.9, 43).expand(1, 3, 37, 43)
    for reduce in (2, 3, 4):
        plan = [{"reduce": reduce, "strength": 1.0}]
        network = Network(lambda part: F.interpolate(part, scale_factor=4, mode="bicubic"), 4)
        (made,) = NetworkRestorer(network, plan=plan).restore(ramp, n=1)
        assert made.image.shape == (3, 37, 43)
        inside = slice(8, -8)
        assert float((made.image - ramp[0])[..., inside].abs().max()) < 0.004  # a step is 0.019


def test_tiles_show_no_seams() -> None:
    """A network that spoils what is near its border, as padding with zeros does."""
    blur = torch.ones(3, 1, 9, 9) / 81

    def run(part: Tensor) -> Tensor:
        return F.conv2d(part, blur, padding=4, groups=3)

    photo = image(150, 210)
    (whole,) = NetworkRestorer(Network(run), plan=[{}], tile=None).restore(photo, n=1)
    (tiled,) = NetworkRestorer(Network(run), plan=[{}], tile=64).restore(photo, n=1)
    assert tiled.nfe == 15 and whole.nfe == 1
    torch.testing.assert_close(tiled.image, whole.image, atol=2e-6, rtol=0)
    enlarged = NetworkRestorer(nearest(4), plan=[{"reduce": 2}], tile=64)
    untiled = NetworkRestorer(nearest(4), plan=[{"reduce": 2}], tile=None)
    (one,), (other,) = enlarged.restore(photo, n=1), untiled.restore(photo, n=1)
    assert one.nfe == 15
    torch.testing.assert_close(one.image, other.image, atol=2e-5, rtol=0)


def test_a_network_for_one_channel_restores_the_luma() -> None:
    dark = NetworkRestorer(Network(lambda part: part - 0.1, channels=1), plan=[{}])
    colours = torch.rand(1, 3, 16, 16) * 0.5 + 0.3
    (made,) = dark.restore(colours, n=1)
    torch.testing.assert_close(made.image, colours[0] - 0.1)


def test_a_failing_reduction_leaves_the_others(stubs: Any) -> None:
    def run(part: Tensor) -> Tensor:
        if part.shape[-1] > 16:
            raise RuntimeError("out of memory")
        return F.interpolate(part, scale_factor=4)

    made = NetworkRestorer(Network(run, 4)).restore(image(), n=4)
    assert [next(made).index, next(made).index] == [1, 3]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(made)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plan": []}, "plan needs at least one entry"),
        ({"plan": [{"sigma": 1}]}, "no setting sigma: reduce, strength"),
        ({"plan": [{"reduce": 0}]}, "reduce must be a whole number"),
        ({"options": {"strength": 3}}, r"strength must lie in \[0, 2\]"),
        ({"tile": 8}, "tile must be at least 64"),
    ],
)
def test_bad_arguments(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NetworkRestorer(nearest(2), **options)


def test_no_previews(stubs: Any) -> None:
    restorer = NetworkRestorer(nearest(2))
    with pytest.raises(ValueError, match="shows no previews, because a network"):
        restorer.restore(image(), n=1, observer=lambda previews: [])
    with pytest.raises(ValueError, match="prune and deadline_s need them"):
        BestOfN(restorer, stubs.Scorer(), deadline_s=1)


def test_options_replace_the_plans_settings() -> None:
    restorer = NetworkRestorer(nearest(4), options={"strength": 0.3})
    assert restorer.plan == ({"reduce": 2, "strength": 0.3}, {"reduce": 4, "strength": 0.3})
    builtin = load_restorer("builtin", options={"steps": 2, "churn": False})
    assert len(builtin.plan) == 11  # of twelve, two differ in steps alone
    settings: list[Any] = list(builtin.plan)
    assert {(each.steps, each.churn) for each in settings} == {(2, False)}
    assert restorer.config == {"plan": list(restorer.plan), "tile": 512}
