"""Sampling replies from a vision-language model: each prompt read once, each chain its own chance.

``generate`` of transformers reads a prompt once per reply, samples from the global generator, and
keeps positions on the model between calls. Here a prompt is read once for all its replies, every
reply samples from its own seed, so that it is the same alone and in any batch, and the model keeps
nothing, so that threads can share it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are those of the released protocol."""

    temperature: float = 1.0
    """0 always takes the likeliest token."""
    top_p: float = 0.95
    """Smallest set of likeliest tokens that holds this probability; 1 keeps all."""
    top_k: int = 50
    """Number of likeliest tokens; 0 keeps all."""
    max_new_tokens: int = 1024
    """Of one reply."""
    repetition_penalty: float = 1.0
    """Divides the odds of tokens that the prompt or the reply already has; 1 leaves them. What a
    model's ``generation_config.json`` says (often 1.05 with Qwen2.5-VL) is not taken from there:
    give it here to do as ``generate`` of transformers does."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                "expected temperature ≥ 0, 0 < top_p ≤ 1 and top_k ≥ 0, got "
                f"{self.temperature}, {self.top_p}, {self.top_k}"
            )
        if self.max_new_tokens < 1 or not self.repetition_penalty > 0:
            raise ValueError(
                "expected max_new_tokens ≥ 1 and repetition_penalty > 0, got "
                f"{self.max_new_tokens}, {self.repetition_penalty}"
            )


class VisualFeatures(NamedTuple):
    """What the vision tower makes of one image."""

    tokens: Tensor
    """(tokens, hidden)."""
    deep: tuple[Tensor, ...] = ()
    """(tokens, hidden) for each early layer that is given features too (Qwen3-VL)."""


class Prompt(NamedTuple):
    """A prompt ready for the model."""

    ids: Tensor
    """(L,) token ids; one image token for every visual feature."""
    grids: Tensor
    """(images, 3) temporal, vertical and horizontal patches of each image."""
    features: list[VisualFeatures]
    """Of each image, in the order of their places."""


@dataclass
class Prefix:
    """A batch of read prompts, the model's state after them."""

    cache: Any
    ids: Tensor
    """(B, L) tokens so far; in place of padding a row's own first token."""
    mask: Tensor
    """(B, L) 1 on tokens, 0 on padding (left)."""
    padded: bool
    """Some row has padding. Without any, attention needs no mask and is faster."""
    next_position: Tensor
    """(B,) position of the next token, on all three axes."""
    logits: Tensor
    """(B, V) fp32, of the next token."""


class Generated(NamedTuple):
    """One reply."""

    ids: list[int]
    """Without the end token."""
    log_probs: list[float]
    """Of each token, and of the end token if the reply has one, under the model's own distribution
    (temperature 1, nothing cut off)."""
    ended: bool
    """The model ended the reply; otherwise it was cut at ``max_new_tokens``."""
    finite: bool
    """False when the model's output stopped being numbers; the reply is what came before."""


@torch.inference_mode()
def read_prompts(model: Any, prompts: Sequence[Prompt], pad_id: int) -> Prefix:
    """Run the prompts through the model, left-padded to one length."""
    from zoomiqa_core.zoom_iqa.local.kv_cache import new_cache

    device = model.device
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), length), pad_id)
    seen, mask = ids.clone(), torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.ids) :] = prompt.ids
        mask[row, length - len(prompt.ids) :] = 1
        seen[row] = torch.where(mask[row] > 0, ids[row], prompt.ids[0])
    image_tokens = (ids == model.config.image_token_id).long()
    grids = torch.cat([prompt.grids for prompt in prompts])
    positions, _ = model.model.get_rope_index(
        ids, mm_token_type_ids=image_tokens, image_grid_thw=grids, attention_mask=mask
    )
    features = [feature for prompt in prompts for feature in prompt.features]
    mask, padded = mask.to(device), not bool(mask.all())
    cache = new_cache()
    out = model(
        input_ids=ids.to(device),
        attention_mask=mask if padded else None,
        position_ids=positions.to(device),
        mm_encoder_outputs={"image": _encoder_output(model, features)},
        use_cache=True,
        logits_to_keep=1,
        **{_cache_name(model): cache},
    )
    next_position = positions.amax((0, 2)).to(device) + 1
    logits = out.logits[:, -1].float()
    return Prefix(cache, seen.to(device), mask, padded, next_position, logits)


@torch.inference_mode()
def extend(model: Any, prefix: Prefix, ids: Tensor) -> Tensor:
    """Append (B, T) tokens to every row; the prefix moves on. Returns (B, T, V) fp32 logits."""
    ids = ids.to(prefix.mask.device)
    prefix.ids = torch.cat([prefix.ids, ids], 1)
    prefix.mask = torch.cat([prefix.mask, torch.ones_like(ids)], 1)
    steps = torch.arange(ids.shape[1], device=ids.device)
    positions = prefix.next_position[:, None] + steps
    logits = model(
        input_ids=ids,
        attention_mask=prefix.mask if prefix.padded else None,
        position_ids=positions.expand(3, -1, -1),
        use_cache=True,
        **{_cache_name(model): prefix.cache},
    ).logits.float()
    prefix.next_position = prefix.next_position + ids.shape[1]
    prefix.logits = logits[:, -1]
    return logits


def select_rows(prefix: Prefix, rows: Sequence[int]) -> None:
    """Keep these rows of the batch, in this order; a row may be taken more than once."""
    index = torch.tensor(rows, device=prefix.mask.device)
    prefix.cache.batch_select_indices(index)
    prefix.ids = prefix.ids[index]
    prefix.mask = prefix.mask[index]
    prefix.padded = not bool(prefix.mask.all())
    prefix.next_position = prefix.next_position[index]
    prefix.logits = prefix.logits[index]


@torch.inference_mode()
def sample_replies(
    model: Any,
    prefix: Prefix,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    end_ids: frozenset[int],
    banned_ids: Sequence[int] = (),
) -> list[Generated]:
    """Sample one reply per row of the prefix, which is used up.

    Finished rows leave the batch once they are half of it.

    Args:
        model: of the prefix.
        prefix: from :func:`read_prompts`.
        seeds: one a row.
        sampling: how tokens are drawn.
        end_ids: tokens that end a reply.
        banned_ids: tokens that never occur in one, e.g. those that stand for images.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    replies = [Generated([], [], False, True) for _ in seeds]
    rows = list(range(len(seeds)))  # the reply each row of the batch belongs to
    open_rows = set(rows)
    warp = _warper(sampling, banned_ids)
    for step in range(sampling.max_new_tokens):
        log_probs = prefix.logits.log_softmax(-1)
        drawn = [0] * len(rows)
        finite = prefix.logits.amax(-1).isfinite().tolist()  # NaN and +inf; -inf may be a ban
        uniform = torch.zeros(len(rows), dtype=torch.float64)
        for place, row in enumerate(rows):
            if row in open_rows and finite[place]:
                uniform[place] = torch.rand((), generator=generators[row], dtype=torch.float64)
            elif row in open_rows:
                replies[row] = replies[row]._replace(finite=False)
                open_rows.discard(row)
        if open_rows:
            chosen = draw(warp(prefix.ids, prefix.logits), uniform.to(log_probs.device))
            said = log_probs.gather(-1, chosen[:, None])[:, 0].tolist()
            drawn = chosen.tolist()
            for place, row in enumerate(rows):
                if row not in open_rows:
                    continue
                replies[row].log_probs.append(said[place])
                if drawn[place] in end_ids:
                    replies[row] = replies[row]._replace(ended=True)
                    open_rows.discard(row)
                else:
                    replies[row].ids.append(drawn[place])
        if not open_rows or step == sampling.max_new_tokens - 1:
            break
        if len(open_rows) <= len(rows) // 2:
            kept = [place for place, row in enumerate(rows) if row in open_rows]
            select_rows(prefix, kept)
            rows, drawn = [rows[place] for place in kept], [drawn[place] for place in kept]
        extend(model, prefix, torch.tensor(drawn)[:, None])
    return replies


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token per row by inversion of its distribution function.

    Args:
        logits: (B, V); −inf never drawn.
        uniform: (B,) fp64 in [0, 1).

    Returns:
        (B,) token ids.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Scaled by the last value, which rounding may keep from 1.
    target = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def encode_images(model: Any, pixel_values: Tensor, grids: Tensor) -> list[VisualFeatures]:
    """Run the vision tower over the patches of several images."""
    with torch.inference_mode():
        out = model.model.get_image_features(
            pixel_values.to(model.device, model.dtype), grids.to(model.device), return_dict=True
        )
    deep = getattr(out, "deepstack_features", None) or []
    return [VisualFeatures(*parts) for parts in _by_image(out.pooler_output, deep)]


def vision_token_ids(config: Any) -> list[int]:
    """Tokens that stand for images and videos; no reply may hold one.

    Args:
        config: of a Qwen2.5-VL or Qwen3-VL.
    """
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return [token for name in names if (token := getattr(config, name, None)) is not None]


def _by_image(pooled: Sequence[Tensor], deep: Sequence[Sequence[Tensor]]) -> list[tuple]:
    return [(tokens, tuple(layer[image] for layer in deep)) for image, tokens in enumerate(pooled)]


def _encoder_output(model: Any, features: Sequence[VisualFeatures]) -> Any:
    """The features in the form in which the model hands them from its vision tower."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tokens: Any = tuple(feature.tokens for feature in features)
    out: Any = BaseModelOutputWithPooling(pooler_output=tokens)
    if features and features[0].deep:
        layers = zip(*(f.deep for f in features), strict=True)
        out.deepstack_features = [tuple(layer) for layer in layers]
    return out


def _cache_name(model: Any) -> str:
    """transformers renamed the argument in 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _warper(sampling: Sampling, banned_ids: Sequence[int]) -> Any:
    """A function of (B, L) tokens so far and (B, V) logits that gives the logits to draw from."""
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
