"""Diffusion-DPO: trains on pairs of a better and a worse candidate, relative to the frozen network.

Wallace et al., *Diffusion Model Alignment Using Direct Preference Optimization*, CVPR 2024; pairs
and their weights after DP²O-SR (2025): from the candidates of one input, the best against the
worst, weighted by their gap times the spread of the candidates:

    loss = − w · ln σ(−β [(‖v_w − v_θ‖² − ‖v_w − v_ref‖²) − (‖v_l − v_θ‖² − ‖v_l − v_ref‖²)])

Both candidates of a pair get the same noise and time. Departures: the error is a mean over pixels
(β is larger accordingly), times are those of the sampler, and each term of
the reward is standardised within the candidates of an input before gap and spread are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.finetune.candidates import BlackBoxMethod, Regression, rewarded_candidates
from restoration_guide.finetune.methods import Batch, StepLosses


@dataclass(frozen=True)
class DpoConfig:
    """Settings of the method."""

    candidates: int = 4
    """N candidates of each input."""
    pairs: int = 1
    """Pairs of an input: the best against the worst, the second best against the second worst …"""
    beta: float = 100.0
    """β: how sharply a difference of errors becomes a preference."""

    def __post_init__(self) -> None:
        if not (1 <= self.pairs <= self.candidates // 2 and self.beta > 0):
            raise ValueError(
                "expected 1 ≤ pairs ≤ candidates / 2 and beta > 0, got "
                f"pairs={self.pairs}, candidates={self.candidates}, beta={self.beta}"
            )


class Pairs(NamedTuple):
    """P pairs of candidates, each tensor (P,)."""

    group: Tensor
    """Index of the input."""
    winner: Tensor
    """Index of the better candidate among the input's."""
    loser: Tensor
    weight: Tensor
    """Gap of the rewards times the standard deviation of the input's rewards, > 0."""


def choose_pairs(rewards: Tensor, pairs: int) -> Pairs:
    """The ``pairs`` most unequal pairs of each input.

    >>> choose_pairs(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), pairs=1)[:3]
    (tensor([0]), tensor([1]), tensor([0]))

    Args:
        rewards: (B, N); NaN and infinities take no part.
        pairs: at most this many per input, fewer where fewer rewards are finite. Candidates of
            equal reward make no pair.
    """
    chosen: list[tuple[int, int, int, float]] = []
    for group, row in enumerate(rewards.detach().double().cpu()):
        known = row.isfinite().nonzero().flatten()
        order = known[row[known].argsort(descending=True, stable=True)].tolist()
        spread = float(row[known].std(correction=0)) if len(known) > 1 else 0.0
        for rank in range(min(pairs, len(order) // 2)):
            winner, loser = order[rank], order[-1 - rank]
            gap = float(row[winner] - row[loser])
            if gap > 0:
                chosen.append((group, winner, loser, gap * spread))
    table = torch.tensor(chosen, dtype=torch.float64).reshape(-1, 4).to(rewards.device)
    group, winner, loser = table[:, :3].long().unbind(1)
    return Pairs(group, winner, loser, table[:, 3].float())


def dpo_loss(
    winner_error: Tensor,
    winner_reference_error: Tensor,
    loser_error: Tensor,
    loser_reference_error: Tensor,
    weight: Tensor,
    beta: float,
) -> Tensor:
    """The loss of each pair, (P,); all errors are mean squared errors (P,).

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> dpo_loss(zero, one, one, one, weight=one, beta=1.0)  # −ln σ(1)
    tensor([0.3133])
    """
    better = winner_error - winner_reference_error
    worse = loser_error - loser_reference_error
    return -weight * functional.logsigmoid(-beta * (better - worse))


class Dpo(BlackBoxMethod):
    """Diffusion-DPO on a restorer.

    Candidates are those of the batch, where it has some; otherwise the untuned restorer makes them.
    """

    config: DpoConfig

    def compute_loss(self, batch: Batch, *, generator: torch.Generator) -> StepLosses:
        """A loss per pair."""
        made = batch.candidates
        if made is None:
            with self.tuned.reference():
                made = rewarded_candidates(
                    self.pipe,
                    batch,
                    self.config.candidates,
                    self.rate,
                    generator=generator,
                )
        terms = {name: values.flatten() for name, values in made.terms.items()}
        pairs = choose_pairs(made.reward, self.config.pairs)
        missing = self.config.pairs * len(batch.degraded) - len(pairs.group)
        if not len(pairs.group):
            return StepLosses(batch.degraded.new_empty(0), terms, missing)
        regression = Regression(self.pipe, batch.degraded[pairs.group], self.steps, generator)
        errors = []
        for side in (pairs.winner, pairs.loser):
            clean = made.images[pairs.group, side]
            target = regression.target(clean).float()
            with self.tuned.reference():
                reference = _error(regression.predict(clean), target)
            errors += [_error(regression.predict(clean), target), reference]
        losses = dpo_loss(*errors, weight=pairs.weight, beta=self.config.beta)
        return StepLosses(losses, terms, missing)


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.float() - target).square().flatten(1).mean(1)
