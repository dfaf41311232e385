"""A judge as a loss: lower for a better image, with a gradient in it."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from zoomiqa_core.assessment import MAX_RATING
from zoomiqa_core.proxy.scorer import ModelScorer


def as_loss(judge: Any) -> JudgeLoss:
    """The loss ``5 − rating`` of images, averaged over the batch.

    A restorer that is trained on one judge alone learns what fools it: add a term that keeps the
    result close to the input or the clean photo, and watch a second judge
    (``restoration_guide.finetune`` does both).

    Args:
        judge: :class:`~zoomiqa_core.QualityProxy`, ``Alarm`` or ``RestorationJudge``, a scorer of
            one of them, a differentiable :class:`~zoomiqa_core.MetricScorer`, or an ensemble of
            such judges. Models are copied and frozen; the loss trains nothing in the judge.

    Raises:
        TypeError: the judge has no gradient, as with vision-language judges.

    >>> import zoomiqa_core as zi
    >>> loss = as_loss(zi.load_scorer("proxy"))
    >>> images = torch.rand(2, 3, 64, 64, requires_grad=True)
    >>> loss(images).backward()
    >>> bool(images.grad.abs().sum() > 0)
    True
    """
    return JudgeLoss(judge)


class JudgeLoss(nn.Module):
    """What :func:`as_loss` returns.

    >>> import zoomiqa_core as zi
    >>> JudgeLoss(zi.QualityProxy.from_pretrained())(torch.rand(1, 3, 64, 64)).shape
    torch.Size([])
    """

    def __init__(self, judge: Any) -> None:
        super().__init__()
        check_differentiable(judge)
        model = judge.model if isinstance(judge, ModelScorer) else judge
        if isinstance(model, nn.Module):
            model = copy.deepcopy(model).eval().requires_grad_(False)
        self.judge = model

    def train(self, mode: bool = True) -> JudgeLoss:
        """Do nothing: the judge stays in evaluation mode inside a model that trains."""
        return self

    def forward(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """``5 − rating``, averaged over the batch; in [0, 4].

        A metric wrapped as a judge is not clamped here, so that its gradient does not end at the
        limits of its range: values beyond them give a loss beyond [0, 4].

        Args:
            images: (B, 3, H, W) in [0, 1].
            degraded: what the images were restored from, for judges that take it; others are asked
                without.

        Raises:
            TypeError, ValueError: not such batches.
            RuntimeError: no gradient reaches the images.
        """
        ratings = batch_ratings(self.judge, images, degraded)
        if images.requires_grad and torch.is_grad_enabled() and not ratings.requires_grad:
            name = getattr(self.judge, "name", type(self.judge).__name__)
            raise RuntimeError(
                f"{name} gives ratings without a gradient in the images, so it cannot be a loss"
            )
        return (MAX_RATING - ratings).mean()


def batch_ratings(judge: Any, images: Tensor, degraded: Tensor | None = None) -> Tensor:
    """Ratings (B,) of a batch with their gradient, by a model or a differentiable scorer.

    Args:
        judge: see :func:`as_loss`.
        images: (B, 3, H, W) in [0, 1].
        degraded: passed on to a judge that takes it.
    """
    if isinstance(judge, nn.Module):
        takes = "degraded" in inspect.signature(judge.forward).parameters
        return (judge(images, degraded) if takes else judge(images)).rating
    if isinstance(judge, ModelScorer):
        return batch_ratings(judge.model, images, degraded)
    return judge.ratings(images, degraded if getattr(judge, "takes_degraded", False) else None)


def check_differentiable(judge: Any) -> None:
    """Refuse a judge without a gradient.

    Raises:
        TypeError: no differentiable judge.
    """
    if isinstance(judge, nn.Module | ModelScorer):
        return
    if not getattr(judge, "differentiable", False) or not hasattr(judge, "ratings"):
        name = getattr(judge, "name", judge)
        raise TypeError(
            f"expected a judge with a gradient in the image, got {name!r}; "
            'use "proxy", "alarm" or "restoration", or wrap a differentiable metric with '
            "MetricScorer(…, differentiable=True)"
        )
