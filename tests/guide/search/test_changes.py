"""What the candidates change, by hand arithmetic, by property and by rejection."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restoration_guide.search.changes import Change, measure_change


def grey(plane: torch.Tensor) -> torch.Tensor:
    return plane.expand(3, *plane.shape).contiguous()


def texture(seed: int = 0, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return grey(torch.rand(side, side, generator=generator) * 0.5 + 0.25)


def test_detail_by_hand() -> None:
    # A quarter of the contrast taken away is a sixteenth of the energy; the mean of the candidates
    # counts, and a shift of the brightness, which is no fine detail, does not.
    photo = texture()
    softer = 0.5 + 0.75 * (photo - 0.5)
    assert measure_change(photo, [softer]).detail == pytest.approx(1 / 16, rel=1e-4)
    assert measure_change(photo, [photo, 2 * softer - photo]).detail == pytest.approx(1 / 16, 1e-4)
    assert measure_change(photo, [softer + 0.1]).detail == pytest.approx(1 / 16, rel=1e-3)


def test_the_most_changed_quarter_counts() -> None:
    # Half of the contrast is lost in one corner alone: a quarter of the energy there.
    photo = texture()
    softer = photo.clone()
    softer[:, 34:, 34:] = 0.5 + 0.5 * (photo[:, 34:, 34:] - 0.5)
    assert measure_change(photo, [softer]).detail == pytest.approx(0.25, rel=0.15)


def test_a_grid_by_hand() -> None:
    # Steps of .1 at every column and .3 at each eighth: 3 times as strong, down as well as across.
    steps = torch.tensor([0.1 * (-1) ** i * (3 if i % 8 == 5 else 1) for i in range(63)])
    plane = torch.cat([torch.zeros(1), steps.cumsum(0)]).expand(64, 64)
    for change in (grey(plane), grey(plane.T)):
        assert measure_change(change, [torch.zeros(3, 64, 64)]).grid == pytest.approx(3, rel=1e-4)


def test_nothing_changed() -> None:
    assert measure_change(texture(), [texture()]) == Change(0.0, 1.0)


def test_what_has_no_detail() -> None:
    flat = torch.full((3, 64, 64), 0.5)
    assert measure_change(flat, [flat]) == Change(0.0, 1.0)
    assert measure_change(flat, [texture()]).detail > 1e6


def test_a_small_image_has_no_grid_to_tell() -> None:
    assert measure_change(texture(side=31), [texture(1, side=31)]).grid == math.inf
    assert measure_change(texture(side=8), [texture(1, side=8)]).grid == math.inf


@given(st.integers(0, 7), st.integers(0, 7), st.permutations(range(3)))
def test_the_grid_may_lie_anywhere_and_candidates_in_any_order(
    down: int, right: int, order: list[int]
) -> None:
    blocks = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    blocks = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
    blocks = blocks + 0.02 * texture(2, 80)[0]
    photo = texture()
    candidates = [photo + s * grey(blocks[down : down + 64, right : right + 64]) for s in (1, 2, 3)]
    change = measure_change(photo, candidates)
    assert change.grid > 3
    again = measure_change(photo, [candidates[i] for i in order])
    assert again == pytest.approx(change, rel=1e-4)


def test_white_noise_has_no_grid() -> None:
    assert measure_change(texture(0, 256), [texture(1, 256)]).grid < 1.1


def test_no_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one candidate"):
        measure_change(texture(), [])
