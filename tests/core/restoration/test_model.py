"""The restoration judge: exact zeros, symmetry, gradients, sizes, saving, refusals."""

import math
from typing import Any

import pytest
import torch

from zoomiqa_core.restoration.model import (
    TILE,
    RestorationJudge,
    _tiles,
    difference_std,
    errors,
    noise_statistics,
    probability_better,
    to_rating,
)
from zoomiqa_core.restoration.scorer import NO_INPUT, RestorationScorer


@pytest.fixture(scope="module")
def judge() -> RestorationJudge:
    torch.manual_seed(0)
    return RestorationJudge(width=8, members=2)


def photo(seed: int, *size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def test_the_input_itself_gains_exactly_nothing(judge):
    degraded = photo(0, 1, 3, 64, 96)
    out = judge(degraded, degraded)
    assert out.gain.item() == 0 and out.gain_std.item() == 0
    assert torch.equal(out.gain_map, torch.zeros_like(out.gain_map))
    other = judge(photo(1, 1, 3, 64, 96), degraded)
    assert other.gain.item() != 0 and other.gain_std.item() > 0


def test_gain_is_the_rating_minus_the_rating_of_the_input(judge):
    degraded, candidate = photo(0, 1, 3, 64, 64), photo(1, 1, 3, 64, 64)
    out, own = judge(candidate, degraded), judge(degraded, degraded)
    torch.testing.assert_close(out.gain, out.rating - own.rating)


def test_rating_does_not_depend_on_the_batch(judge):
    degraded, candidates = photo(0, 1, 3, 64, 64), photo(1, 3, 3, 64, 64)
    alone = torch.cat([judge(c[None], degraded).rating for c in candidates])
    torch.testing.assert_close(judge(candidates, degraded).rating, alone, atol=1e-5, rtol=1e-5)


def test_gradient_in_the_candidate_is_finite_and_not_zero(judge):
    candidate = photo(1, 1, 3, 64, 64).requires_grad_()
    judge(candidate, photo(0, 1, 3, 64, 64)).rating.sum().backward()
    assert candidate.grad.isfinite().all() and candidate.grad.abs().max() > 0


def test_input_matters_and_its_absence_gives_no_gain(judge):
    candidate = photo(1, 1, 3, 64, 64)
    seen, blind = judge(candidate, photo(0, 1, 3, 64, 64)), judge(candidate)
    assert seen.rating.item() != blind.rating.item()
    assert blind.gain.item() == 0


def test_a_smaller_input_is_enlarged(judge):
    small = torch.full((1, 3, 32, 32), 0.5)
    full = torch.full((1, 3, 64, 64), 0.5)
    candidate = photo(1, 1, 3, 64, 64)
    torch.testing.assert_close(judge(candidate, small).rating, judge(candidate, full).rating)


@pytest.mark.parametrize("size", [(30, 32), (128, 128), (64, 32)])
def test_other_sizes_of_the_input_are_refused(judge, size):
    with pytest.raises(ValueError, match="integer factor"):
        judge(photo(0, 1, 3, 64, 64), photo(1, 1, 3, *size))


def test_tiles_cover_a_large_image():
    height, width = 300, 400
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    numbered = (rows * width + columns).float().expand(1, 3, -1, -1)
    tiles, grid = _tiles(numbered)
    assert grid == (3, 4) and len(tiles) == 12
    assert len(tiles[:, 0].unique()) == height * width
    assert tiles.shape[-2:] == (TILE, TILE)
    assert _tiles(numbered, 64)[1] == (4, 6)  # 0, 57, …, 172 and 0, 54, …, 272
    assert _tiles(numbered[..., :128, :100], 64)[1] == (1, 1)


def test_probability_is_antisymmetric_and_by_hand():
    ratings, stds = torch.tensor([3.0, 4.0, 2.0]), torch.tensor([0.6, 0.8, 0.1])
    p = probability_better(ratings, stds)
    torch.testing.assert_close(p + p.T, torch.ones(3, 3))
    # Φ(1 / √((.36 + .64) · (1 − exp(−1 / .3)))) = Φ(1.0183)
    assert p[1, 0].item() == pytest.approx(0.8457, abs=1e-4)


def test_the_difference_from_itself_has_no_error_and_a_large_one_all():
    stds = torch.tensor([0.3, 0.4])
    none = torch.zeros((), requires_grad=True)
    assert difference_std(none, *stds).item() == 0
    difference_std(none, *stds).backward()
    assert none.grad is not None and none.grad.isfinite()
    assert difference_std(torch.tensor(4.0), *stds).item() == pytest.approx(0.5, abs=1e-4)
    assert torch.equal(
        difference_std(torch.tensor(0.2), *stds), difference_std(torch.tensor(-0.2), *stds)
    )


def test_errors_by_hand():
    # two members foresee e^−1 and e^−2; utilities 0 and ln 3 are ratings 3 and 4, variance 1/4
    judged = torch.tensor([[[0.0, -1.0]], [[math.log(3), -2.0]]])
    expected = ((math.exp(-2) + math.exp(-4)) / 2 + 0.25) ** 0.5
    assert errors(judged).tolist() == pytest.approx([expected])


def test_without_an_input_its_columns_do_not_matter(judge):
    rows = judge.statistics(photo(1, 1, 3, 64, 64), photo(0, 1, 3, 64, 64))
    other = rows.clone()
    other[:, judge.own : -1] += 1
    assert not torch.equal(judge.judgements(rows), judge.judgements(other))
    rows[:, -1] = other[:, -1] = 0
    assert torch.equal(judge.judgements(rows), judge.judgements(other))


def test_to_rating_by_hand():
    assert to_rating(torch.tensor([0.0, -100.0, 100.0])).tolist() == [3, 1, 5]


def test_saved_and_loaded_it_says_the_same(judge, tmp_path):
    judge.save_pretrained(tmp_path)
    loaded = RestorationJudge.from_pretrained(tmp_path)
    candidate, degraded = photo(1, 1, 3, 64, 64), photo(0, 1, 3, 64, 64)
    assert torch.equal(judge(candidate, degraded).rating, loaded(candidate, degraded).rating)
    with pytest.raises(FileNotFoundError, match="holds no"):
        RestorationJudge.from_pretrained(tmp_path / "missing")


def test_scorer_ranks_by_the_rating_and_says_when_it_saw_no_input(judge):
    scorer: Any = RestorationScorer(judge)
    candidates = [photo(seed, 3, 64, 64) for seed in (1, 2, 3)]
    degraded = photo(0, 3, 64, 64)
    found = scorer.compare(candidates, degraded=degraded)
    ratings = [scorer.assess(c, degraded=degraded).rating for c in candidates]
    assert list(found.ratings) == pytest.approx(ratings)
    assert [ratings[i] for i in found.ranking] == sorted(ratings, reverse=True)
    assert found.better[found.ranking[0], found.ranking[1]] >= 0.5
    assert NO_INPUT in scorer.assess(candidates[0]).notes
    assert NO_INPUT not in scorer.assess(candidates[0], degraded=degraded).notes
    with pytest.raises(ValueError, match="at least one"):
        scorer.compare([])


def test_scorer_regions_and_map(judge):
    scorer = RestorationScorer(judge)
    image, degraded = photo(1, 3, 256, 256), photo(0, 3, 128, 128)
    (region,) = scorer.score_regions(image, [(0, 0, 0.5, 0.5)], degraded=degraded)
    assert region.valid and 1 <= region.rating <= 5
    assert scorer.quality_map(image, degraded=degraded).shape == (1, 3, 3)


def test_the_scorers_ratings_are_the_models_and_the_input_is_looked_at_once(judge, monkeypatch):
    scorer = RestorationScorer(judge)
    looked = []
    look_at = scorer._folded.look_at
    monkeypatch.setattr(scorer._folded, "look_at", lambda *args: looked.append(1) or look_at(*args))
    degraded, others = photo(0, 3, 64, 96), [photo(seed, 3, 64, 96) for seed in (1, 2)]
    said = scorer.assess([*others, degraded], degraded=degraded)
    direct = [judge(image[None], degraded[None]) for image in (*others, degraded)]
    assert [each.rating for each in said] == pytest.approx(
        [out.rating.item() for out in direct], abs=1e-5
    )
    assert [each.gain for each in said] == pytest.approx(
        [out.gain.item() for out in direct], abs=1e-5
    )
    assert said[2].gain == 0 and said[2].gain_std == 0 and len(looked) == 1
    scorer.assess(others[0], degraded=others[1])
    assert len(looked) == 2


def test_noise_statistics_tell_noise_from_edges():
    flat = torch.full((1, 3, 64, 64), 0.5)
    floor = math.log(1e-6) / 2
    torch.testing.assert_close(noise_statistics(flat), torch.full((1, 18), floor))
    edge = flat.clone()
    edge[..., 30:34] = 1.0
    low, middle, high = noise_statistics(edge)[0, :9].view(3, 3)  # of full size, by channel
    assert low.eq(floor).all() and middle.eq(floor).all() and (high > floor + 3).all()
    # noise of 2 % everywhere: half of the windows have at least ln .02 − .1
    noisy = flat + 0.02 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    low, middle, high = noise_statistics(noisy)[0, :9].view(3, 3)
    torch.testing.assert_close(middle, torch.full((3,), math.log(0.02)), atol=0.1, rtol=0)
    assert (low > math.log(0.02) - 0.5).all() and (high < math.log(0.02) + 0.5).all()


def test_noise_statistics_of_the_smallest_images_have_a_gradient():
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    noise_statistics(image).sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().max() > 0
