"""The model in training: loaded from a folder, adapted with LoRA or whole, saved as a judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoomiqa_core.training.vision_chunks import join_chunks
from zoomiqa_core.zoom_iqa.local.model_files import model_file
from zoomiqa_core.zoom_iqa.prompts import Prompts, save_prompts

Dtype = Literal["auto", "float32", "bfloat16"]

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Linear layers of the language model; the vision tower rests."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., arXiv 2106.09685)."""

    rank: int = 64
    """0 trains the whole model instead."""
    alpha: int = 128
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Keep it at 0 in GRPO, where it is switched off anyway."""
    targets: str = LORA_TARGETS
    """Regular expression of the adapted layers' names."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "expected rank ≥ 0, alpha ≥ 1 and 0 ≤ dropout < 1, got "
                f"{self.rank}, {self.alpha}, {self.dropout}"
            )


def lora_config(settings: LoraSettings, model: Any) -> Any:
    """Configuration of a new adapter; None for the whole model, or one that has an adapter."""
    from peft import LoraConfig, PeftModel

    if isinstance(model, PeftModel) or settings.rank == 0:
        return None
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )


def load_policy(
    path: str | Path, *, dtype: Dtype = "auto", max_pixels: int | None = None
) -> tuple[Any, Any]:
    """Model and processor for training.

    Args:
        path: folder or hub id of a model, or of a LoRA adapter, whose training then goes on.
        dtype: of the weights.
        max_pixels: pixel budget of an image; it is saved with the processor, so the judge keeps it.

    Raises:
        OSError: no model there.
        ValueError: a pixel budget below the smallest image.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    load = AutoModelForImageTextToText.from_pretrained
    if model_file(path, "config.json"):
        model: Any = load(path, dtype=dtype)
    else:
        from peft import PeftConfig, PeftModel

        base: Any = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
        # is_trainable=False, the default, would train nothing and say nothing
        model = PeftModel.from_pretrained(load(base, dtype=dtype), str(path), is_trainable=True)
    if model.config.model_type == "qwen2_5_vl":
        whole: Any = model if model_file(path, "config.json") else model.get_base_model()
        join_chunks(whole.model.visual)
    processor = AutoProcessor.from_pretrained(path, padding_side="left")
    if max_pixels is not None:
        size = dict(processor.image_processor.size)
        if max_pixels < size["shortest_edge"]:
            raise ValueError(f"max_pixels must be at least {size['shortest_edge']}")
        processor.image_processor.size = {**size, "longest_edge": max_pixels}
    return model, processor


def freeze_vision(model: Any) -> None:
    """Keep the vision tower as it is, but for the mergers that speak to the language model."""
    for name, parameter in model.named_parameters():
        if ".visual." in f".{name}" and "merger" not in name:
            parameter.requires_grad_(False)


def save_judge(model: Any, processor: Any, prompts: Prompts, folder: str | Path) -> Path:
    """Save a folder that ``zoomiqa_core.load_scorer`` loads: adapters are merged into the model.

    Args:
        model: trained, unwrapped; an adapter is unloaded from it.
        processor: its processor.
        prompts: the texts it was trained on.
        folder: made when missing.
    """
    from peft import PeftModel

    folder = Path(folder)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_prompts(prompts, folder)
    return folder
