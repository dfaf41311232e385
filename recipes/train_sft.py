"""Train a vision-language model as a judge: supervised fine-tuning on grounded rationales.

    python -m recipes.train_sft --config recipes/configs/train_sft/default.yaml \
        data=GR_IQA model=MODEL out=runs/sft

``data`` is a folder of GR-IQA records (`zoomiqa_core.data.gr_iqa.records`), ``model`` a folder or
hub id of a Qwen2.5-VL or Qwen3-VL. Each round, and each reply about a single region, is a sample
of its own; they are mixed at random. The run resumes from its folder; the result is ``out/judge``,
which ``zoomiqa_core.load_scorer`` loads and ``recipes.train_grpo`` trains further. It also runs
under ``accelerate launch -m recipes.train_sft …``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from recipes.compose import compose
from zoomiqa_core.data.gr_iqa.records import (
    conversation,
    read_picture,
    read_records,
    region_conversation,
)
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training.policy import (
    Dtype,
    LoraSettings,
    freeze_vision,
    load_policy,
    lora_config,
)
from zoomiqa_core.training.sft import Chat, sft_dataset, sft_trainer
from zoomiqa_core.training.trainer_run import LoopSettings, train_to_judge, trainer_arguments
from zoomiqa_core.zoom_iqa.prompts import Prompts, load_prompts


@dataclass(frozen=True)
class Config:
    """Settings of one supervised fine-tuning."""

    data: str = MISSING
    """Folder of GR-IQA records."""
    model: str = MISSING
    """Folder or hub id of the model to start from."""
    out: str = "runs/sft"
    """Run folder."""
    prompts: str = "builtin"
    """``builtin``, ``official`` or a YAML file; saved with the judge."""
    regions: bool = True
    """Train on replies about single regions as well."""
    train_vision: bool = True
    """Train the vision tower as well, if the whole model is trained (``lora.rank=0``)."""
    gradient_accumulation: int = 1
    """Forward passes an optimiser step."""
    max_pixels: int | None = None
    """Pixel budget of an image; None for the processor's own."""
    dtype: Dtype = "auto"
    """Of the weights: ``auto``, ``float32`` or ``bfloat16``."""
    attn_implementation: str | None = None
    """Attention by transformers' name, e.g. ``flash_attention_2``; None for the model's default."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Adapters; ``lora.rank=0`` trains the whole model."""
    loop: LoopSettings = field(default_factory=LoopSettings)
    """Steps, learning rate, checkpoints."""


def chats(data: str, prompts: Prompts, *, regions: bool) -> Any:
    """Every round of every record, and every region's reply, as rows for the trainer."""
    samples = []
    for record in read_records(data):
        samples += [(record, conversation, n + 1) for n in range(len(record.rounds))]
        if regions and prompts.region:
            samples += [(record, region_conversation, n) for n in range(len(record.regions))]

    def chat(sample: tuple[Any, Any, int]) -> Chat:
        record, make, number = sample
        messages, images = make(record, prompts, number, read_picture(data, record))
        return messages, images

    return sft_dataset(samples, chat)


def main(arguments: list[str] | None = None) -> None:
    """Train, save."""
    config, resolved = compose(Config, arguments)
    from trl import SFTConfig

    run = RunFolder(config.out, resolved)
    prompts = load_prompts(config.prompts)
    args = SFTConfig(
        **trainer_arguments(config.loop, run),
        gradient_accumulation_steps=config.gradient_accumulation,
    )
    model, processor = load_policy(
        config.model,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        max_pixels=config.max_pixels,
    )
    if not config.train_vision:
        freeze_vision(model)
    dataset = chats(config.data, prompts, regions=config.regions)
    adapter = lora_config(config.lora, model)
    trainer = sft_trainer(model, args, dataset, processor, peft_config=adapter)
    train_to_judge(trainer, run, prompts, seconds=config.loop.seconds)


if __name__ == "__main__":
    main()
