"""Any function as a judge: the mapping by hand, what may go wrong, regions, maps, direction."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch

from tests.core.judges import contrast
from zoomiqa_core import MetricScorer, Scorer, check_direction
from zoomiqa_core.images.sources import to_pil
from zoomiqa_core.interop.values import linear_rating


def brightness(images):
    return images.mean((1, 2, 3))


def closeness(images, degraded):
    return -(images - degraded).abs().mean((1, 2, 3))


def image(mean: float = 0.5, height: int = 64, width: int = 64) -> torch.Tensor:
    """Columns alternating around a mean, so that it is not flat."""
    columns = torch.arange(width) % 2 * 0.2 - 0.1
    return (mean + columns).expand(3, height, width).contiguous()


# 1 + 4 · (value − worst) / (best − worst)
@pytest.mark.parametrize(
    ("mean", "lower_is_better", "rating"),
    [(0.25, False, 2.0), (0.25, True, 4.0), (0.5, False, 3.0), (0.5, True, 3.0)],
)
def test_the_mapping_by_hand(mean, lower_is_better, rating):
    judge = MetricScorer(brightness, lowest=0, highest=1, lower_is_better=lower_is_better)
    said = judge.assess(image(mean))
    assert said.rating == pytest.approx(rating, abs=1e-5)
    assert (said.valid, said.rating_std, said.notes) == (True, 0.0, ())
    assert isinstance(judge, Scorer)


def test_the_mapping_keeps_or_reverses_the_order_of_any_values():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 100
    order = values.argsort()
    assert linear_rating(values, -3, 7).argsort().equal(order)
    assert linear_rating(values, -3, 7, lower_is_better=True).argsort().equal(order.flip(0))


def test_a_value_beyond_the_range_is_clamped_and_noted():
    judge = MetricScorer(brightness, lowest=0.3, highest=0.5, name="brightness")
    low, inside, high = judge.assess([image(0.2), image(0.4), image(0.8)])
    assert (low.rating, high.rating) == (1.0, 5.0)
    assert inside.rating == pytest.approx(3.0, abs=1e-5) and inside.notes == ()
    assert high.notes == ("brightness: 0.8 clamped to [0.3, 0.5]",)
    see_through = to_pil(image(0.8))
    see_through.putalpha(128)
    composited, clamped = judge.assess(see_through).notes
    assert "alpha" in composited and "clamped" in clamped


def test_a_measured_error_is_the_standard_deviation():
    judge = MetricScorer(brightness, lowest=0, highest=1, rating_std=0.3)
    assert judge.assess(image()).lower_bound(k=2) == pytest.approx(3.0 - 0.6, abs=1e-5)


@pytest.mark.parametrize(
    "give",
    [
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.mean((1, 2, 3))[:, None],
        lambda x: x.mean(),
        lambda x: float(x.mean()),
        lambda x: np.float32(x.mean()),
        lambda x: x.mean((1, 2, 3)).half(),
        lambda x: [float(x.mean())],
    ],
)
def test_kinds_of_values_that_are_taken(give):
    said = MetricScorer(give, lowest=0, highest=1).assess(image())
    assert said.rating == pytest.approx(3.0, abs=2e-3)


def run_out(images):
    raise torch.OutOfMemoryError("out of memory")


def fail(images):
    raise RuntimeError("kernel size can't be greater than input")


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (lambda x: x.mean() * math.nan, "not_finite", "gave nan"),
        (lambda x: x.mean() * math.inf, "not_finite", "gave inf"),
        (lambda x: torch.zeros(2), "wrong_count", r"expected shape \(1,\), got \(2,\)"),
        (lambda x: x[:, :1], "wrong_count", "before any mean"),
        (lambda x: torch.zeros(0), "wrong_count", r"got \(0,\)"),
        (lambda x: torch.zeros(1, 1, 1, 1), "wrong_shape", r"got \(1, 1, 1, 1\)"),
        (lambda x: "good", "wrong_type", "got str"),
        (lambda x: None, "wrong_type", "got NoneType"),
        (lambda x: {"score": 1.0}, "wrong_type", "got dict"),
        (lambda x: x.mean() > 0, "wrong_type", "got torch.bool values"),
        (fail, "metric_raised", "fail raised RuntimeError: kernel size"),
        (run_out, "out_of_memory", "run_out: out of memory"),
    ],
)
def test_a_failure_is_named_and_never_a_rating(metric, error, message):
    judge = MetricScorer(metric, lowest=0, highest=1)
    said = judge.assess(image())
    assert (said.valid, said.error) == (False, error)
    assert math.isnan(said.rating) and math.isnan(said.rating_std)
    assert re.search(message, said.message)
    (region,) = judge.score_regions(image(), [(0, 0, 1, 1)])
    assert region.error == error and math.isnan(region.rating)
    assert judge.quality_map(image()).isnan().all()
    assert re.search(message, region.message)


def test_one_bad_image_leaves_the_others(tmp_path):
    def picky(images):
        return images.mean() if images.shape[-1] > 32 else 1 / 0

    judge = MetricScorer(picky, lowest=0, highest=1)
    good, small, missing = judge.assess([image(), image(width=16), tmp_path / "no.png"])
    assert good.valid and (small.error, missing.error) == ("metric_raised", "missing")
    assert "ZeroDivisionError" in small.message


def test_a_metric_that_writes_into_its_input_changes_nothing():
    given = image()[None]
    before = given.clone()
    judge = MetricScorer(lambda x: x.mul_(0.5).mean(), lowest=0, highest=1)
    assert float(judge.values(given)) == pytest.approx(0.25, abs=1e-6)
    assert given.equal(before)
    twice = judge.score_regions(given[0], [(0, 0, 1, 1)] * 2)
    assert [region.rating for region in twice] == pytest.approx([2.0, 2.0], abs=1e-5)


def test_ratings_do_not_depend_on_the_list():
    judge = MetricScorer(contrast, lowest=0, highest=0.5)
    images = torch.rand(3, 3, 64, 64)
    alone = [judge.assess(each).rating for each in images]
    assert [said.rating for said in judge.assess(list(images))] == alone


# --- regions and maps ----------------------------------------------------------------------------


def quadrants() -> torch.Tensor:
    """256 × 256: means .2 and .4 above, .6 and .8 below."""
    rows = [
        torch.cat([image(a, 128, 128), image(b, 128, 128)], -1) for a, b in ((0.2, 0.4), (0.6, 0.8))
    ]
    return torch.cat(rows, -2)


def test_a_map_is_the_rating_of_each_tile():
    judge = MetricScorer(brightness, lowest=0, highest=1)
    wanted = torch.tensor([[[1.8, 2.6], [3.4, 4.2]]])
    torch.testing.assert_close(judge.quality_map(quadrants()), wanted, atol=1e-5, rtol=0)


def test_a_tile_that_fails_is_nan():
    judge = MetricScorer(
        lambda x: x.mean() if x.mean() > 0.3 else x.mean() * math.nan, lowest=0, highest=1
    )
    cells = judge.quality_map(quadrants())[0]
    assert cells.isnan().tolist() == [[True, False], [False, False]]


def test_a_region_is_judged_as_an_image_of_its_own_and_widened_to_64_px():
    seen = []

    def looking(images):
        seen.append(tuple(images.shape))
        return images.mean()

    judge = MetricScorer(looking, lowest=0, highest=1)
    right, corner = judge.score_regions(quadrants(), [(0.5, 0, 1, 0.5), (0.98, 0.98, 1, 1)])
    assert (right.rating, corner.rating) == pytest.approx((2.6, 4.2), abs=1e-5)
    assert seen == [(1, 3, 128, 128), (1, 3, 64, 64)]


# --- with the degraded input ---------------------------------------------------------------------


def test_a_metric_that_compares_with_the_input():
    judge = MetricScorer(closeness, lowest=-1, highest=0, takes_degraded=True)
    same, other = judge.assess([image(0.5), image(0.75)], degraded=image(0.5))
    assert (same.rating, other.rating) == pytest.approx((5.0, 4.0), abs=1e-5)
    changed = quadrants()
    changed[:, :128, :128] += 0.5
    cells = judge.quality_map(changed, degraded=quadrants())[0]
    assert cells.flatten().tolist() == pytest.approx([3.0, 5.0, 5.0, 5.0], abs=1e-5)
    regions = judge.score_regions(changed, [(0, 0, 0.5, 0.5)], degraded=quadrants())
    assert regions[0].rating == pytest.approx(3.0, abs=1e-5)


def test_a_missing_or_unfit_input_is_named():
    judge = MetricScorer(closeness, lowest=-1, highest=0, takes_degraded=True)
    assert judge.assess(image()).error == "needs_degraded"
    with pytest.raises(ValueError, match="resize it first"):
        judge.assess(image(), degraded=image(width=32))
    with pytest.raises(TypeError, match="takes no degraded input"):
        MetricScorer(brightness, lowest=0, highest=1).assess(image(), degraded=image())


# --- arguments and direction ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lowest": 1, "highest": 0}, "lower_is_better=True"),
        ({"highest": math.inf}, "finite lowest < highest"),
        ({"rating_std": -1}, "rating_std ≥ 0"),
        ({"metric": 3}, "expected a function"),
    ],
)
def test_unfit_arguments_are_refused(change, message):
    arguments = {"metric": brightness, "lowest": 0, "highest": 1, **change}
    with pytest.raises((TypeError, ValueError), match=message):
        MetricScorer(arguments.pop("metric"), **arguments)


def roughness(images):
    return images.diff(dim=-1).abs().mean((1, 2, 3))


def smooth() -> torch.Tensor:
    return torch.linspace(0.2, 0.8, 96).expand(3, 96, 96)


def test_a_right_direction_passes_in_silence():
    judge = MetricScorer(roughness, lowest=0, highest=0.5, lower_is_better=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_direction(judge, smooth())


@pytest.mark.parametrize(
    ("metric", "highest", "message"),
    [
        (roughness, 0.5, "lower than the photo with noise"),
        (lambda x: x.mean() * 0 + 2, 1, "the same as"),
    ],
)
def test_a_wrong_direction_warns(metric, highest, message):
    judge = MetricScorer(metric, lowest=0, highest=highest, name="mine")
    with pytest.warns(UserWarning, match=f"mine rates the photo .*{message}"):
        assert not check_direction(judge, smooth())


def test_the_direction_of_a_judge_that_fails_cannot_be_checked():
    with pytest.raises(ValueError, match="fail cannot rate the photo: metric_raised"):
        check_direction(MetricScorer(fail, lowest=0, highest=1), smooth())


def test_the_direction_of_a_metric_that_takes_the_input():
    judge = MetricScorer(closeness, lowest=-1, highest=0, takes_degraded=True)
    assert check_direction(judge, smooth())
