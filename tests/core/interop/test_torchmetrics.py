"""Metrics of torchmetrics as judges, and judges as metrics of torchmetrics."""

from __future__ import annotations

import pickle

import pytest
import torch
import torchmetrics
from torchmetrics.functional.image import total_variation
from torchmetrics.image import TotalVariation

from zoomiqa_core import JudgeMetric, MetricScorer, QualityProxy, load_scorer, torchmetrics_scorer
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.scorer import RestorationScorer


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# --- theirs as ours ------------------------------------------------------------------------------


def test_a_metric_of_torchmetrics_gives_its_functions_values():
    judge = torchmetrics_scorer(TotalVariation(), highest=20_000)
    wanted = total_variation(images(), reduction="none")
    torch.testing.assert_close(judge.values(images()), wanted)
    assert (judge.lowest, judge.highest, judge.lower_is_better) == (0.0, 20_000, True)
    ratings = [said.rating for said in judge.assess(list(images()))]
    assert ratings == pytest.approx((5 - 4 * wanted / 20_000).tolist(), abs=1e-5)


def test_a_metric_that_keeps_every_value_keeps_its_own_and_none_of_the_judges():
    mine = TotalVariation(reduction="none")
    mine.update(images()[:2])
    before = mine.compute()
    judge = torchmetrics_scorer(mine, highest=20_000)
    first, again = judge.values(images()[2:]), judge.values(images()[2:])
    assert first.equal(again) and first.shape == (1,)
    mine.update(images()[2:])
    torch.testing.assert_close(mine.compute(), torch.cat([before, first]))


def test_a_function_of_torchmetrics_is_a_metric_like_any_other():
    judge = MetricScorer(
        lambda x: total_variation(x, reduction="none"),
        lowest=0,
        highest=20_000,
        lower_is_better=True,
    )
    same = torchmetrics_scorer(TotalVariation(), highest=20_000)
    assert judge.assess(images()[0]).rating == same.assess(images()[0]).rating


class Undirected(torchmetrics.MeanMetric):
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


def test_what_the_metric_does_not_state_is_asked_for():
    with pytest.raises(ValueError, match=r"TotalVariation states the range 0\.0 to None"):
        torchmetrics_scorer(TotalVariation())
    with pytest.raises(ValueError, match="states no direction"):
        torchmetrics_scorer(Undirected())
    assert torchmetrics_scorer(Undirected(), lower_is_better=True).assess(images()[0]).valid
    with pytest.raises(TypeError, match="see MetricScorer"):
        torchmetrics_scorer(total_variation, highest=1)  # pyright: ignore[reportArgumentType]


# --- ours as theirs ------------------------------------------------------------------------------


def test_the_metric_is_the_mean_rating_however_the_images_are_batched():
    scorer = load_scorer("proxy")
    wanted = sum(said.rating for said in scorer.assess(list(images()))) / 3
    for batches in (images().split(3), images().split(2), images().split(1)):
        metric = JudgeMetric(scorer)
        for batch in batches:
            metric.update(batch)
        assert float(metric.compute()) == pytest.approx(wanted, abs=1e-5)


def test_a_model_is_a_judge_too_and_stays_as_it_is():
    model = QualityProxy.from_pretrained().train()
    metric = JudgeMetric(model)
    value = metric(images())  # forward: the value of this batch
    assert not metric.judge.training and model.training
    with torch.no_grad():
        wanted = model.eval()(images()).rating.mean()
    torch.testing.assert_close(value, wanted, atol=1e-4, rtol=0)


def test_images_that_cannot_be_judged_are_counted_apart():
    flat = torch.full((1, 3, 64, 64), 0.5)
    metric = JudgeMetric(load_scorer("proxy"))
    metric.update(torch.cat([images(1), flat]))
    assert (int(metric.judged), int(metric.failed)) == (1, 1)
    assert float(metric.compute()) == pytest.approx(load_scorer("proxy").assess(images()[0]).rating)
    metric.reset()
    metric.update(flat)
    assert metric.compute().isnan() and int(metric.failed) == 1


def test_processes_add_up():
    """What torchmetrics does between processes: states are summed, then computed."""
    parts = [JudgeMetric(load_scorer("proxy")) for _ in range(2)]
    for metric, part in zip(parts, images().split(2), strict=True):
        metric.update(part)
    parts[0].merge_state(parts[1])
    whole = JudgeMetric(load_scorer("proxy"))
    whole.update(images())
    torch.testing.assert_close(parts[0].compute(), whole.compute())


def test_the_input_of_each_image_is_passed_on():
    torch.manual_seed(0)
    scorer = RestorationScorer(RestorationJudge(width=8, members=2))
    inputs = images().roll(1, 0)
    pairs = zip(images(), inputs, strict=True)
    wanted = sum(scorer.assess(image, degraded=given).rating for image, given in pairs) / 3
    for judge in (scorer, scorer.model):
        metric = JudgeMetric(judge)
        metric.update(images(), inputs)
        assert float(metric.compute()) == pytest.approx(wanted, abs=1e-4)


def test_it_is_a_citizen_of_torchmetrics():
    metric = pickle.loads(pickle.dumps(JudgeMetric(load_scorer("proxy")))).clone()
    group = torchmetrics.MetricCollection({"quality": metric, "mean": torchmetrics.MeanMetric()})
    assert set(group(images())) == {"quality", "mean"}
    assert metric.higher_is_better and not metric.is_differentiable
    with pytest.raises(TypeError, match="expected a scorer or a model"):
        JudgeMetric("proxy")
