"""Judges of a reward: differentiable modules, or any scorer as a black box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restoration_guide.finetune.rewards import Judge, Reward, RewardConfig
from zoomiqa_core.proxy.scorer import ModelScorer
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.scorer import Scorer, load_scorer
from zoomiqa_core.zoom_iqa.judge import JudgeConfig


def load_judge(
    source: str,
    device: torch.device | str,
    settings: Mapping[str, Any] | None = None,
    *,
    differentiable: bool = True,
) -> Judge:
    """The judge of a reward: a frozen module, or a black box around a scorer.

    >>> image = torch.rand(1, 3, 64, 64, requires_grad=True)
    >>> load_judge("proxy", "cpu")(image).rating.requires_grad
    True

    Args:
        source: anything ``load_scorer`` takes.
        device: where the judge computes.
        settings: further arguments of ``load_scorer``; ``config`` is a mapping.
        differentiable: refuse a judge without a gradient in the image.

    Raises:
        ValueError: the judge has no gradient, and must have one.
    """
    given = dict(settings or {})
    if "config" in given:
        given["config"] = JudgeConfig(**given["config"])
    scorer = load_scorer(source, device=device, **given)
    if isinstance(scorer, ModelScorer):
        return scorer.model.requires_grad_(False)
    if differentiable:
        raise ValueError(
            f"the ratings of judge={source} have no gradient in the image; train with method=nft "
            "or method=dpo"
        )
    return BlackBoxJudge(scorer)


def load_reward(
    config: RewardConfig,
    device: torch.device | str,
    *,
    judge: str = "proxy",
    settings: Mapping[str, Any] | None = None,
    differentiable: bool = True,
) -> Reward:
    """A reward with the judges that its terms need, on a device.

    >>> load_reward(RewardConfig(), "cpu").names
    ('restoration',)

    Args:
        config: terms and weights.
        device: where the judges compute.
        judge: the no-reference judge, as :func:`load_judge` takes it.
        settings: likewise.
        differentiable: likewise.
    """
    rated = restoration = None
    if config.needs_judge:
        rated = load_judge(judge, device, settings, differentiable=differentiable)
    if config.needs_restoration:
        restoration = RestorationJudge.from_pretrained().eval().requires_grad_(False).to(device)
    return Reward(config, rated, restoration)


class BlackBoxRating(NamedTuple):
    """Ratings of B images by a judge without a gradient."""

    rating: Tensor
    """(B,) in [1, 5]; NaN where the judgement failed."""
    rating_std: Tensor
    """(B,), rating units; 0 where the judge gives none, as with a single chain of Zoom-IQA."""


class BlackBoxJudge:
    """Any scorer, such as a local or served Zoom-IQA model, as the judge of a reward.

    It has no gradient and no map. An image whose judgement fails has no reward, and methods skip
    it.

    >>> from zoomiqa_core import load_scorer
    >>> BlackBoxJudge(load_scorer("proxy"))(torch.rand(2, 3, 64, 64)).rating.shape
    torch.Size([2])

    Args:
        scorer: rates all images of a batch in one call.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, images: Tensor) -> BlackBoxRating:
        """Rate (B, 3, H, W) in [0, 1]."""
        assessments = self.scorer.assess(list(images.detach().float().clamp(0, 1).cpu()))
        rating = torch.tensor([each.rating for each in assessments], device=images.device)
        std = torch.tensor([each.rating_std for each in assessments], device=images.device)
        return BlackBoxRating(rating, std.nan_to_num(0.0))
