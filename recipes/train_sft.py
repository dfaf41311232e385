"""Train a vision-language model as a judge: supervised fine-tuning on grounded rationales.

    python -m recipes.train_sft --config recipes/configs/train_sft/default.yaml \
        data=GR_IQA model=MODEL out=runs/sft

``data`` is a folder of GR-IQA records (`zoomiqa_core.data.gr_iqa.records`), ``model`` a folder or
hub id of an image-text-to-text model. Each round, and each reply about a single region, is a sample
of its own; a share of samples has no thought, and in others the adjectives are corrupted, so that
the rating is read off the image (`zoomiqa_core.training.examples`). With ``map_cache`` the frozen
vision tower of a small judge sees each picture once. The run resumes from its folder; the result
is ``out/judge``, which ``zoomiqa_core.load_scorer`` loads, and ``recipes.train_correction`` and
``recipes.train_grpo`` train further. It also runs under
``accelerate launch -m recipes.train_sft …``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from recipes.compose import compose
from zoomiqa_core.data.gr_iqa.records import read_picture, read_records
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training.examples import Mixture, Sample, outline_of, samples_of
from zoomiqa_core.training.policy import (
    Dtype,
    LoraSettings,
    freeze_vision,
    load_policy,
    lora_config,
)
from zoomiqa_core.training.reply_targets import TargetSettings
from zoomiqa_core.training.sft import Example, map_collator, sft_dataset, sft_trainer
from zoomiqa_core.training.trainer_run import LoopSettings, train_to_judge, trainer_arguments
from zoomiqa_core.training.vision_maps import MapCache, accept_maps
from zoomiqa_core.zoom_iqa.crop import crop_image
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
    mixture: Mixture = field(default_factory=Mixture)
    """Kinds of sample."""
    targets: TargetSettings = field(default_factory=TargetSettings)
    """Weights and soft labels of the reply's tokens."""
    map_cache: str = ""
    """Folder for the maps of a frozen EfficientNet tower (``training.vision_maps``); empty runs the
    tower in every step."""
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


def examples(
    data: str, samples: list[Sample], prompts: Prompts, maps: MapCache | None = None
) -> Any:
    """Samples as rows for the trainer, with maps in place of images where they are cached."""

    def example(sample: Sample) -> Example:
        record = sample.record

        def picture() -> Any:
            return read_picture(data, record)

        if maps is None:
            image = picture()
            (chat, crops), ignored = outline_of(sample, prompts, image.size)
            views = [image if crop is None else crop_image(image, crop) for crop in crops]
            return Example(chat, views, ignored)
        size = maps.size(record.image, picture)
        (chat, crops), ignored = outline_of(sample, prompts, size)
        return Example(chat, maps.maps(record.image, picture, crops), ignored)

    return sft_dataset(samples, example)


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
    maps = None
    if config.map_cache:
        accept_maps(model)
        maps = MapCache(config.map_cache, model, processor)
    elif not config.train_vision:
        freeze_vision(model)
    records = read_records(config.data)
    samples = samples_of(records, prompts, config.mixture, seed=config.loop.seed)
    dataset = examples(config.data, samples, prompts, maps)
    adapter = lora_config(config.lora, model)
    trainer = sft_trainer(
        model,
        args,
        dataset,
        processor,
        config.targets,
        lengths=[sample.length for sample in samples],
        collate=map_collator(processor) if maps else None,
        peft_config=adapter,
    )
    train_to_judge(trainer, run, prompts, seconds=config.loop.seconds)


if __name__ == "__main__":
    main()
