"""Small random models of the real classes of every family, with processors built here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zoomiqa_core.training.tiny_vlm import (
    TinySize,
    build_processor,
    build_tiny_vlm,
    chat_template,
)

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


def siglip(side: int, patch: int) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": patch,
        "vision_use_head": False,
    }


def llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = tokenizer_with("<image>", "<video>")
    grids = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **siglip(28, 7)},
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
        tie_word_embeddings=True,
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size={"height": 28, "width": 28}, image_grid_pinpoints=grids
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    names = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    tokenizer = tokenizer_with(*names)
    roles = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokenizer._set_model_specific_special_tokens(dict(zip(roles, names, strict=True)))
    config = InternVLConfig(
        vision_config=siglip(28, 7),
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        tie_word_embeddings=True,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": 28, "width": 28}, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=chat_template("<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokens = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    tokenizer = tokenizer_with(*tokens, *places)
    config = Idefics3Config(
        vision_config=siglip(28, 7),
        text_config={"model_type": "llama", **text_config(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=chat_template("<image>"),
    )
    return Idefics3ForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    names = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    tokenizer = tokenizer_with(*names)
    roles = ("boi_token", "eoi_token", "image_token")
    tokenizer._set_model_specific_special_tokens(dict(zip(roles, names, strict=True)))
    ids = dict(zip(roles, tokenizer.convert_tokens_to_ids(list(names)), strict=True))
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **siglip(28, 7)},
        text_config={
            **text_config(tokenizer),
            "head_dim": 8,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        mm_tokens_per_image=4,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chat_template("<start_of_image>"),
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, processor


def llava() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tokenizer_with("<image>")
    config = LlavaConfig(
        vision_config={"model_type": "siglip_vision_model", **siglip(28, 7)},
        text_config={"model_type": "llama", **text_config(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"height": 28, "width": 28}, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>"),
    )
    return LlavaForConditionalGeneration(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    model, processor = build_tiny_vlm()
    config: Any = model.config
    text = config.text_config.to_dict()
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": text["hidden_size"], "num_heads": 2}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    made_config: Any = Qwen2VLConfig(
        text_config={key: value for key, value in text.items() if key != "model_type"},
        vision_config={**vision, "mlp_ratio": 2},
        tie_word_embeddings=True,
        **{name: getattr(config, name) for name in names},
    )
    parts = processor.image_processor, processor.tokenizer, processor.video_processor
    made = Qwen2VLProcessor(*parts, chat_template=processor.chat_template)
    return Qwen2VLForConditionalGeneration(made_config), made


OTHERS = {"llava": llava, "qwen2_vl": qwen2_vl}
"""Classes without a family."""
FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "fast_vlm": fast_vlm,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "idefics3": idefics3,
    "gemma3": gemma3,
}


def build(name: str) -> tuple[Any, Any]:
    """A random model of a family in evaluation mode, and its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model, processor = {**FAMILIES, **OTHERS}[name]()
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), processor
