"""Results: scale, failed judgements, JSON."""

from __future__ import annotations

import json
import math

import pytest

from zoomiqa_core import Assessment, Chains, RegionScore, Round, rating_to_score, score_to_rating
from zoomiqa_core.assessment import lower_bound


@pytest.mark.parametrize(("rating", "score"), [(1, 0), (3.56, 64), (5, 100), (0.2, 0), (7, 100)])
def test_score_of_a_rating(rating, score):
    assert rating_to_score(rating) == pytest.approx(score)


def test_score_and_rating_are_inverse():
    assert score_to_rating(rating_to_score(2.75)) == pytest.approx(2.75)


def test_a_failed_judgement_is_no_number():
    failed = Assessment.failed("truncated", "half a file", "x.png")
    assert not failed.valid
    assert (
        math.isnan(failed.rating) and math.isnan(failed.score) and math.isnan(failed.lower_bound())
    )
    record = json.loads(json.dumps(failed.to_dict(), allow_nan=False))
    assert record["rating"] is None and record["score"] is None and record["error"] == "truncated"


def test_lower_bound_and_regions_in_json():
    region = RegionScore((0, 0, 0.5, 1), 2.0, 0.25)
    judged = Assessment(4.0, 0.5, regions=(region,))
    assert judged.lower_bound(2) == pytest.approx(3.0)
    assert judged.to_dict()["regions"][0]["bbox"] == (0, 0, 0.5, 1)


def test_a_bound_of_no_deviations_is_the_rating_even_of_one_chain():
    assert lower_bound(4.0, math.nan, 0) == 4.0
    assert math.isnan(lower_bound(4.0, math.nan, 1))


def test_what_is_printed_names_rating_spread_and_image():
    assert str(Assessment(3.484, 0.21, name="photo.jpg")) == "3.48 ± 0.21 photo.jpg"
    assert str(Assessment(3.484, math.nan)) == "3.48"
    assert str(Assessment.failed("empty", name="a.png")) == "a.png: empty"


def test_only_a_judge_with_chains_has_their_record_and_json_keeps_it():
    assert Assessment(3.0, 0.1).to_dict()["chains"] is None
    chains = Chains((Round(math.nan, error="missing_answer"), Round(3.0)), ratings=(3.0,))
    record = json.loads(json.dumps(Assessment(3.0, 0.1, chains=chains).to_dict(), allow_nan=False))
    assert [look["rating"] for look in record["chains"]["rounds"]] == [None, 3.0]
