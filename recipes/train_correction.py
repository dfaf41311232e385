"""On-policy correction: learn to rate the image after words of one's own.

    python -m recipes.train_correction --config recipes/configs/train_correction/default.yaml \
        data=GR_IQA model=runs/sft/judge out=runs/correction

A judge after SFT has learnt to rate after the teacher's words, which are true; its own may not be,
and its rating follows them. Here it judges the records' pictures itself. Then the true rating is
put in the place of the one it gave, and only the rating's digits are trained: to be right whatever
the words say. A share of samples without a thought keeps the rating at once as it is. The replies
are kept in ``out/replies.jsonl``; the run resumes from its folder, and the result is ``out/judge``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from omegaconf import MISSING
from PIL import Image

from recipes.compose import compose
from recipes.train_sft import examples
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord
from zoomiqa_core.data.gr_iqa.records import read_picture, read_records
from zoomiqa_core.runs.files import write_text_atomic
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.random import derived_seed
from zoomiqa_core.training.examples import corrected
from zoomiqa_core.training.policy import (
    Dtype,
    LoraSettings,
    freeze_vision,
    load_policy,
    lora_config,
)
from zoomiqa_core.training.reply_targets import TargetSettings
from zoomiqa_core.training.sft import map_collator, sft_trainer
from zoomiqa_core.training.trainer_run import LoopSettings, train_to_judge, trainer_arguments
from zoomiqa_core.training.vision_maps import MapCache, accept_maps
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import Prompts, load_prompts
from zoomiqa_core.zoom_iqa.sampling import Sampling


@dataclass(frozen=True)
class Config:
    """Settings of one correction."""

    data: str = MISSING
    """Folder of GR-IQA records."""
    model: str = MISSING
    """Folder or hub id of the judge after SFT."""
    out: str = "runs/correction"
    """Run folder."""
    prompts: str = "builtin"
    """``builtin``, ``official`` or a YAML file: those of the SFT."""
    pictures: int = 1000
    """Records that are judged, drawn at random; all of them if there are fewer."""
    temperature: float = 0.7
    """Of the judge's own words."""
    max_new_tokens: int = 512
    """Longest reply, tokens."""
    chains_at_once: int = 32
    """Pictures judged together."""
    without_thought: float = 0.4
    """Share of samples that answer at once."""
    targets: TargetSettings = field(default_factory=TargetSettings)
    """Weights and soft labels of the reply's tokens."""
    map_cache: str = ""
    """Folder for the maps of a frozen tower, as in ``recipes.train_sft``."""
    gradient_accumulation: int = 1
    """Forward passes an optimiser step."""
    max_pixels: int | None = None
    """Pixel budget of an image; None for the processor's own."""
    dtype: Dtype = "auto"
    """Of the weights: ``auto``, ``float32`` or ``bfloat16``."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Adapters; ``lora.rank=0`` trains the whole language model."""
    loop: LoopSettings = field(default_factory=LoopSettings)
    """Steps, learning rate, checkpoints."""


def own_replies(
    vlm: LocalVLM,
    records: Sequence[GRIQARecord],
    picture: Callable[[GRIQARecord], Image.Image],
    prompts: Prompts,
    *,
    at_once: int,
    seed: int,
) -> Iterator[tuple[str, list[str]]]:
    """What the judge says about each record, as the record's id and the text of each round.

    Rounds after one without a usable answer are left out, and that one too.
    """
    for start in range(0, len(records), at_once):
        part = records[start : start + at_once]
        chains = [
            Chain(
                picture(record), prompts, record.question, derived_seed(seed, start + n), retries=0
            )
            for n, record in enumerate(part)
        ]
        vlm.run(chains)
        for record, chain in zip(part, chains, strict=True):
            yield record.image_id, [said.text for said in chain.rounds if said.valid]


def main(arguments: list[str] | None = None) -> None:
    """Sample, train, save."""
    config, resolved = compose(Config, arguments)
    from trl import SFTConfig

    run = RunFolder(config.out, resolved)
    prompts = load_prompts(config.prompts)
    seed = config.loop.seed
    args = SFTConfig(
        **trainer_arguments(config.loop, run),
        gradient_accumulation_steps=config.gradient_accumulation,
    )
    model, processor = load_policy(config.model, dtype=config.dtype, max_pixels=config.max_pixels)
    records = read_records(config.data)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [records[n] for n in order[: config.pictures]]

    kept = run.path / "replies.jsonl"
    if not kept.is_file():
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        vlm = LocalVLM(model, processor, sampling=sampling, batch_size=config.chains_at_once)
        said = own_replies(
            vlm,
            chosen,
            lambda record: read_picture(config.data, record),
            prompts,
            at_once=config.chains_at_once,
            seed=seed,
        )
        write_text_atomic(kept, "".join(json.dumps(pair) + "\n" for pair in said))
    lines = kept.read_text(encoding="utf-8").splitlines()
    replies: dict[str, list[str]] = dict(json.loads(line) for line in lines)
    samples = corrected(chosen, replies, config.without_thought, seed=seed)
    print(f"{len(samples)} samples of {len(chosen)} pictures")

    maps = None
    if config.map_cache:
        accept_maps(model)
        maps = MapCache(config.map_cache, model, processor)
    else:
        freeze_vision(model)
    trainer = sft_trainer(
        model,
        args,
        examples(config.data, samples, prompts, maps),
        processor,
        config.targets,
        lengths=[sample.length for sample in samples],
        collate=map_collator(processor) if maps else None,
        peft_config=lora_config(config.lora, model),
    )
    train_to_judge(trainer, run, prompts, seconds=config.loop.seconds)


if __name__ == "__main__":
    main()
