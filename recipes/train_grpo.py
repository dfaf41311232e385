"""Train a judge by reinforcement learning: GRPO with roll-outs that zoom.

    python -m recipes.train_grpo --config recipes/configs/train_grpo/default.yaml \
        data=GR_IQA model=runs/sft/judge out=runs/grpo

``data`` is a folder of GR-IQA records, of which image, question, label and true boxes are used;
``model`` a judge from ``recipes.train_sft``. Each reward, KL-Coverage and progressive re-sampling
can be switched off. The run resumes from its folder, which also holds ``bin_shares.png``; the
result is ``out/judge``. It also runs under ``accelerate launch -m recipes.train_grpo …``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from omegaconf import MISSING

from recipes.compose import compose
from zoomiqa_core.data.gr_iqa.records import read_picture, read_records
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training.grpo import Generation
from zoomiqa_core.training.kl_coverage import KLCoverageConfig
from zoomiqa_core.training.policy import Dtype, LoraSettings, load_policy, lora_config
from zoomiqa_core.training.resampling import plot_shares
from zoomiqa_core.training.rewards import RewardConfig
from zoomiqa_core.training.rows import rollout_dataset
from zoomiqa_core.training.trainer_run import LoopSettings, train_to_judge, trainer_arguments
from zoomiqa_core.zoom_iqa.prompts import Prompts, load_prompts
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS


@dataclass(frozen=True)
class Config:
    """Settings of one reinforcement learning."""

    data: str = MISSING
    """Folder of GR-IQA records."""
    model: str = MISSING
    """Folder or hub id of the judge to start from; it is the reference model as well."""
    out: str = "runs/grpo"
    """Run folder."""
    prompts: str = "builtin"
    """``builtin``, ``official`` or a YAML file: the prompts the judge was trained with."""
    images: int = 8
    """Distinct images a step, over all processes; the rank reward compares them: use 8 or more."""
    rollouts: int = 8
    """Roll-outs an image. images · rollouts is a multiple of loop.batch_size · processes."""
    iterations: int = 1
    """Optimiser steps on the same roll-outs."""
    max_rounds: int = MAX_ROUNDS
    """Most rounds of a roll-out; 1 never zooms."""
    max_new_tokens: int = 512
    """Longest reply, tokens."""
    generation: Generation = "judge"
    """``judge``, or ``transformers`` for DeepSpeed's ZeRO-3 and FSDP."""
    beta: float = 1e-3
    """Weight of the plain KL term on all tokens. Above 0 the reference model is loaded, which
    ``kl_coverage`` needs."""
    max_pixels: int | None = None
    """Pixel budget of an image; None for the processor's own."""
    dtype: Dtype = "auto"
    """Of the weights: ``auto``, ``float32`` or ``bfloat16``."""
    attn_implementation: str | None = None
    """Attention by transformers' name, e.g. ``flash_attention_2``; None for the model's default."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """Weights and kinds of the rewards."""
    kl_coverage: KLCoverageConfig = field(default_factory=KLCoverageConfig)
    """Which tokens get an extra KL term."""
    resampling: bool = True
    """Balance the ratings of the drawn images over the training; False keeps their natural shares
    (:mod:`zoomiqa_core.training.resampling`)."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Adapters; ``lora.rank=0`` trains the whole model."""
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(learning_rate=1e-5))
    """Steps, learning rate, checkpoints."""

    def __post_init__(self) -> None:
        if self.images < 1 or self.rollouts < 2 or self.iterations < 1 or self.max_rounds < 1:
            raise ValueError(
                "expected images ≥ 1, rollouts ≥ 2, iterations ≥ 1 and max_rounds ≥ 1, got "
                f"{self.images}, {self.rollouts}, {self.iterations}, {self.max_rounds}"
            )
        if self.kl_coverage.penalises_reference and not self.beta > 0:
            raise ValueError(
                f"kl_coverage.variant={self.kl_coverage.variant} needs the reference model, which "
                "is loaded if beta is above 0"
            )


def gradient_accumulation(config: Config, processes: int) -> int:
    """Forward passes of a process for the roll-outs of one step."""
    rollouts, together = config.images * config.rollouts, config.loop.batch_size * processes
    if rollouts % together:
        raise ValueError(
            f"images · rollouts ({rollouts}) must be a multiple of loop.batch_size · processes "
            f"({config.loop.batch_size} · {processes})"
        )
    return rollouts // together


def rollout_rows(data: str, prompts: Prompts) -> Any:
    """The records' images and labels as rows for the trainer."""
    return rollout_dataset(read_records(data), lambda record: read_picture(data, record), prompts)


def main(arguments: list[str] | None = None) -> None:
    """Train, save."""
    config, resolved = compose(Config, arguments)
    from trl import GRPOConfig

    from zoomiqa_core.training.grpo import ZoomGRPOTrainer

    run = RunFolder(config.out, resolved)
    prompts = load_prompts(config.prompts)
    state = PartialState(cpu=config.loop.cpu)
    args = GRPOConfig(
        **trainer_arguments(config.loop, run),
        gradient_accumulation_steps=gradient_accumulation(config, state.num_processes),
        generation_batch_size=config.images * config.rollouts,
        num_generations=config.rollouts,
        num_iterations=config.iterations,
        max_completion_length=config.max_new_tokens,
        beta=config.beta,
        loss_type="dapo",
    )
    model, processor = load_policy(
        config.model,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        max_pixels=config.max_pixels,
    )
    trainer = ZoomGRPOTrainer(
        model,
        args,
        rollout_rows(config.data, prompts),
        processor,
        rewards=config.rewards,
        kl_coverage=config.kl_coverage,
        resampling=config.resampling,
        prompts=prompts,
        max_rounds=config.max_rounds,
        generation=config.generation,
        peft_config=lora_config(config.lora, model),
    )
    if state.is_main_process:
        plot_shares(trainer.progressive_sampler(), run.path / "bin_shares.png")
    train_to_judge(trainer, run, prompts, seconds=config.loop.seconds)


if __name__ == "__main__":
    main()
