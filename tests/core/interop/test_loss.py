"""Judges as losses: a gradient that is finite, not zero, and leads upwards in rating."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.core.judges import contrast
from zoomiqa_core import (
    EnsembleScorer,
    JudgeMetric,
    MetricScorer,
    QualityProxy,
    as_loss,
    load_scorer,
)
from zoomiqa_core.alarm import Alarm
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.scorer import RestorationScorer


def restoration() -> RestorationJudge:
    torch.manual_seed(0)
    return RestorationJudge(width=8, members=2)


def metric(**settings: Any) -> MetricScorer:
    return MetricScorer(contrast, lowest=0, highest=0.5, differentiable=True, **settings)


JUDGES = {
    "proxy": QualityProxy.from_pretrained,
    "proxy scorer": lambda: load_scorer("proxy"),
    "alarm": Alarm.from_pretrained,
    "alarm scorer": lambda: load_scorer("alarm"),
    "restoration": restoration,
    "restoration scorer": lambda: RestorationScorer(restoration()),
    "metric": metric,
    "ensemble": lambda: EnsembleScorer({"proxy": 1, metric(): 2}),
}


def batch() -> torch.Tensor:
    """A smooth scene and noise."""
    y, x = torch.meshgrid(torch.linspace(0, 9, 96), torch.linspace(0, 9, 96), indexing="ij")
    scene = torch.stack([x.sin() * y.cos() * 0.3 + 0.5, x.floor() % 2 * 0.5 + 0.2, y / 10 + 0.05])
    noise = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    return torch.stack([scene, noise * 0.8 + 0.1])


@pytest.mark.parametrize("with_input", [False, True])
@pytest.mark.parametrize("name", JUDGES)
def test_gradients_are_finite_and_lead_to_a_lower_loss(name, with_input):
    loss = as_loss(JUDGES[name]())
    images = batch().requires_grad_()
    given = batch().flip(0) if with_input else None
    before = loss(images, given)
    before.backward()
    assert before.shape == () and 0 <= before.item() <= 4
    assert images.grad is not None
    gradient = images.grad
    assert gradient.isfinite().all()
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()  # of every image
    with torch.no_grad():
        step = images - 1e-3 * gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
        assert loss(step, given) < before


@pytest.mark.parametrize("name", JUDGES)
def test_the_loss_is_five_minus_the_rating(name):
    judge: Any = JUDGES[name]()
    loss = as_loss(judge)(batch()[:1])
    with torch.no_grad():
        said: Any = judge(batch()[:1]) if callable(judge) else judge.assess(batch()[:1])[0]
    assert loss.item() == pytest.approx(5 - float(said.rating), abs=1e-3)


@pytest.mark.parametrize("name", JUDGES)
def test_the_loss_of_a_batch_is_the_mean_of_its_images(name):
    loss = as_loss(JUDGES[name]())
    alone = [loss(each[None]).item() for each in batch()]
    assert loss(batch()).item() == pytest.approx(sum(alone) / 2, abs=1e-4)


def test_the_judge_is_copied_and_frozen():
    mine = restoration().train()
    loss = as_loss(mine)
    assert mine.training and any(each.requires_grad for each in mine.parameters())
    assert not any(each.requires_grad for each in loss.parameters())
    assert loss(batch(), batch().flip(0)).requires_grad is False


def test_the_judge_draws_no_dropout_inside_a_model_that_trains():
    loss, metric = as_loss(restoration()), JudgeMetric(restoration())
    torch.nn.ModuleList([loss, metric]).train()
    assert not any(module.training for module in [*loss.judge.modules(), *metric.judge.modules()])
    values = [loss(batch(), batch().flip(0)).item() for _ in range(2)]
    assert values[0] == values[1]


def test_a_metric_beyond_its_range_keeps_its_gradient():
    judge = MetricScorer(contrast, lowest=0, highest=0.1, differentiable=True)
    images = batch().requires_grad_()
    loss = as_loss(judge)(images)
    loss.backward()
    assert loss < 0 and images.grad.abs().sum() > 0
    assert [said.rating for said in judge.assess(list(batch()))] == [5.0, 5.0]


def test_a_judge_without_a_gradient_is_refused():
    with pytest.raises(TypeError, match="gradient in the image, got 'tiny'"):
        as_loss(load_scorer("tiny"))
    with pytest.raises(TypeError, match="gradient"):
        as_loss(MetricScorer(contrast, lowest=0, highest=1))
    blind = MetricScorer(
        lambda x: contrast(x.detach()), lowest=0, highest=1, differentiable=True, name="blind"
    )
    with pytest.raises(RuntimeError, match="blind gives ratings without a gradient"):
        as_loss(blind)(batch().requires_grad_())
