"""Roll-outs of several rounds in TRL's format, and back to one sequence per round for scoring.

At inference a later round does not continue the first conversation: it starts from the question,
the reply and both images (:func:`zoomiqa_core.zoom_iqa.protocol.messages`). A row of a training
batch contains the rounds one after another,

    prompt 1 | reply 1 · prompt 2 · reply 2             "prompt | completion" in TRL's terms
               1111111   00000000   1111111             tool mask: 1 on tokens of the model

with the prompts of later rounds as environment tokens. :func:`unfold` splits the rows into one
sequence per round before the model scores them, so that every token is scored in the context in
which it was sampled, which is the judge's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.sampling import Sampling


class Span(NamedTuple):
    """One round in a row of the batch."""

    row: int
    context: tuple[int, int]
    """Start and end (exclusive) of its prompt, as positions in prompt + completion."""
    reply: tuple[int, int]
    """Start and end of its reply."""


class Unfolded(NamedTuple):
    """A batch of single rounds, and the position of each in the original rows."""

    input_ids: Tensor
    """(N, P + R): prompts padded on the left, replies on the right."""
    attention_mask: Tensor
    length: int
    """R, the length of the longest reply."""
    spans: list[Span]


def draw_replies(
    model: Any, processor: Any, requests: Sequence[Request], sampling: Sampling
) -> list[list[int]]:
    """Sample replies with the judge's decoding; returns their tokens, the end token included.

    Args:
        model: unwrapped, with or without adapters; its training mode is restored.
        processor: its processor.
        requests: equal prompts about the same image object are processed once.
        sampling: how tokens are sampled.

    Raises:
        RuntimeError: the model's output is not finite.
    """
    from peft import PeftModel

    model = model.get_base_model() if isinstance(model, PeftModel) else model
    training = model.training
    judge = LocalVLM(model, processor, sampling=sampling)
    end = processor.tokenizer.eos_token_id
    judge.reads_ratings = False
    judge.end_ids = frozenset([end])  # only one, so that the sampled token is known
    try:
        replies = judge.generate(requests)
    finally:
        model.train(training)
    if not all(reply.finite for reply in replies):
        raise RuntimeError("the model's output is not finite: lower the learning rate")
    return [[*r.ids, end] if len(r.log_probs) > len(r.ids) else list(r.ids) for r in replies]


def read_replies(chains: Sequence[Chain], ids: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Decode the replies like the judge and pass each to its chain."""
    for chain, reply in zip(chains, ids, strict=True):
        text = tokenizer.decode(reply, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        chain.read(text, len(reply))


def find_rounds(attention_mask: Tensor, model_mask: Tensor, prompt_length: int) -> list[Span]:
    """Find the rounds of each row.

    >>> attention = torch.ones(1, 7, dtype=torch.long)
    >>> model_mask = torch.tensor([[1, 1, 0, 0, 1]])  # reply, second prompt, second reply
    >>> find_rounds(attention, model_mask, prompt_length=2)
    [Span(row=0, context=(0, 2), reply=(2, 4)), Span(row=0, context=(4, 6), reply=(6, 7))]

    Args:
        attention_mask: (B, P + C), 0 on padding.
        model_mask: (B, C), 1 on the model's tokens and 0 on the prompts between them.
        prompt_length: P, padding included.

    Raises:
        ValueError: a row has no reply, or padding between its tokens.
    """
    spans = []
    for row in range(len(attention_mask)):
        seen = attention_mask[row].nonzero()[:, 0].tolist()
        own = model_mask[row].tolist()
        start, end = (seen[0], seen[-1] + 1) if seen else (0, 0)
        if end <= prompt_length or len(seen) != end - start:
            raise ValueError(
                f"row {row} has no reply, or padding between its tokens: a roll-out must not be "
                "masked (mask_truncated_completions)"
            )
        context = place = start
        while place < end:
            begin = place
            while begin < end and not (begin >= prompt_length and own[begin - prompt_length]):
                begin += 1
            place = begin
            while place < end and own[place - prompt_length]:
                place += 1
            if place > begin:
                spans.append(Span(row, (context, begin), (begin, place)))
            context = place
    return spans


def unfold(
    input_ids: Tensor,
    attention_mask: Tensor,
    model_mask: Tensor,
    prompt_length: int,
    pad_id: int,
) -> Unfolded:
    """Split rows of several rounds into one sequence per round.

    >>> ids = torch.tensor([[11, 12, 21, 22, 13, 14, 23]])  # prompts 1x, replies 2x
    >>> model_mask = torch.tensor([[1, 1, 0, 0, 1]])
    >>> unfold(ids, torch.ones_like(ids), model_mask, prompt_length=2, pad_id=0).input_ids
    tensor([[11, 12, 21, 22],
            [13, 14, 23,  0]])

    Args:
        input_ids: (B, P + C).
        attention_mask: (B, P + C).
        model_mask: (B, C), 1 on the model's tokens.
        prompt_length: P.
        pad_id: the padding token.
    """
    spans = find_rounds(attention_mask, model_mask, prompt_length)
    before = max(span.context[1] - span.context[0] for span in spans)
    length = max(span.reply[1] - span.reply[0] for span in spans)
    ids = input_ids.new_full((len(spans), before + length), pad_id)
    mask = torch.zeros_like(ids)
    for number, span in enumerate(spans):
        start = before - (span.context[1] - span.context[0])
        whole = slice(span.context[0], span.reply[1])  # a prompt and its reply are adjacent
        stop = start + span.reply[1] - span.context[0]
        ids[number, start:stop] = input_ids[span.row, whole]
        mask[number, start:stop] = 1
    return Unfolded(ids, mask, length, spans)


def fold(values: Tensor, unfolded: Unfolded, rows: int, prompt_length: int, width: int) -> Tensor:
    """Inverse of :func:`unfold` for values of the reply tokens: (N, R) to (B, C), 0 elsewhere.

    >>> ids = torch.tensor([[11, 12, 21, 22, 13, 14, 23]])
    >>> rounds = unfold(ids, torch.ones_like(ids), torch.tensor([[1, 1, 0, 0, 1]]), 2, 0)
    >>> fold(torch.tensor([[-0.1, -0.2], [-0.3, 0.0]]), rounds, 1, prompt_length=2, width=5)
    tensor([[-0.1000, -0.2000,  0.0000,  0.0000, -0.3000]])

    Args:
        values: (N, R), one per token of the longest reply; may have gradients.
        unfolded: the rounds.
        rows: B.
        prompt_length: P.
        width: C.
    """
    out = values.new_zeros(rows, width)
    for number, span in enumerate(unfolded.spans):
        start, end = (place - prompt_length for place in span.reply)
        out[span.row, start:end] = values[number, : end - start]
    return out
