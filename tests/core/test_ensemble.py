"""Several judges as one: mean and spread by hand, failures, maps, the degraded input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.core.judges import contrast
from zoomiqa_core import Assessment, EnsembleScorer, MetricScorer, RegionScore, Scorer, load_scorer


class Says:
    """A judge that gives every image the same judgement."""

    differentiable = deterministic = True

    def __init__(self, rating: float, std: float = 0.0, error: str | None = None) -> None:
        self.name = f"says {rating:g}"
        self.said = (rating, std)
        self.error = error
        self.asked: list[Any] = []

    def assess(self, images, **given):
        self.asked.append(given)
        if self.error:
            return [Assessment.failed(self.error, "broken") for _ in images]
        return [Assessment(*self.said, issues=(self.name,)) for _ in images]

    def score_regions(self, image, bboxes, **given):
        if self.error:
            return [RegionScore(bbox, math.nan, math.nan, self.error) for bbox in bboxes]
        return [RegionScore(bbox, *self.said) for bbox in bboxes]

    def quality_map(self, image, **given):
        return torch.full((1, int(self.said[0]), 2), self.said[0])


class WithInput(Says):
    takes_degraded = True


def image() -> torch.Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_mean_and_spread_by_hand():
    # weights 1 : 3; mean .25 · 2 + .75 · 4 = 3.5
    # variance .25 · .6² + .75 · .8² + .25 · 1.5² + .75 · .5² = .57 + .75
    judge = EnsembleScorer({Says(2, 0.6): 1, Says(4, 0.8): 3})
    said = judge.assess(image())
    assert (said.rating, said.rating_std) == pytest.approx((3.5, math.sqrt(1.32)))
    (region,) = judge.score_regions(image(), [(0, 0, 1, 0.5)])
    assert (region.rating, region.rating_std) == pytest.approx((3.5, math.sqrt(1.32)))
    assert region.valid and region.bbox == (0, 0, 1, 0.5)
    assert said.issues == ("says 2", "says 4")
    assert judge.name == "0.25 says 2 + 0.75 says 4"
    assert isinstance(judge, Scorer) and judge.deterministic


def test_a_member_without_an_error_adds_disagreement_alone():
    said = EnsembleScorer({Says(2, math.nan): 1, Says(4, math.nan): 1}).assess(image())
    assert (said.rating, said.rating_std) == (3.0, 1.0)


def test_members_that_agree_leave_their_own_spread():
    said = EnsembleScorer({Says(3, 0.4): 5, Says(3, 0.4): 1}).assess(image())
    assert (said.rating, said.rating_std) == pytest.approx((3.0, 0.4))


def test_only_ratios_of_weights_count():
    def rating(*weights):
        members = (load_scorer("proxy"), MetricScorer(contrast, lowest=0, highest=0.5))
        return EnsembleScorer(dict(zip(members, weights, strict=True))).assess(image()).rating

    assert rating(0.1, 0.3) == pytest.approx(rating(10, 30))


def test_a_member_that_fails_is_named_and_fails_the_judgement():
    judge = EnsembleScorer({Says(2): 1, Says(4, error="not_finite"): 1})
    said = judge.assess(image())
    assert (said.valid, said.error, said.message) == (False, "not_finite", "says 4: broken")
    assert math.isnan(said.rating) and math.isnan(said.rating_std)
    (region,) = judge.score_regions(image(), [(0, 0, 1, 1)])
    assert (region.error, region.message) == ("not_finite", "says 4: not_finite")


def test_a_bad_image_is_named_once_and_the_others_go_on(tmp_path):
    judge = EnsembleScorer({"proxy": 1, MetricScorer(contrast, lowest=0, highest=0.5): 1})
    missing, good = judge.assess(iter([tmp_path / "no.png", image()]))
    assert missing.error == "missing"
    assert missing.message == load_scorer("proxy").assess(tmp_path / "no.png").message
    proxy, metric = (each.assess(image()) for each in judge.members)
    assert good.rating == pytest.approx((proxy.rating + metric.rating) / 2)
    assert good.rating_std > proxy.rating_std / 2


def test_more_images_than_are_read_at_once():
    judge = EnsembleScorer({Says(2): 1, Says(4): 1})
    assert len(judge.assess([image()] * 35)) == 35


def test_the_map_has_the_finest_grid():
    found = EnsembleScorer({Says(2): 1, Says(4): 1}).quality_map(image())
    assert found.shape == (1, 4, 2) and found.eq(3.0).all()


def test_the_degraded_input_goes_to_those_that_take_it():
    without, taking = Says(2), WithInput(4)
    judge = EnsembleScorer({without: 1, taking: 1})
    given = image()
    assert judge.takes_degraded and judge.assess(image(), degraded=given).valid
    assert without.asked == [{}]
    assert taking.asked[0]["degraded"] is given
    assert not EnsembleScorer({Says(2): 1, Says(3): 1}).takes_degraded


def test_an_ensemble_is_differentiable_when_all_members_are():
    metric = MetricScorer(contrast, lowest=0, highest=0.5)
    assert not EnsembleScorer({"proxy": 1, metric: 1}).differentiable
    assert EnsembleScorer({"proxy": 1, "alarm": 1}).differentiable


@pytest.mark.parametrize("weights", [(1, 0), (1, -1), (1, math.nan), (1, math.inf), (1,)])
def test_unfit_weights_are_refused(weights):
    members = dict(zip((Says(2), Says(4)), weights, strict=False))
    with pytest.raises(ValueError, match="two or more judges"):
        EnsembleScorer(members)
