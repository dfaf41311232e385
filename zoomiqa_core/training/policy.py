"""The model in training: loading, freezing, LoRA adapters, and saving as a judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch

from zoomiqa_core.zoom_iqa.local.families.registry import family_class
from zoomiqa_core.zoom_iqa.local.model_files import model_file
from zoomiqa_core.zoom_iqa.prompts import Prompts, save_prompts

Dtype = Literal["auto", "float32", "bfloat16"]

LORA_TARGETS = (
    r".*(language_model|text_model)\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Linear layers of the language model; the vision tower gets no adapters."""
PROJECTORS = ("merger", "projector", "connector", "resampler")
"""Parts of names of the modules that map vision features to the language model."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., arXiv 2106.09685).

    >>> LoraSettings(rank=16, alpha=32)
    LoraSettings(rank=16, alpha=32, targets='.*(language_model|text_model)...')
    """

    rank: int = 64
    """0 trains the whole model instead."""
    alpha: int = 128
    """The update is scaled by alpha / rank."""
    targets: str = LORA_TARGETS
    """Regular expression for the names of the adapted layers."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha < 1:
            raise ValueError(f"expected rank ≥ 0 and alpha ≥ 1, got {self.rank}, {self.alpha}")


def lora_config(settings: LoraSettings, model: Any) -> Any:
    """Configuration of a new adapter; None to train the whole model or an adapter it has."""
    from peft import LoraConfig, PeftModel

    if isinstance(model, PeftModel) or settings.rank == 0:
        return None
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )


def load_policy(
    path: str | Path,
    *,
    dtype: Dtype = "auto",
    attn_implementation: str | None = None,
    max_pixels: int | None = None,
) -> tuple[Any, Any]:
    """Load model and processor for training.

    >>> from zoomiqa_core.zoom_iqa.local.model import TINY  # the bundled small judge
    >>> model, processor = load_policy(TINY, max_pixels=128 * 128)
    >>> type(model).__name__, processor.image_processor.size["longest_edge"]
    ('Qwen2_5_VLForConditionalGeneration', 16384)

    Args:
        path: folder or hub id of a model, or of a LoRA adapter, which is then trained further.
        dtype: of the weights.
        attn_implementation: transformers' name, e.g. ``"sdpa"`` or ``"flash_attention_2"``; None
            for the model's default.
        max_pixels: pixel budget of an image; saved with the processor, so that the judge uses it.

    Raises:
        OSError: no model there.
        ValueError: a pixel budget below that of the smallest image.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    def load(folder: str | Path) -> Any:
        return AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn_implementation
        )

    if model_file(path, "config.json"):
        model: Any = load(path)
        whole = model
    else:
        from peft import PeftConfig, PeftModel

        base: Any = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
        # With is_trainable=False, the default, nothing would be trained, without a warning.
        model = PeftModel.from_pretrained(load(base), str(path), is_trainable=True)
        whole = model.get_base_model()
    hold_batch_norms(whole)
    processor = AutoProcessor.from_pretrained(path, padding_side="left")
    if max_pixels is not None:
        family = family_class(whole.config.model_type)
        for name, value in family.pixel_options(processor, max_pixels).items():
            setattr(processor.image_processor, name, value)
    return model, processor


def hold_batch_norms(model: Any) -> None:
    """Keep batch normalisation in evaluation mode, also while the model trains.

    Otherwise an image's features in training would depend on the other images of its batch, and
    differ from those with which replies are generated.

    >>> layer = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    >>> hold_batch_norms(layer)
    >>> layer.train()[0].training
    False
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train = MethodType(_stay_in_evaluation, module)
            module.train()


def _stay_in_evaluation(self: Any, mode: bool = True) -> Any:
    self.training = False
    return self


def freeze_vision(model: Any) -> None:
    """Freeze the vision tower, but not the projector that feeds the language model.

    Args:
        model: of a family in :mod:`zoomiqa_core.zoom_iqa.local.families`, which names the tower.

    Raises:
        ValueError: no family has the model's type, or no parameter belongs to its vision tower.
    """
    names = family_class(model.config.model_type).vision_modules
    frozen = 0
    for name, parameter in model.named_parameters():
        modules = name.split(".")
        if set(names).intersection(modules) and not any(
            part in module for module in modules for part in PROJECTORS
        ):
            parameter.requires_grad_(False)
            frozen += 1
    if not frozen:
        children = sorted({".".join(n.split(".")[:2]) for n, _ in model.named_parameters()})
        raise ValueError(
            f"no vision tower found in {type(model).__name__}: expected a module called "
            f"{' or '.join(names)}, got {', '.join(children)}. Train with train_vision=true"
        )
    hold_batch_norms(model)


def is_sharded(accelerator: Any) -> bool:
    """Whether each process holds only a part of the weights (FSDP, DeepSpeed)."""
    from accelerate.utils import DistributedType

    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def gathered_model(accelerator: Any, model: Any, folder: Path) -> Any:
    """The trained model with all its weights, on the main process; call it on every process.

    Args:
        accelerator: of the trainer.
        model: the prepared model.
        folder: where sharded weights are gathered: a model, or an adapter that names its base.

    Returns:
        The model itself if its weights are not sharded; else the gathered one on the main process
        and None on the others.
    """
    unwrapped = accelerator.unwrap_model(model)
    if not is_sharded(accelerator):
        return unwrapped
    state = accelerator.get_state_dict(model)  # every process takes part
    if not accelerator.is_main_process:
        return None
    # Read back from the folder: adapters cannot be merged into weights that are still sharded.
    unwrapped.save_pretrained(folder, state_dict=state)
    if model_file(folder, "config.json"):
        return type(unwrapped).from_pretrained(folder, dtype=unwrapped.dtype)
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForImageTextToText

    base: Any = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    loaded = AutoModelForImageTextToText.from_pretrained(base, dtype=unwrapped.dtype)
    return PeftModel.from_pretrained(loaded, str(folder))


def save_judge(model: Any, processor: Any, prompts: Prompts, folder: str | Path) -> Path:
    """Save a folder that ``zoomiqa_core.load_scorer`` loads; adapters are merged into the model.

    Args:
        model: trained and unwrapped; an adapter is removed from it.
        processor: its processor.
        prompts: texts it was trained on.
        folder: created if missing.
    """
    from peft import PeftModel

    folder = Path(folder)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_prompts(prompts, folder)
    return folder
