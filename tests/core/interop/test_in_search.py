"""A wrapped metric as the judge of best of N and of the gate."""

from __future__ import annotations

import math

import pytest
import torch

from restoration_guide import BestOfN, QualityGate, load_restorer
from tests.core.judges import contrast
from zoomiqa_core import EnsembleScorer, MetricScorer


def degraded() -> torch.Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3


def stronger(image, generator):
    """Contrast raised by a random share."""
    share = 0.1 * torch.rand((), generator=generator)
    return (image + share * (image - image.mean())).clamp(0, 1)


def metric(**settings) -> MetricScorer:
    return MetricScorer(contrast, lowest=0, highest=0.5, **settings)


@pytest.mark.parametrize("judge", [metric(), EnsembleScorer({metric(): 1, metric(name="b"): 1})])
def test_ratings_in_a_search_are_the_metrics(judge):
    found = BestOfN(load_restorer(stronger), judge, n=3)(degraded(), seed=1)
    rows = [row for row in found.rows if row.index != "input"]
    assert len(rows) == 3
    for row in rows:
        wanted = 1 + 4 * float(contrast(found.image(row.index)[None])) / 0.5
        assert row.rating == pytest.approx(wanted, abs=1e-4)


def test_a_metric_that_fails_is_named_in_the_rows():
    broken = MetricScorer(lambda images: images.mean() * math.nan, lowest=0, highest=1)
    found = BestOfN(load_restorer(stronger), broken, n=2)(degraded(), seed=1)
    rows = [row for row in found.rows if row.index != "input"]
    assert [row.status for row in rows] == ["judgement_failed"] * 2
    assert all("not_finite" in row.detail for row in rows)


def test_the_gate_gives_no_good_verdict_without_a_rating():
    broken = MetricScorer(lambda images: 1 / 0, lowest=0, highest=1, name="broken")
    verdict = QualityGate(broken)(degraded(), degraded())
    assert verdict.action != "accept"
    assert "ZeroDivisionError" in str(verdict.ratings)
