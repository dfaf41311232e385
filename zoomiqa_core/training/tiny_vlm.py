"""Small Qwen2.5-VL models from random weights, of the real classes, with a tokenizer of their own.

What runs on the 7B judge runs on these: the same model, processor and file formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.reasoning import HEADINGS

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISION_TOKENS)
"""As in Qwen2.5-VL, under the same names."""

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}
{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}IMAGE
{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def chat_template(image: str) -> str:
    """Turns as Qwen writes them, without its default system turn.

    What the assistant says is marked, so that a training can learn from that alone.

    Args:
        image: tokens that stand for an image.
    """
    return _CHAT_TEMPLATE.replace("IMAGE", image)


@dataclass(frozen=True)
class TinySize:
    """Size of the model; the defaults make about 200,000 parameters, for tests."""

    hidden: int = 64
    """Width of the language model; a multiple of 4 · heads."""
    layers: int = 2
    heads: int = 4
    vision_hidden: int = 32
    """Width of the vision tower; a multiple of 4 · vision_heads."""
    vision_layers: int = 2
    vision_heads: int = 2
    vocabulary: int = 700
    """Tokens at most, special ones included; 256 bytes and merges learned from the corpus."""
    max_pixels: int = 28 * 28 * 16
    """Largest image, in pixels; larger ones are scaled down. A visual token is 28×28 pixels."""


def build_tiny_vlm(
    size: TinySize | None = None, *, corpus: Iterable[str] = (), seed: int = 0
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """A Qwen2.5-VL with random weights, and its processor.

    Args:
        size: of the model.
        corpus: texts the tokenizer learns its merges from, beside the prompts.
        seed: of the weights. The global generator is left as it was.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    size = size or TinySize()
    processor = build_processor(size, corpus)
    tokens = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    rotary = size.hidden // size.heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": 3 * size.hidden,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": max(1, size.heads // 2),
            "max_position_embeddings": 8192,
            # time, height and width share the rotary pairs as in Qwen2.5-VL, 2 : 3 : 3
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [rotary - 2 * (3 * rotary // 8), *[3 * rotary // 8] * 2],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokens["<|im_end|>"],
            "pad_token_id": tokens["<|endoftext|>"],
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": 3 * size.vision_hidden,
            "num_heads": size.vision_heads,
            "out_hidden_size": size.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [size.vision_layers - 1],
        },
        image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokens["<|im_end|>"]
    model.generation_config.pad_token_id = tokens["<|endoftext|>"]
    return model.eval(), processor


def teach_replies(model: Any, processor: Any, replies: dict[str, float], end: float) -> None:
    """Make a random model answer with whole replies: each becomes one token of about this logit.

    The model is unchanged but for a bias in its last layer. It gives replies that parse, zoom and
    fail without training, for tests and timing.

    Args:
        model: changed in place; it can no longer be saved.
        processor: its tokenizer gains the replies.
        replies: text → logit; those of other tokens are about 0.
        end: logit of the end of the reply.
    """
    tokenizer = processor.tokenizer
    tokenizer.add_tokens(list(replies))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)  # of the new tokens' embeddings
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    head = torch.nn.Linear(model.config.text_config.hidden_size, len(tokenizer), bias=True)
    with torch.no_grad():
        head.weight.copy_(model.get_input_embeddings().weight)
        head.bias.zero_()
        for text, logit in replies.items():
            head.bias[tokenizer.convert_tokens_to_ids(text)] = logit
        head.bias[tokenizer.eos_token_id] = end
    model.lm_head = head.to(model.dtype)


def build_processor(size: TinySize, corpus: Iterable[str] = ()) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor with a byte-level tokenizer trained on prompts and corpus."""
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    pixels = {"shortest_edge": 56 * 56, "longest_edge": size.max_pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=build_tokenizer(size.vocabulary, SPECIAL_TOKENS, corpus),
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=chat_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )


def build_tokenizer(size: int, special: Sequence[str], corpus: Iterable[str] = ()) -> Any:
    """A byte-level tokenizer of Qwen's class, trained on the prompts and a corpus.

    Args:
        size: tokens at most, special ones included.
        special: tokens that stand for no text, with those that begin and end a turn.
        corpus: more texts.
    """
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _train_bpe([*_protocol_texts(), *corpus], size - len(special))
    tokenizer_class: Any = Qwen2Tokenizer
    return tokenizer_class(
        vocab=vocabulary,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=list(special),
        padding_side="left",
    )


def _protocol_texts() -> list[str]:
    region = BUILTIN.region or ""
    answers = [format_answer(3.56), format_answer(2.04, (0.1, 0.25, 0.6, 0.95))]
    headings = [heading.title() for heading in HEADINGS]
    return [BUILTIN.first, BUILTIN.next, region, *BUILTIN.questions, *answers, *headings]


def _train_bpe(texts: list[str], vocabulary: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level BPE; digits stay single tokens, which the rating's read-out relies on."""
    import json

    from tokenizers import Tokenizer, models, trainers
    from transformers import Qwen2Tokenizer

    shape: Any = Qwen2Tokenizer()  # its normaliser and pre-tokeniser
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = shape.backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = shape.backend_tokenizer.pre_tokenizer
    from tokenizers.pre_tokenizers import ByteLevel

    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]
