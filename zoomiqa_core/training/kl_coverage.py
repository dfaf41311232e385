"""KL-Coverage: a KL penalty on confident tokens of above-average roll-outs (arXiv 2601.02918).

Reinforcement learning raises most the probability of tokens that are likely already and whose
roll-out did well; reasoning and ratings then collapse onto one phrase. The paper's Eq. 2 was not
available to us. This follows KL-Cov (Cui et al., arXiv 2505.22617, PRIME-RL):

    c_t = (log π_t − mean log π) (A_t − mean A)       over the candidate tokens
    S   = the largest c_t, a share ``top`` of all valid tokens
    L   = L_GRPO + coef · Σ_{t ∈ S} KL_t / n          n as in the loss (dapo)

Variants (:class:`KLCoverageConfig`) differ in candidates and in KL_t:

=============== =================================================== ==========================
variant         candidates                                          KL_t
=============== =================================================== ==========================
``kl_coverage`` entropy ≥ ``min_entropy`` and both factors > 0      to the reference (k3)
``confident``   both factors > 0                                    to the reference (k3)
``kl_cov``      all valid tokens (as released by PRIME-RL)          abs(log π − log π_old)
=============== =================================================== ==========================

``confident`` selects tokens without a choice: headings and punctuation of mean probability .998,
where the KL is 1e-5 of its mean over all tokens (measured on the bundled small judge). Hence the
entropy floor. ``kl_cov`` also selects unlikely tokens of bad roll-outs (mean probability .019), and
its gradient is zero while π equals π_old: it acts only if roll-outs are used for several steps. The
estimator k3 = e^d − d − 1 with d = log π_ref − log π has the gradient (1 − e^d) ∇log π, which
vanishes only where the policy equals the reference.

Tokens are selected once per generation batch, over the roll-outs of all processes. Departure from
KL-Cov, which selects within each micro-batch: there the selection depends on the batch size, and is
empty for a batch of one roll-out, whose advantages are all equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Base: Any = object  # stands for GRPOTrainer, which is imported where the trainer is made

Variant = Literal["off", "kl_coverage", "confident", "kl_cov"]

_RATING = re.compile(r'"rating"[\sĠ]*:[\sĠ]*"?([+-]?[0-9.]+)')


@dataclass(frozen=True)
class KLCoverageConfig:
    """Which tokens get the extra KL term, and how strongly.

    >>> KLCoverageConfig(variant="kl_cov", top=0.002).penalises_reference
    False
    """

    variant: Variant = "kl_coverage"
    """``off``, or a row of the module's table."""
    top: float = 0.02
    """Share of the valid tokens that may be selected (KL-Cov: 0.002)."""
    coef: float = 1.0
    """Weight of the term."""
    min_entropy: float = 0.2
    """Entropy in nats from which ``kl_coverage`` takes a token to be a choice; a token of
    probability .95 against one other has 0.2. Not tuned."""

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1 or self.coef < 0 or self.min_entropy < 0:
            raise ValueError(
                "expected 0 < top ≤ 1, coef ≥ 0 and min_entropy ≥ 0, got "
                f"{self.top}, {self.coef} and {self.min_entropy}"
            )

    @property
    def penalises_reference(self) -> bool:
        """Whether the KL is taken to the frozen reference, which must then be loaded."""
        return self.variant in ("kl_coverage", "confident")


class Coverage(NamedTuple):
    """The selected tokens, and the covariance they were selected by."""

    selected: Tensor
    """(B, T) bool."""
    covariance: Tensor
    """(B, T), 0 for tokens that are not candidates by validity and entropy."""


def coverage(
    log_probs: Tensor,
    entropies: Tensor,
    advantages: Tensor,
    mask: Tensor,
    config: KLCoverageConfig,
) -> Coverage:
    """Select tokens of a generation batch for the KL term.

    >>> log_probs = torch.tensor([[-0.5, -2.0], [-0.5, -2.0]])
    >>> entropies = torch.tensor([[0.6, 0.7], [0.6, 0.7]])
    >>> advantages = torch.tensor([1.0, -1.0])
    >>> coverage(log_probs, entropies, advantages, torch.ones(2, 2), KLCoverageConfig()).selected
    tensor([[ True, False],
            [False, False]])

    Args:
        log_probs: (B, T), of the policy.
        entropies: (B, T), of its distributions, nats.
        advantages: (B,).
        mask: (B, T), nonzero for valid tokens.
        config: at least one token may be selected. Fewer than ``top`` are if there are fewer
            candidates; none if all advantages are equal.
    """
    valid = mask.bool()
    pool = valid
    if config.variant == "kl_coverage":
        pool = valid & (entropies >= config.min_entropy)
    count = pool.sum().clamp(min=1)
    log_probs = log_probs.detach().float()
    advantages = advantages.detach().float()[:, None].expand_as(log_probs)
    confident = log_probs - log_probs.masked_fill(~pool, 0).sum() / count
    better = advantages - advantages.masked_fill(~pool, 0).sum() / count
    covariance = (confident * better).masked_fill(~pool, 0)
    candidates = pool & (covariance > 0)
    if config.variant != "kl_cov":
        candidates &= (confident > 0) & (better > 0)
    number = min(max(1, int(config.top * int(valid.sum()))), int(candidates.sum()))
    best = covariance.masked_fill(~candidates, -torch.inf).flatten().topk(number).indices
    selected = torch.zeros_like(valid).flatten()
    selected[best] = True
    return Coverage(selected.view_as(valid), covariance)


def coverage_kl(log_probs: Tensor, other: Tensor, variant: Variant) -> Tensor:
    """Divergence of each token from the reference, or from the old policy (``kl_cov``).

    >>> coverage_kl(torch.tensor([-1.0]), torch.tensor([-1.5]), "kl_coverage")
    tensor([0.1065])
    >>> coverage_kl(torch.tensor([-1.0]), torch.tensor([-1.5]), "kl_cov")
    tensor([0.5000])

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


def rating_positions(pieces: Sequence[str]) -> list[bool]:
    """Which tokens of one reply spell its rating, the number after the last ``"rating":``.

    >>> rating_positions(['{"rat', 'ing":', "3", ".", "5", "}"])
    [False, False, True, True, True, False]

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

    TRL loads the reference only if ``beta`` is above 0, so the variants that use it need that; the
    plain KL term of weight ``beta`` stays in the loss.
    """

    kl_coverage = KLCoverageConfig("off")
    _scored: tuple[Tensor, Tensor | None] | None = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._scored = out[0], out[1]
        return out

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.kl_coverage.variant != "off":
            output["coverage_mask"] = self._select_tokens(output)
        return output

    def _select_tokens(self, output: dict[str, Any]) -> Tensor:
        """(B, T) this process's part of the selection over the generation batch."""
        from trl.models.utils import disable_gradient_checkpointing

        checkpointing = self.args.gradient_checkpointing_kwargs
        with torch.no_grad(), disable_gradient_checkpointing(self.model, checkpointing):
            log_probs, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([output["prompt_ids"], output["completion_ids"]], 1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], 1),
                output["completion_ids"].shape[1],
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
            )
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        columns = self.accelerator.pad_across_processes(
            torch.stack([log_probs.float(), entropies.float(), mask.float()], -1), dim=1
        )  # (B, T of the longest, 3)
        everywhere = self.accelerator.gather(columns)
        advantages = self.accelerator.gather(output["advantages"])
        chosen = coverage(
            everywhere[..., 0], everywhere[..., 1], advantages, everywhere[..., 2], self.kl_coverage
        )
        self._log_selection(chosen, everywhere)
        first = self.accelerator.process_index * len(mask)
        return chosen.selected[first : first + len(mask), : mask.shape[1]]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        config = self.kl_coverage
        if config.penalises_reference and "ref_per_token_logps" not in inputs:
            raise ValueError(f"{config.variant} needs the reference model: set beta above 0")
        loss = super()._compute_loss(model, inputs)
        if self._scored is None:
            raise RuntimeError("TRL computed a loss without log-probabilities of the tokens")
        (log_probs, entropies), self._scored = self._scored, None
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        self._log_entropies(mask, entropies, inputs.get("rating_mask"))
        if config.variant == "off":
            return loss
        name = "ref_per_token_logps" if config.penalises_reference else "old_per_token_logps"
        other = inputs.get(name)
        if other is None:  # on-policy: the old policy is the present one
            other = log_probs.detach()
        selected = inputs["coverage_mask"]
        kl = coverage_kl(log_probs, other, config.variant) * selected
        self._mean_metric("kl_coverage/kl", kl.detach().sum(), selected.sum())
        return loss + config.coef * kl.sum() / self._token_count(inputs)

    def _token_count(self, inputs: dict[str, Any]) -> Tensor:
        """Valid tokens of an optimiser step per process, by which the dapo loss divides."""
        count = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self.model.training:
            steps = self.current_gradient_accumulation_steps / self.args.steps_per_generation
            count = count * steps
        return count

    def _log_selection(self, chosen: Coverage, columns: Tensor) -> None:
        """Log over all processes' tokens: (B, T, 3) log-probabilities, entropies and mask."""
        log_probs, entropies, mask = columns.unbind(-1)
        selected = chosen.selected
        values = {
            "selected": selected.sum() / mask.sum().clamp(min=1),
            "covariance": chosen.covariance.sum() / mask.sum().clamp(min=1),
        }
        if selected.any():
            values["probability"] = log_probs[selected].exp().mean()
            values["entropy"] = entropies[selected].mean()
        mode = "train" if self.model.training else "eval"
        for name, value in values.items():
            self._metrics[mode][f"kl_coverage/{name}"].append(float(value))

    def _log_entropies(self, mask: Tensor, entropies: Tensor | None, rating: Tensor | None) -> None:
        if entropies is not None and rating is not None:
            entropies = entropies.detach()
            for name, part in (("rating", mask * rating), ("rationale", mask * (1 - rating))):
                self._mean_metric(f"entropy/{name}", (entropies * part).sum(), part.sum())

    def _mean_metric(self, name: str, total: Tensor, count: Tensor) -> None:
        """Log the sum of total over the sum of count, over all processes; nothing if count is 0."""
        sums = self.accelerator.reduce(torch.stack([total.float(), count.float()]), reduction="sum")
        if sums[1] > 0:
            mode = "train" if self.model.training else "eval"
            self._metrics[mode][name].append((sums[0] / sums[1]).item())
