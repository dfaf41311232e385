"""No-reference metrics of torchmetrics as judges."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from zoomiqa_core.interop.metric_scorer import MetricScorer


def torchmetrics_scorer(
    metric: torchmetrics.Metric,
    *,
    lowest: float | None = None,
    highest: float | None = None,
    **settings: Any,
) -> MetricScorer:
    """Judge with a no-reference metric of torchmetrics; direction and range are its own.

    Args:
        metric: it is copied, and asked about one image at a time.
        lowest: smallest value, where the metric states none (``plot_lower_bound``).
        highest: largest value, where the metric states none (``plot_upper_bound``).
        settings: of :class:`~zoomiqa_core.MetricScorer`.

    Raises:
        TypeError: not a torchmetrics metric.
        ValueError: neither the metric nor the call gives direction or range.

    >>> from torchmetrics.image import TotalVariation
    >>> judge = torchmetrics_scorer(TotalVariation(), highest=20_000)
    >>> judge.name, judge.lower_is_better, judge.differentiable
    ('TotalVariation', True, True)
    >>> print(judge.assess(torch.rand(3, 64, 64)))
    3.39 ± 0.00
    """
    if not isinstance(metric, torchmetrics.Metric):
        raise TypeError(f"expected a torchmetrics.Metric, got {metric!r}; see MetricScorer")
    name = type(metric).__name__
    low = metric.plot_lower_bound if lowest is None else lowest
    high = metric.plot_upper_bound if highest is None else highest
    if low is None or high is None:
        raise ValueError(f"{name} states the range {low} to {high}: give lowest= and highest=")
    if metric.higher_is_better is None and "lower_is_better" not in settings:
        raise ValueError(f"{name} states no direction: give lower_is_better=")
    own = {
        "lower_is_better": not metric.higher_is_better,
        "differentiable": bool(metric.is_differentiable),
        "device": metric.device,
        "name": name,
    }
    return MetricScorer(_OneByOne(metric), lowest=low, highest=high, **{**own, **settings})


class _OneByOne:
    """A metric that keeps sums over images, as a function of each image."""

    def __init__(self, metric: torchmetrics.Metric) -> None:
        self.metric = copy.deepcopy(metric)

    def __call__(self, *inputs: Tensor) -> Tensor:
        values = []
        for each in zip(*(batch.split(1) for batch in inputs), strict=True):
            self.metric.reset()
            values.append(self.metric(*each))
        self.metric.reset()
        return torch.stack(values)
