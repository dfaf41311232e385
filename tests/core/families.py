"""Small random models of the real classes of every family, with processors built here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zoomiqa_core.training.tiny_vlm import CHAT_TEMPLATE, TinySize, build_processor, build_tiny_vlm

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def tokenizer_with(*tokens: str) -> Any:
    """The tiny judge's tokenizer with further special tokens."""
    tokenizer = build_processor(TinySize()).tokenizer
    tokenizer.add_special_tokens({"extra_special_tokens": [*tokenizer.all_special_tokens, *tokens]})
    return tokenizer


def chat_template(image: str) -> str:
    """The tiny judge's chat with another placeholder for an image."""
    return CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", image)


def text_config(tokenizer: Any) -> dict[str, Any]:
    """A small language model for this tokenizer."""
    return {
        **TEXT,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def qwen2_5_vl() -> tuple[Any, Any]:
    return build_tiny_vlm()


def fast_vlm() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        FastVlmConfig,
        FastVlmForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tokenizer_with("<image>")
    config = FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "test_efficientnet",
            "do_pooling": False,
            "hidden_size": 256,
            "model_args": {"output_stride": 16},
        },
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
    )
    side = {"height": 64, "width": 64}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=side, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>"),
    )
    model = FastVlmForConditionalGeneration(config)
    normalise(model.model.vision_tower, torch.rand(8, 3, 64, 64))
    return model, processor


def normalise(tower: torch.nn.Module, images: torch.Tensor) -> None:
    """Set batch normalisation to these images' statistics; at random weights features vanish."""
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        tower.train()(images)


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "fast_vlm": fast_vlm,
}


def build(name: str) -> tuple[Any, Any]:
    """A random model of a family in evaluation mode, and its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model, processor = FAMILIES[name]()
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), processor
