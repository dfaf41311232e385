"""Sampling of replies, one RNG per chain: a reply is the same alone and in any batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoomiqa_core.zoom_iqa.local.prefix import Prefix, extend, select_rows
from zoomiqa_core.zoom_iqa.sampling import Sampling


class Generated(NamedTuple):
    """One sampled reply."""

    ids: list[int]
    """Token ids, without the end token."""
    log_probs: list[float]
    """Log-probability of each token, and of the end token if there is one, under the unmodified
    distribution (temperature 1, no top-p or top-k)."""
    ended: bool
    """Whether the model ended the reply; otherwise it was cut at ``max_new_tokens``."""
    finite: bool
    """False when the logits became NaN or infinite; the reply is what came before."""
    expected: float | None = None
    """What ``read_rating`` found."""


@torch.inference_mode()
def sample_replies(
    prefix: Prefix,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    end_ids: frozenset[int],
    banned_ids: Sequence[int] = (),
    greedy: Sequence[bool] = (),
    read_rating: Callable[[Prefix, int, int, Sequence[int]], float | None] | None = None,
) -> list[Generated]:
    """Sample one reply per row of the prefix.

    Finished rows are removed from the batch once they are half of it.

    >>> import zoomiqa_core as zi
    >>> from PIL import Image
    >>> from zoomiqa_core.zoom_iqa.chain import Chain
    >>> from zoomiqa_core.zoom_iqa.local.prefix import read_prompts
    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> vlm = zi.load_scorer("tiny").backend
    >>> chain = Chain(Image.new("RGB", (64, 64)), BUILTIN, "How good is this photo?")
    >>> prompt = vlm.encoder.encode(chain.request, {})
    >>> prefix = read_prompts(vlm.family, [prompt, prompt])
    >>> short = Sampling(max_new_tokens=4)
    >>> replies = sample_replies(prefix, [1, 1], short, end_ids=vlm.end_ids)
    >>> len(replies[0].ids), replies[0].ended, replies[0].ids == replies[1].ids  # equal seeds
    (4, False, True)

    Args:
        prefix: from :func:`~zoomiqa_core.zoom_iqa.local.prefix.read_prompts`; modified.
        seeds: one per row.
        sampling: how tokens are sampled.
        end_ids: tokens that end a reply.
        banned_ids: tokens that are never sampled, e.g. image tokens.
        greedy: rows that take the likeliest token each time; none by default.
        read_rating: called with the prefix, a finished row of it, where the reply starts there, and
            the reply's tokens.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    replies = [Generated([], [], False, True) for _ in seeds]
    rows = list(range(len(seeds)))  # index of the reply that each row of the batch belongs to
    active = set(rows)
    process = _logits_processor(sampling, banned_ids)
    likeliest = torch.tensor([*greedy, *[False] * (len(seeds) - len(greedy))])
    start = prefix.ids.shape[1]

    def read(index: int, row: int) -> None:
        if read_rating is not None:
            expected = read_rating(prefix, index, start, replies[row].ids)
            replies[row] = replies[row]._replace(expected=expected)

    for step in range(sampling.max_new_tokens):
        log_probs = prefix.logits.log_softmax(-1)
        tokens = [0] * len(rows)
        finite = prefix.logits.amax(-1).isfinite().tolist()  # NaN and +inf; -inf may be a ban
        uniform = torch.zeros(len(rows), dtype=torch.float64)
        for index, row in enumerate(rows):
            if row in active and finite[index]:
                uniform[index] = torch.rand((), generator=generators[row], dtype=torch.float64)
            elif row in active:
                replies[row] = replies[row]._replace(finite=False)
                active.discard(row)
        if active:
            scores = process(prefix.ids, prefix.logits)
            drawn = draw(scores, uniform)
            if likeliest.any():
                certain = scores.argmax(-1).to(drawn.device)
                drawn = torch.where(likeliest[rows].to(drawn.device), certain, drawn)
            chosen = log_probs.gather(-1, drawn.to(log_probs.device)[:, None])[:, 0].tolist()
            tokens = drawn.tolist()
            for index, row in enumerate(rows):
                if row not in active:
                    continue
                replies[row].log_probs.append(chosen[index])
                if tokens[index] in end_ids:
                    replies[row] = replies[row]._replace(ended=True)
                    active.discard(row)
                    read(index, row)
                else:
                    replies[row].ids.append(tokens[index])
        if not active or step == sampling.max_new_tokens - 1:
            for index, row in enumerate(rows):
                if row in active:
                    read(index, row)
            break
        if len(active) <= len(rows) // 2:
            remaining = [index for index, row in enumerate(rows) if row in active]
            select_rows(prefix, remaining)
            rows = [rows[index] for index in remaining]
            tokens = [tokens[index] for index in remaining]
        extend(prefix, torch.tensor(tokens)[:, None])
    return replies


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token per row by inverting the cumulative distribution function.

    Args:
        logits: (B, V); −inf is never drawn.
        uniform: (B,) fp64 in [0, 1), on the CPU.

    Returns:
        (B,) token ids; on the CPU when the logits are on MPS, which has no fp64.

    >>> logits = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).log()
    >>> draw(logits, torch.tensor([0.6], dtype=torch.float64))
    tensor([2])
    """
    if logits.device.type == "mps":
        logits = logits.cpu()
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Scaled by the last value, which rounding may keep from 1.
    target = (uniform.to(cumulative.device) * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _logits_processor(sampling: Sampling, banned_ids: Sequence[int]) -> Any:
    """A function of (B, L) tokens and (B, V) logits that returns the logits to sample from."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        SuppressTokensLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    steps: list[Any] = []
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if banned_ids:
        steps.append(SuppressTokensLogitsProcessor(list(banned_ids)))
    if sampling.temperature == 0:
        steps.append(TopKLogitsWarper(1))
    elif sampling.temperature != 1:
        steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList(steps)
