"""Tiny text encoders of the real transformers classes, with tokenizers of their own."""

from __future__ import annotations

import importlib
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

# as a module of unknown types: the annotations of its constructors do not fit their use
transformers: Any = importlib.import_module("transformers")

WIDTH = 32
"""Of the encoders."""


def clip_tokenizer() -> Any:
    """One token per byte."""
    special = ("<|startoftext|>", "<|endoftext|>")
    letters = sorted(ByteLevel.alphabet())
    words = [*special, *letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer() -> Any:
    """One token per letter."""
    letters = "▁abcdefghijklmnopqrstuvwxyz0123456789,."
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return transformers.T5Tokenizer(
        vocab=[*special, *((letter, -2.0) for letter in letters)], extra_ids=0
    )


def clip_encoder(projected: bool = False) -> Any:
    """A text encoder for `clip_tokenizer`, with a projection for SDXL's second and for SD3."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(clip_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(
        config
    ).eval()


def t5_encoder() -> Any:
    config = transformers.T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=WIDTH,
        d_kv=8,
        d_ff=37,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
    )
    return transformers.T5EncoderModel(config).eval()
