"""KL-Coverage: hold the policy to the reference where it is sure and rewarded (arXiv 2601.02918).

Reinforcement sharpens most where a token is likely already and its roll-out did well; reasoning and
scores then collapse onto one phrase. Eq. 2 of the paper was not available; this follows KL-Cov
(Cui et al., arXiv 2505.22617, PRIME-RL):

    c_t = (log π_t − mean log π) (A_t − mean A)          over the valid tokens of the batch
    S   = the largest c_t, a share ``top`` of the valid tokens, among those with both factors > 0
    L   = L_GRPO + coef · Σ_{t ∈ S} KL_t / norm          norm of the loss type

``kl_coverage`` takes KL_t to the frozen reference, by the estimator k3 = e^d − d − 1 with
d = log π_ref − log π. ``kl_cov`` is the released KL-Cov: |log π − log π_old|. On-policy, where
log π = log π_old, its gradient is exactly zero: it acts only on the later steps of a batch that is
used several times. k3 to the reference has the gradient (1 − e^d) ∇log π, which vanishes only where
the policy still is the reference. That is why the paper's variant works in one-step GRPO.

The tokens are chosen among those of one forward pass of one process. Departure from KL-Cov: only
tokens with both factors above 0 are chosen, so that an unlikely token of a bad roll-out, whose
product is positive too, is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Base: Any = object  # stands for GRPOTrainer, which is imported where the trainer is made

Variant = Literal["off", "kl_cov", "kl_coverage"]

_RATING = re.compile(r'"rating"[\sĠ]*:[\sĠ]*"?([+-]?[0-9.]+)')


@dataclass(frozen=True)
class KLCoverageConfig:
    """Which tokens are held back, to what, and how strongly."""

    variant: Variant = "kl_coverage"
    """``off``; ``kl_cov``, to the old policy; ``kl_coverage``, to the reference."""
    top: float = 0.02
    """Share of the valid tokens that may be chosen (KL-Cov: 0.002)."""
    coef: float = 1.0
    """Weight of the term."""

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1 or self.coef < 0:
            raise ValueError(f"expected 0 < top ≤ 1 and coef ≥ 0, got {self.top} and {self.coef}")


class Coverage(NamedTuple):
    """Which tokens are chosen, and the covariance they were chosen by."""

    selected: Tensor
    """(B, T) bool."""
    covariance: Tensor
    """(B, T), 0 where no token is valid."""


def coverage(log_probs: Tensor, advantages: Tensor, mask: Tensor, top: float) -> Coverage:
    """Choose the likely tokens of successful roll-outs.

    Args:
        log_probs: (B, T), of the policy; no gradient flows through the choice.
        advantages: (B,), (B, 1) or (B, T).
        mask: (B, T), nonzero on valid tokens.
        top: share of the valid tokens; at least one may be chosen. Fewer are chosen when fewer have
            both factors above 0, and none when all advantages are equal.
    """
    valid = mask.bool()
    log_probs = log_probs.detach().float()
    if advantages.dim() == 1:
        advantages = advantages[:, None]
    advantages = advantages.detach().float().expand_as(log_probs)
    count = valid.sum().clamp(min=1)
    sure = log_probs - log_probs.masked_fill(~valid, 0).sum() / count
    good = advantages - advantages.masked_fill(~valid, 0).sum() / count
    covariance = (sure * good).masked_fill(~valid, 0)
    candidates = valid & (sure > 0) & (good > 0)
    wanted = max(1, int(top * int(valid.sum())))
    number = min(wanted, int(candidates.sum()))
    best = covariance.masked_fill(~candidates, -torch.inf).flatten().topk(number).indices
    selected = torch.zeros_like(valid).flatten()
    selected[best] = True
    return Coverage(selected.view_as(valid), covariance)


def coverage_kl(log_probs: Tensor, other: Tensor, variant: Variant) -> Tensor:
    """Divergence of each token from the reference (``kl_coverage``) or old policy (``kl_cov``).

    Args:
        log_probs: (B, T), with gradient.
        other: (B, T), of the reference or of the old policy.
        variant: not ``off``.
    """
    log_probs, other = log_probs.float(), other.detach().float()
    if variant == "kl_cov":
        return (log_probs - other).abs()  # torch's gradient of |x| at 0 is 0
    gap = other - log_probs
    return torch.expm1(gap) - gap  # exp(gap) − 1 would round small gaps to 0


def token_weights(
    mask: Tensor,
    loss_type: str,
    *,
    accumulation: float = 1.0,
    items: Tensor | float = 1.0,
    max_length: int = 1,
) -> Tensor:
    """(B, T) weight of each token in TRL's loss, so that the term is weighted as the rest is.

    Args:
        mask: (B, T) valid tokens.
        loss_type: of ``GRPOConfig``.
        accumulation: gradient accumulation steps; 1 in evaluation.
        items: valid tokens of one accumulation window, a process (``dapo``).
        max_length: of a completion (``dr_grpo``).
    """
    mask = mask.float()
    if loss_type in ("grpo", "sapo"):
        return mask / mask.sum(-1, keepdim=True).clamp(min=1) / len(mask) / accumulation
    if loss_type == "bnpo":
        return mask / mask.sum().clamp(min=1) / accumulation
    if loss_type == "dr_grpo":
        return mask / (len(mask) * max_length) / accumulation
    if loss_type in ("dapo", "cispo", "vespo"):
        return mask / items
    if loss_type == "luspo":
        return mask / len(mask) / accumulation
    raise ValueError(f"no normaliser is known for loss_type {loss_type!r}: use dapo")


def rating_positions(pieces: Sequence[str]) -> list[bool]:
    """Which tokens of one reply write its rating: those of the number after the last "rating":.

    Args:
        pieces: of the tokenizer (``convert_ids_to_tokens``), bytes written as characters.
    """
    found = list(_RATING.finditer("".join(pieces)))
    if not found:
        return [False] * len(pieces)
    start, end = found[-1].span(1)
    marks, place = [], 0
    for piece in pieces:
        marks.append(place < end and start < place + len(piece))
        place += len(piece)
    return marks


class KLCoverageMixin(Base):
    """Adds the term to a ``GRPOTrainer``; set :attr:`kl_coverage` after its ``__init__``.

    The reference's log-probabilities are only computed where ``beta`` is not 0, so ``kl_coverage``
    needs a ``beta`` above 0 in the configuration; the plain KL term it would weigh is left out.
    """

    kl_coverage = KLCoverageConfig("off")
    _seen: tuple[Tensor, Tensor | None] | None = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._seen = out[0], out[1]
        return out

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        config = self.kl_coverage
        beta = self.beta
        if config.variant == "kl_coverage":
            if "ref_per_token_logps" not in inputs:
                raise ValueError("kl_coverage needs the reference model: set beta above 0")
            self.beta = 0.0
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        if self._seen is None:
            raise RuntimeError("TRL computed a loss without log-probabilities of the tokens")
        (log_probs, entropies), self._seen = self._seen, None
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        chosen = coverage(log_probs, inputs["advantages"], mask, config.top)
        self._log_coverage(chosen, mask, entropies, inputs.get("rating_mask"))
        if config.variant == "off":
            return loss
        other = inputs.get("old_per_token_logps")
        if config.variant == "kl_coverage":
            other = inputs["ref_per_token_logps"]
        if other is None:  # on-policy: the old policy is the present one
            other = log_probs.detach()
        kl = coverage_kl(log_probs, other, config.variant) * chosen.selected
        term = (kl * self._token_weights(mask, inputs)).sum()
        self._mean_metric("kl_coverage/kl", kl.detach().sum(), chosen.selected.sum())
        return loss + config.coef * term

    def _token_weights(self, mask: Tensor, inputs: dict[str, Any]) -> Tensor:
        training = self.model.training
        steps = float(self.current_gradient_accumulation_steps) if training else 1.0
        items = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if training:
            items = items * steps / self.args.steps_per_generation
        return token_weights(
            mask,
            self.loss_type,
            accumulation=steps,
            items=items,
            max_length=self.max_completion_length,
        )

    def _log_coverage(
        self, chosen: Coverage, mask: Tensor, entropies: Tensor | None, rating: Tensor | None
    ) -> None:
        self._mean_metric("kl_coverage/selected", chosen.selected.sum(), mask.sum())
        self._mean_metric("kl_coverage/covariance", chosen.covariance.sum(), mask.sum())
        if entropies is not None and rating is not None:
            entropies = entropies.detach()
            for name, part in (("rating", mask * rating), ("rationale", mask * (1 - rating))):
                self._mean_metric(f"entropy/{name}", (entropies * part).sum(), part.sum())

    def _mean_metric(self, name: str, total: Tensor, count: Tensor) -> None:
        """Log total over count, of all processes; nothing where there is nothing to count."""
        sums = self.accelerator.reduce(torch.stack([total.float(), count.float()]), reduction="sum")
        if sums[1] > 0:
            mode = "train" if self.model.training else "eval"
            self._metrics[mode][name].append((sums[0] / sums[1]).item())
