"""Roll-outs that zoom, for TRL: the rounds of a chain in one row, each scored in its own context.

At inference a later round does not continue the first conversation: it starts from the question,
the reply and both images (:func:`zoomiqa_core.zoom_iqa.protocol.messages`). A row of a training
batch therefore contains the rounds one after another,

    prompt 1 | reply 1 · prompt 2 · reply 2             "prompt | completion" in TRL's words
               1111111   00000000   1111111             tool mask: 1 on the model's own tokens

and the prompts of later rounds are environment tokens, whole and never cut. :func:`unfold` turns
the rows back into one sequence a round before the model scores them, so that every token is scored
in exactly the context it was drawn in, and in which the judge will draw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """First position of its prompt, and one past the last, in prompt + completion."""
    reply: tuple[int, int]
    """The same of its reply."""


class Unfolded(NamedTuple):
    """Rows of rounds as sequences of one round each, and where each of them came from."""

    input_ids: Tensor
    """(N, P + R): prompts padded on the left, replies on the right."""
    attention_mask: Tensor
    length: int
    """R, of the longest reply."""
    spans: list[Span]


@dataclass(frozen=True)
class RenderedPrompt:
    """A request as tokens and pictures."""

    ids: list[int]
    inputs: dict[str, Tensor]
    """``pixel_values`` and ``image_grid_thw`` of its images, in order."""


def render(request: Request, processor: Any) -> RenderedPrompt:
    """Tokens of a request, those of the judge's own ``prompt_encoding``."""
    text = processor.apply_chat_template(
        request.messages, tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[text], images=list(request.images), return_tensors="pt")
    images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    return RenderedPrompt(inputs["input_ids"][0].tolist(), images)


def draw_replies(
    model: Any, processor: Any, requests: Sequence[Request], sampling: Sampling
) -> list[list[int]]:
    """Tokens of the replies, end token included, drawn as the judge draws them.

    Args:
        model: unwrapped, perhaps with adapters; it is in training mode again afterwards.
        processor: its processor.
        requests: those that ask the same about the same image object share one reading.
        sampling: how tokens are drawn.

    Raises:
        RuntimeError: the model's output is not finite.
    """
    from peft import PeftModel

    model = model.get_base_model() if isinstance(model, PeftModel) else model
    training = model.training
    judge = LocalVLM(model, processor, sampling=sampling)
    end = processor.tokenizer.eos_token_id
    judge.end_ids = frozenset([end])  # one alone, so that it is known which token was drawn
    try:
        replies = judge.generate(requests)
    finally:
        model.train(training)
    if not all(reply.finite for reply in replies):
        raise RuntimeError("the model's output is not finite: lower the learning rate")
    return [[*r.ids, end] if len(r.log_probs) > len(r.ids) else list(r.ids) for r in replies]


def read_replies(chains: Sequence[Chain], ids: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Give each chain its reply, decoded as the judge decodes it."""
    for chain, reply in zip(chains, ids, strict=True):
        text = tokenizer.decode(reply, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        chain.read(text, len(reply))


def find_rounds(attention_mask: Tensor, model_mask: Tensor, prompt_length: int) -> list[Span]:
    """The rounds of each row.

    Args:
        attention_mask: (B, P + C), 0 on padding.
        model_mask: (B, C), 1 on the model's own tokens and 0 on the prompts between.
        prompt_length: P, padding included.

    Raises:
        ValueError: a row has no reply, or padding within.
    """
    spans = []
    for row in range(len(attention_mask)):
        seen = attention_mask[row].nonzero()[:, 0].tolist()
        own = model_mask[row].tolist()
        start, end = (seen[0], seen[-1] + 1) if seen else (0, 0)
        if end <= prompt_length or len(seen) != end - start:
            raise ValueError(
                f"row {row} has no reply, or padding within: a roll-out may not be masked "
                "(mask_truncated_completions)"
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
    """One sequence a round; see the module's head.

    Args:
        input_ids: (B, P + C).
        attention_mask: (B, P + C).
        model_mask: (B, C), 1 on the model's own tokens.
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
        whole = slice(span.context[0], span.reply[1])  # a prompt and its reply stand together
        stop = start + span.reply[1] - span.context[0]
        ids[number, start:stop] = input_ids[span.row, whole]
        mask[number, start:stop] = 1
    return Unfolded(ids, mask, length, spans)


def fold(values: Tensor, unfolded: Unfolded, rows: int, prompt_length: int, width: int) -> Tensor:
    """(B, C) from the values (N, R) of the replies; 0 on every other position, with gradients."""
    out = values.new_zeros(rows, width)
    for number, span in enumerate(unfolded.spans):
        start, end = (place - prompt_length for place in span.reply)
        out[span.row, start:end] = values[number, : end - start]
    return out


def images_per_round(
    spans: Sequence[Span], input_ids: Tensor, grids: Tensor, image_id: int, merge: int
) -> list[int]:
    """How many images each round shows; they lie in the rows' order, as the rounds do.

    Raises:
        ValueError: the image tokens of a round are not those of whole images. TRL would train on
            without any image, in silence.
    """
    sizes = (grids.prod(-1) // merge**2).tolist()
    counts, place = [], 0
    for span in spans:
        tokens = int((input_ids[span.row, slice(*span.context)] == image_id).sum())
        first = place
        while tokens > 0 and place < len(sizes):
            tokens -= sizes[place]
            place += 1
        if tokens:
            raise ValueError(
                f"the image tokens of row {span.row} do not match its images: was a prompt cut, or "
                "did the model write an image token?"
            )
        counts.append(place - first)
    if place != len(sizes):
        raise ValueError(f"{len(sizes)} images for the image tokens of {place}")
    return counts
