"""A judge as a metric of torchmetrics."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.interop.loss import batch_ratings


class JudgeMetric(Metric):
    """Mean rating over all images, 1–5, for validation loops and ``MetricCollection``.

    Images that cannot be judged are left out of the mean and counted in ``failed``; the mean is NaN
    when none could be judged. It adds up over processes like every torchmetrics metric. For a
    gradient use :func:`~zoomiqa_core.as_loss`.

    Args:
        judge: any scorer, or a model such as :class:`~zoomiqa_core.QualityProxy`, which is copied.
        settings: of ``torchmetrics.Metric``, e.g. ``dist_sync_on_step``.

    >>> import zoomiqa_core as zi
    >>> metric = JudgeMetric(zi.load_scorer("proxy"))
    >>> metric.update(torch.rand(2, 3, 64, 64))
    >>> 1 <= metric.compute() <= 5, int(metric.failed)
    (tensor(True), 0)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = MIN_RATING
    plot_upper_bound = MAX_RATING

    judge: Any
    total: Tensor
    judged: Tensor
    failed: Tensor

    def __init__(self, judge: Any, **settings: Any) -> None:
        super().__init__(**settings)
        is_model = isinstance(judge, nn.Module)
        if not is_model and not callable(getattr(judge, "assess", None)):
            raise TypeError(f"expected a scorer or a model with ratings, got {judge!r}")
        self.judge = copy.deepcopy(judge).eval() if is_model else judge
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("judged", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("failed", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def train(self, mode: bool = True) -> JudgeMetric:
        """Do nothing: the judge stays in evaluation mode inside a model that trains."""
        return self

    def update(self, images: Tensor, degraded: Tensor | None = None) -> None:
        """Judge a batch.

        Args:
            images: (B, 3, H, W) in [0, 1].
            degraded: (B, 3, H, W), the input of each image, for judges that take it.

        Raises:
            TypeError, ValueError: not such batches.
        """
        if isinstance(self.judge, nn.Module):
            with torch.no_grad():
                ratings = batch_ratings(self.judge, images, degraded)
        else:
            ratings = torch.tensor([said.rating for said in self._assess(images, degraded)])
        ratings = ratings.to(self.total)
        rated = ratings.isfinite()
        self.total += ratings[rated].sum()
        self.judged += rated.sum()
        self.failed += (~rated).sum()

    def compute(self) -> Tensor:
        """Mean rating of the images that could be judged."""
        return (self.total / self.judged).float()

    def _assess(self, images: Tensor, degraded: Tensor | None) -> list[Any]:
        if degraded is None or not getattr(self.judge, "takes_degraded", False):
            return self.judge.assess(images)
        pairs = zip(images, degraded, strict=True)
        return [self.judge.assess(image, degraded=given) for image, given in pairs]
