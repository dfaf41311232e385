"""Fine-tune a diffusion restorer with a reward, and monitor it on held-out photos.

    python -m recipes.finetune_restorer --config recipes/configs/finetune_restorer/default.yaml \
        photos=PHOTOS out=runs/finetune

``photos`` is a folder of clean photos, degraded on the fly, or with ``pairs`` of degraded and clean
ones (DIV2K, RealSR, or any names by a pattern). Every third photo is held out, unless ``held_out``
names a folder of the same kind. The run resumes from its folder, which holds ``log.jsonl`` (every
term of the reward and its share of the gradient at every step), ``checks.json`` and ``curves.png``
(the held-out images), ``previews/``, and at the end ``before_after.png``, ``adapter/`` (PEFT), and
``pipeline/`` with a model card that describes the run: for the bundled kind of restorer a folder
for ``load_restorer`` with the adapter merged, for another diffusers pipeline what
``load_lora_weights`` takes. The result has the weights of the last check without evidence of reward
hacking. It also runs under ``accelerate launch -m recipes.finetune_restorer …``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from accelerate import Accelerator
from omegaconf import MISSING, OmegaConf

from recipes.compose import compose
from restoration_guide.finetune.candidates import terms_of
from restoration_guide.finetune.dpo import Dpo, DpoConfig
from restoration_guide.finetune.judges import load_reward
from restoration_guide.finetune.loop import Loop, LoopConfig
from restoration_guide.finetune.lora import INNER_LAYERS, TunedNetwork
from restoration_guide.finetune.methods import Method
from restoration_guide.finetune.monitor import Monitor, MonitorConfig
from restoration_guide.finetune.nft import Nft, NftConfig
from restoration_guide.finetune.photo_sets import read_photos
from restoration_guide.finetune.photos import held_out_batch, training_batch
from restoration_guide.finetune.pipeline_call import Trained
from restoration_guide.finetune.reward_backprop import RewardBackprop
from restoration_guide.finetune.rewards import Reward, RewardConfig
from restoration_guide.finetune.rollout import RolloutConfig
from restoration_guide.finetune.run import TuningRun, without
from restoration_guide.finetune.samplers import (
    BuiltinSampler,
    PipelineConfig,
    Sampler,
    load_sampler,
)
from restoration_guide.restorers.base import candidate_generator
from zoomiqa_core import load_scorer
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training.policy import LoraSettings

PRIVATE = (
    "photos",
    "reports",
    "held_out",
    "out",
    "restorer",
    "judge",
    "judge_settings",
    "independent_judge",
    "controlnet",
)
"""Settings that may contain a user's folders, servers and keys; model cards leave them out."""


@dataclass(frozen=True)
class Config:
    """Settings of one fine-tuning."""

    photos: str = MISSING
    """Folder of clean photos, degraded on the fly."""
    pairs: str | None = None
    """The folder holds degraded and clean photos: ``folders`` (``degraded/``, ``clean/``),
    ``div2k``, ``realsr``, or two patterns, ``"lr/{name}x4.png | hr/{name}.png"``."""
    reports: str | None = None
    """Reports of ``restoration-guide best-of-n`` on ``photos``: ``method=dpo`` learns from their
    candidates and ratings instead of making its own."""
    held_out: str | None = None
    """Folder of the same kind for the monitor; None holds out every third photo (not of pairs)."""
    out: str = "runs/finetune"
    """Run folder."""
    restorer: str = "builtin"
    """``builtin``, the folder or hub id of a diffusers pipeline, or what ``sampler`` takes."""
    sampler: str | None = None
    """Import path of a sampler of your own, ``my_package.module:Class`` (:mod:`.samplers`)."""
    train: Trained = "denoiser"
    """Part of a diffusers pipeline that is trained."""
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    """Settings of a pipeline that is not of the bundled kind."""
    judge: str = "proxy"
    """No-reference judge of the terms ``rating``, ``map`` and ``worst_region``: anything
    ``load_scorer`` takes. ``method=backprop`` needs a differentiable one. The term ``restoration``,
    the default reward, comes from the bundled restoration judge."""
    judge_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a judge without a gradient, see ``load_scorer``: a server's ``model``, its
    ``prompts``, and ``config`` (``config: {samples: 4}``, see :class:`.JudgeConfig`)."""
    independent_judge: str | None = "alarm"
    """Judge of the monitor: anything ``load_scorer`` takes that the reward does not use; None
    leaves it out. The alarm shares one of five teachers with the restoration judge."""
    method: Literal["backprop", "nft", "dpo"] = "backprop"
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Roll-outs of ``backprop``; the monitor uses their steps and temperature."""
    nft: NftConfig = field(default_factory=NftConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(8, 16, INNER_LAYERS))
    """``lora.rank=0`` trains all weights."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    crop: int = 96
    """Side of the training crops in pixels."""
    presets: dict[str, float] = field(
        default_factory=lambda: {"mixed": 0.5, "noise_jpeg": 0.2, "blur_noise": 0.1, "x2": 0.2}
    )
    """Share of each degradation of the clean photos; "none" leaves crops undamaged."""
    trackers: list[str] = field(default_factory=list)
    """Experiment trackers of accelerate, such as ``[tensorboard]``, besides ``log.jsonl``."""
    threads: int = 1
    """CPU threads; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        weights = self.reward.weights
        in_sample = [self.judge] * self.reward.needs_judge + ["restoration"] * bool(
            weights.restoration
        )
        if self.independent_judge in in_sample:
            raise ValueError(
                f"independent_judge={self.independent_judge} is a judge of the reward: the monitor "
                "needs another one, such as alarm, or proxy where the reward does not use it"
            )
        if self.pairs is not None and (self.reports is not None or self.held_out is None):
            raise ValueError(
                "pairs need held_out=FOLDER, a folder of other pairs, and take no reports; got "
                f"held_out={self.held_out}, reports={self.reports}"
            )
        if self.sampler is not None and (self.train != "denoiser" or self.method != "backprop"):
            raise ValueError(
                "train and pipeline are settings of diffusers pipelines, and method=nft and dpo of "
                "the bundled kind of restorer; a sampler of your own is trained by backprop"
            )
        if self.method != "backprop" and weights.reference:
            raise ValueError(
                f"reward.weights.reference must be 0 with method={self.method}, whose loss already "
                "stays close to the untuned restorer"
            )
        if self.reports is not None and (self.method != "dpo" or self.held_out is None):
            raise ValueError(
                "reports need method=dpo, and held_out=FOLDER with clean photos for the monitor; "
                f"got method={self.method}, held_out={self.held_out}"
            )


def make_method(sampler: Sampler, tuned: TunedNetwork, reward: Reward, config: Config) -> Method:
    """The method by its name; all but ``backprop`` use the reward as a black box.

    Raises:
        ValueError: a black-box method with a pipeline that is not of the bundled kind.
    """
    if config.method == "backprop":
        return RewardBackprop(sampler, tuned, reward)
    if not isinstance(sampler, BuiltinSampler):
        raise ValueError(
            f"method={config.method} regresses on the forward process of the bundled kind of "
            "restorer; train other pipelines with method=backprop"
        )
    parts = (sampler.pipe, tuned, terms_of(reward))
    if config.method == "nft":
        return Nft(*parts, config.nft, config.rollout.steps)
    return Dpo(*parts, config.dpo, config.rollout.steps)


def main(arguments: list[str] | None = None) -> None:
    """Train, check, stop when the reward is hacked, export."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        cpu=config.loop.cpu,
        log_with=[*config.trackers] or None,
        project_dir=config.out,
    )
    with accelerator.main_process_first():
        run = RunFolder(config.out, resolved)

    sampler = load_sampler(
        config.restorer,
        config.pipeline,
        config.rollout,
        accelerator.device,
        train=config.train,
        sampler=config.sampler,
    )
    photos, others = read_photos(
        config.photos,
        config.held_out,
        config.presets,
        crop=config.crop,
        held_out_crop=config.monitor.side,
        scale=sampler.scale,
        pairs=config.pairs,
        reports=config.reports,
        confidence=config.reward.confidence,
    )
    tuned = TunedNetwork(sampler.network, config.lora, seed=config.loop.seed)
    tuned.network.to(accelerator.device)
    reward = load_reward(
        config.reward,
        accelerator.device,
        judge=config.judge,
        settings=config.judge_settings,
        differentiable=config.method == "backprop",
    )
    method = make_method(sampler, tuned, reward, config)
    independent = config.independent_judge and load_scorer(config.independent_judge)
    seed = config.loop.seed
    held_out = held_out_batch(others, config.monitor.images, config.monitor.side, seed=seed)
    with tuned.reference():
        monitor = Monitor(
            held_out.to(accelerator.device),
            lambda image, number: sampler.restore(image, candidate_generator(seed, number)),
            reward.ratings,
            config.monitor,
            judge=independent or None,
        )
    loop = Loop(
        accelerator,
        tuned,
        method,
        lambda g: training_batch(photos, config.loop.batch_size, config.crop, generator=g),
        config.loop,
    )

    accelerator.init_trackers("finetune_restorer")
    tuning = TuningRun(run, loop, monitor)
    tuning.train()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        public = OmegaConf.to_yaml(OmegaConf.create(without(asdict(config), PRIVATE)))
        tuning.export(sampler, public, config.restorer)
    accelerator.end_training()


if __name__ == "__main__":
    main()
