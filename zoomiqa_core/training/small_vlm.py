"""A small vision-language model around the proxy's trained backbone, built from FastVLM's classes.

The backbone (EfficientNet-Lite0, stride 32) makes 10 × 10 image tokens of 320 × 320 pixels; its
1 × 1 head, which the proxy does not have, and the language model start from random weights. The
blocks stay frozen, so that their maps can be computed once (:mod:`.vision_maps`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.training.tiny_vlm import build_tokenizer, chat_template

if TYPE_CHECKING:
    from transformers import FastVlmForConditionalGeneration, LlavaProcessor

IMAGE_TOKEN = "<image>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_TOKEN)
ARCHITECTURE = "tf_efficientnet_lite0"
STRIDE, HEAD_WIDTH = 32, 1280
"""Of the architecture: pixels per side of a token, and channels of its head."""


@dataclass(frozen=True)
class SmallSize:
    """Size of the model; the vision tower has 3.8 million parameters."""

    hidden: int = 256
    """Width of the language model; a multiple of 2 · heads."""
    layers: int = 5
    heads: int = 4
    vocabulary: int = 1200
    """Tokens at most, special ones included; 256 bytes and merges learned from the corpus."""
    side: int = 320
    """Every image is resized to this side, pixels; a multiple of 32."""

    def __post_init__(self) -> None:
        if self.side % STRIDE or self.side < STRIDE:
            raise ValueError(f"expected a side that is a multiple of {STRIDE}, got {self.side}")


def build_small_vlm(
    size: SmallSize | None = None,
    *,
    corpus: Iterable[str] = (),
    proxy: QualityProxy | None = None,
    seed: int = 0,
) -> tuple[FastVlmForConditionalGeneration, LlavaProcessor]:
    """A FastVLM with the proxy's backbone and a random language model, and its processor.

    >>> model, processor = build_small_vlm(SmallSize(hidden=32, layers=1, heads=2, side=64))
    >>> image = torch.zeros(1, 3, 64, 64)
    >>> tuple(model.model.get_image_features(image).pooler_output.shape)  # 2 × 2 tokens
    (1, 4, 32)

    Args:
        size: of the model.
        corpus: texts the tokenizer learns its merges from, beside the prompts.
        proxy: gives its backbone; None for the bundled proxy.
        seed: of the random weights. The global generator is left as it was.
    """
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration

    size, proxy = size or SmallSize(), proxy or QualityProxy.from_pretrained()
    processor = build_processor(size, proxy, corpus)
    tokens = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    config = FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": ARCHITECTURE,
            "do_pooling": False,
            "hidden_size": HEAD_WIDTH,
            "num_features": HEAD_WIDTH,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(processor.tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": 3 * size.hidden,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": max(1, size.heads // 2),
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokens["<|im_end|>"],
            "pad_token_id": tokens["<|endoftext|>"],
        },
        image_token_index=tokens[IMAGE_TOKEN],
        image_seq_length=(size.side // STRIDE) ** 2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = FastVlmForConditionalGeneration(config)
    tower: Any = model.model.vision_tower.timm_model
    missing, unexpected = tower.load_state_dict(proxy.backbone.state_dict(), strict=False)
    others = [name for name in missing if not name.startswith(("conv_head.", "bn2."))]
    if others or unexpected:
        raise ValueError(
            f"the proxy's backbone is not {ARCHITECTURE}: {[*others, *unexpected][:3]} do not match"
        )
    model.generation_config.eos_token_id = tokens["<|im_end|>"]
    model.generation_config.pad_token_id = tokens["<|endoftext|>"]
    return model.eval(), processor


def build_processor(
    size: SmallSize, proxy: QualityProxy, corpus: Iterable[str] = ()
) -> LlavaProcessor:
    """LLaVA's processor with a byte-level tokenizer trained on prompts and corpus."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    square = {"height": size.side, "width": size.side}
    images = CLIPImageProcessor(
        size=square,
        crop_size=square,
        do_center_crop=False,
        image_mean=proxy.mean.flatten().tolist(),
        image_std=proxy.std.flatten().tolist(),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(size.vocabulary, SPECIAL_TOKENS, corpus),
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE_TOKEN,
        chat_template=chat_template(IMAGE_TOKEN),
    )
