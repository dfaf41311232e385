"""Fitting the restoration judge's committee: loss, fit, calibration of its errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.restoration.measured import Measured
from zoomiqa_core.restoration.model import RestorationJudge, difference_std, errors, to_rating


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit."""

    epochs: int = 80
    """Passes over the families."""
    batch: int = 8
    """Families in one step."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.3
    input_dropout: float = 0.2
    """Share of the steps in which a family's input is hidden."""
    level_weight: float = 0.25
    """Of the rating itself, beside its differences within a family."""
    attack_weight: float = 0.25
    """Of a family of attacked candidates; other families weigh 1."""
    error_weight: float = 0.3
    """Of the likelihood that teaches the standard deviation of differences."""
    seed: int = 0


def families_loss(
    judged: Tensor, target: Tensor, family: Tensor, weight: Tensor, config: FitConfig
) -> Tensor:
    """Loss of the candidates of several families.

    Ranking with a margin that grows with the label gap, differences, the level, and the likelihood
    of the differences' errors, which teaches the standard deviation alone.

    Args:
        judged: (members, N, 2) of :meth:`RestorationJudge.judgements`.
        target: (N,) labels.
        family: (N,) number of each candidate's family.
        weight: (F,) of each family.
        config: weights of the terms.
    """
    rating = to_rating(judged[..., 0])
    i, j = torch.nonzero(torch.triu(family[:, None] == family, 1), as_tuple=True)
    size = torch.bincount(family).float()
    own, pair = weight[family] / size[family], 2 * weight[family[i]] / size[family[i]].square()
    gap, true = rating[:, i] - rating[:, j], target[i] - target[j]
    margin = (0.5 * true.abs()).clamp_max(0.5)
    ranking = functional.softplus((margin - gap * true.sign()) / 0.15) * 0.15
    ranking = ranking * (true.abs() > 0.05)
    difference = functional.smooth_l1_loss(gap, true.expand_as(gap), beta=0.2, reduction="none")
    level = functional.smooth_l1_loss(rating, target.expand_as(rating), beta=0.2, reduction="none")
    error = judged[..., 1].clamp(-4, 2).exp()
    std = difference_std(gap.detach(), error[:, i], error[:, j]).clamp_min(0.02)
    surprise = (gap.detach() - true).square() / (2 * std.square()) + std.log()
    total = (pair * (ranking + difference + config.error_weight * surprise)).sum(1).mean()
    return (total + config.level_weight * (own * level).sum(1).mean()) / weight.sum()


def fit(judge: RestorationJudge, families: list[Measured], config: FitConfig) -> None:
    """Train the committee from its present weights; standardises the statistics first.

    Dropout draws from torch's global generator.
    """
    rows = torch.cat([f.statistics for f in families])[:, :-1]
    judge.centre.copy_(rows.mean(0))
    judge.spread.copy_(rows.std(0) + 1e-3)
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(judge.members.parameters(), weight_decay=config.weight_decay)
    batches = -(-len(families) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.epochs * batches
    )
    judge.train()
    for _ in range(config.epochs):
        for batch in torch.randperm(len(families), generator=generator).tensor_split(batches):
            chosen = [families[i] for i in batch.tolist()]
            sizes = torch.tensor([len(f.rating) for f in chosen])
            family = torch.arange(len(chosen)).repeat_interleave(sizes)
            hidden = torch.rand(len(chosen), generator=generator) < config.input_dropout
            rows = torch.cat([f.statistics for f in chosen])
            rows[:, -1] = (~hidden).float()[family]
            target = torch.cat([f.rating for f in chosen])
            attacked = torch.tensor(["attack" in f.kinds for f in chosen])
            weight = torch.where(attacked, config.attack_weight, 1.0)
            loss = families_loss(judge.judgements(rows), target, family, weight, config)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    judge.eval()


@torch.no_grad()
def calibrate(judge: RestorationJudge, families: list[Measured]) -> float:
    """Scale the standard deviations so that 90 % of these differences lie within 1.645 of them.

    Returns:
        The scale.
    """
    ratios = []
    for family in families:
        judged = judge.judgements(family.statistics)
        rating, error = to_rating(judged[..., 0]).mean(0), errors(judged)
        i, j = torch.triu_indices(len(rating), len(rating), 1)
        gap = rating[i] - rating[j]
        std = difference_std(gap, error[i], error[j]).clamp_min(1e-3)
        ratios.append((gap - family.rating[i] + family.rating[j]).abs() / std)
    judge.scale.fill_(float(torch.cat(ratios).quantile(0.9)) / 1.645)
    return float(judge.scale)
