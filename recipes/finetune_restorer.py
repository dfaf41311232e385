"""Fine-tune the diffusion restorer towards a reward, watched on held-out photos.

    python -m recipes.finetune_restorer --config recipes/configs/finetune_restorer/draft1.yaml \
        photos=PHOTOS out=runs/finetune

``photos`` is a folder of clean photos, degraded on the fly; with ``paired=true`` it holds
``degraded/`` and ``clean/``. Every third photo is held out, unless ``held_out`` names a folder of
the same kind. The run resumes from its folder, which holds ``log.jsonl`` (every term of the reward
at every step), ``checks.json`` and ``curves.png`` (the held-out images), ``previews/``, and at the
end ``before_after.png``, ``adapter/`` (PEFT), and ``pipeline/`` with a model card that explains the
run: of the bundled kind of restorer the adapter merged, a folder for ``load_restorer``; of another
diffusers pipeline what ``load_lora_weights`` takes. What is kept is the last check without evidence
against it. The same under ``accelerate launch -m recipes.finetune_restorer …``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import MISSING, OmegaConf
from rich.progress import Progress
from torchvision.utils import make_grid

from recipes.compose import compose
from restoration_guide.finetune.candidates import BlackBoxJudge, terms_of
from restoration_guide.finetune.card import model_card, verdict
from restoration_guide.finetune.checkpoints import (
    checkpoint_steps,
    keep_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from restoration_guide.finetune.dpo import Dpo, DpoConfig
from restoration_guide.finetune.loop import Loop, LoopConfig
from restoration_guide.finetune.lora import EVERY_LAYER, TunedNetwork
from restoration_guide.finetune.methods import Method
from restoration_guide.finetune.monitor import Check, Monitor, MonitorConfig
from restoration_guide.finetune.nft import Nft, NftConfig
from restoration_guide.finetune.photos import (
    DegradedPhotos,
    PairedPhotos,
    Photos,
    held_out_batch,
    split_photos,
    training_batch,
)
from restoration_guide.finetune.pictures import draw_before_after, draw_curves
from restoration_guide.finetune.reports import ReportedPhotos
from restoration_guide.finetune.reward_backprop import RewardBackprop
from restoration_guide.finetune.rewards import Judge, Reward, RewardConfig
from restoration_guide.finetune.rollout import RolloutConfig
from restoration_guide.finetune.samplers import (
    BuiltinSampler,
    PipelineConfig,
    Sampler,
    load_sampler,
)
from restoration_guide.restorers.base import candidate_generator
from zoomiqa_core import load_scorer
from zoomiqa_core.images.sources import find_images, save_png
from zoomiqa_core.proxy.scorer import ProxyScorer
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training.policy import LoraSettings
from zoomiqa_core.zoom_iqa.judge import JudgeConfig

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
"""Settings, at any depth, that may name a user's folders, servers and keys."""


@dataclass(frozen=True)
class Config:
    """Settings of one fine-tuning."""

    photos: str = MISSING
    """Folder of clean photos, degraded on the fly."""
    paired: bool = False
    """The folder holds ``degraded/`` and ``clean/`` instead, whose images share their names."""
    reports: str | None = None
    """Reports of ``restoration-guide best-of-n`` on ``photos``, whose candidates and ratings
    ``method=dpo`` learns from instead of making its own."""
    held_out: str | None = None
    """Folder of the same kind for the monitor; None holds every third photo out (not of pairs)."""
    out: str = "runs/finetune"
    """Run folder."""
    restorer: str = "builtin"
    """``builtin``, or the folder or hub id of a diffusers pipeline."""
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    """Of a pipeline that is not of the bundled kind."""
    judge: str = "proxy"
    """Of the reward, anything ``load_scorer`` takes. ``method=backprop`` needs one with a gradient:
    ``proxy``, ``alarm``, or the folder of a ``QualityProxy``."""
    judge_settings: dict[str, Any] = field(default_factory=dict)
    """Of a judge without a gradient, see ``load_scorer``: a server's ``model``, its ``prompts``,
    how it is asked (``config: {samples: 4}``, of :class:`.JudgeConfig`)."""
    independent_judge: str | None = "alarm"
    """Of the monitor, anything ``load_scorer`` takes, trained on other supervision and never the
    reward's own; None has none."""
    method: Literal["backprop", "nft", "dpo"] = "backprop"
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Of ``backprop``; its steps and temperature are also the monitor's."""
    nft: NftConfig = field(default_factory=NftConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(8, 16, 0.0, EVERY_LAYER))
    """``lora.rank=0`` trains all weights."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    crop: int = 96
    """Side of the training crops in pixels."""
    presets: dict[str, float] = field(
        default_factory=lambda: {"mixed": 0.5, "noise_jpeg": 0.2, "blur_noise": 0.1, "x2": 0.2}
    )
    """Share of each degradation of the clean photos; "none" leaves crops as they are."""
    trackers: list[str] = field(default_factory=list)
    """Of accelerate, such as ``[tensorboard]``, beside ``log.jsonl``."""
    threads: int = 1
    """CPU threads; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        if self.judge == self.independent_judge:
            raise ValueError(
                f"judge and independent_judge are both {self.judge!r}: the monitor needs another "
                "one than the reward, such as independent_judge=proxy with judge=alarm"
            )
        if self.paired and self.reports is not None:
            raise ValueError("paired photos and reports are two sources; give one of them")
        if self.method != "backprop" and self.reward.weights.reference:
            raise ValueError(
                f"reward.weights.reference must be 0 with method={self.method}, whose loss holds "
                "on to the untuned restorer itself"
            )
        if self.paired and self.held_out is None:
            raise ValueError("paired=true needs held_out=FOLDER, a folder of other pairs")
        if self.reports is not None and (self.method != "dpo" or self.held_out is None):
            raise ValueError(
                "reports are what method=dpo learns from, and want held_out=FOLDER, clean photos "
                f"for the monitor; got method={self.method}, held_out={self.held_out}"
            )


def read_photos(config: Config) -> tuple[Photos, Photos]:
    """Training and held-out photos."""
    crop, side = config.crop, config.monitor.side
    if config.paired and config.held_out is not None:
        return (
            PairedPhotos(config.photos, min_side=crop),
            PairedPhotos(config.held_out, min_side=side),
        )
    if config.reports is not None and config.held_out is not None:
        others = find_images([config.held_out])
        return (
            ReportedPhotos(
                config.reports,
                config.photos,
                min_side=crop,
                confidence=config.reward.confidence,
            ),
            DegradedPhotos(others, config.presets, min_side=side),
        )
    paths = find_images([config.photos])
    if config.held_out is None:
        paths, others = split_photos(paths)
    else:
        others = find_images([config.held_out])
    return (
        DegradedPhotos(paths, config.presets, min_side=crop),
        DegradedPhotos(others, config.presets, min_side=side),
    )


def load_judge(config: Config, device: torch.device) -> Judge:
    """The judge of the reward: a module that is not trained, or a black box.

    Raises:
        ValueError: ``method=backprop`` with a judge that has no gradient.
    """
    settings = dict(config.judge_settings)
    if "config" in settings:
        settings["config"] = JudgeConfig(**settings["config"])
    scorer = load_scorer(config.judge, device=device, **settings)
    if isinstance(scorer, ProxyScorer):
        return scorer.model.requires_grad_(False)
    if config.method == "backprop":
        raise ValueError(
            f"the ratings of judge={config.judge} have no gradient in the image; learn from it by "
            "method=nft or method=dpo"
        )
    return BlackBoxJudge(scorer)


def make_method(sampler: Sampler, tuned: TunedNetwork, reward: Reward, config: Config) -> Method:
    """The method by its name; all but ``backprop`` see the reward as a black box.

    Raises:
        ValueError: a method that needs the bundled kind's forward process, of another pipeline.
    """
    if config.method == "backprop":
        return RewardBackprop(sampler, tuned, reward)
    if not isinstance(sampler, BuiltinSampler):
        raise ValueError(
            f"method={config.method} regresses on the forward process of the bundled kind of "
            "restorer; other pipelines learn by method=backprop"
        )
    if config.method == "nft":
        return Nft(sampler.pipe, tuned, terms_of(reward), config.nft, reward.scale)
    return Dpo(sampler.pipe, tuned, terms_of(reward), config.dpo, reward.scale)


def main(arguments: list[str] | None = None) -> None:
    """Train, watch, stop if need be, export."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        cpu=config.loop.cpu,
        mixed_precision=config.loop.mixed_precision,
        log_with=[*config.trackers],
        project_dir=config.out,
    )
    with accelerator.main_process_first():
        run = RunFolder(config.out, resolved)
    photos, others = read_photos(config)

    sampler = load_sampler(config.restorer, config.pipeline, config.rollout, accelerator.device)
    tuned = TunedNetwork(sampler.network, config.lora, seed=config.loop.seed)
    tuned.network.to(accelerator.device)
    if config.loop.mixed_precision != "no":
        if not isinstance(sampler, BuiltinSampler):
            raise ValueError(
                "mixed_precision is of the bundled kind of restorer; the weights of another "
                "pipeline are held, and run, in pipeline.dtype"
            )
        # wraps the network's forward in autocast, in place
        accelerator.prepare_model(tuned.network, evaluation_mode=True)
    judge = load_judge(config, accelerator.device)
    method = make_method(sampler, tuned, Reward(judge, config.reward), config)
    independent = config.independent_judge and load_scorer(config.independent_judge)
    with tuned.reference():
        monitor = Monitor(
            held_out_batch(
                others, config.monitor.images, config.monitor.side, seed=config.loop.seed
            ).to(accelerator.device),
            lambda image, number: sampler.restore(
                image, candidate_generator(config.loop.seed, number)
            ),
            judge,
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

    folder = run.path / "checkpoints"
    checks: list[Check] = []
    spent = {"seconds": 0.0, "cpu_seconds": 0.0}
    if steps := checkpoint_steps(folder):
        state = load_checkpoint(folder, steps[-1])
        loop.load(state["loop"])
        checks = [Check(**check) for check in state["checks"]]
        if accelerator.is_main_process:
            for record in run.rewind(loop.step)[-1:]:
                spent = {name: record[name] for name in spent}
    else:
        terms = loop.calibrate()
        if not torch.isfinite(terms["reward"]).any():
            raise ValueError(
                f"none of {len(terms['reward'])} images has a finite reward: does the judge "
                f"{config.judge} answer?"
            )

    def save() -> None:
        if accelerator.is_main_process:
            state = {"loop": loop.state(), "checks": [check.to_dict() for check in checks]}
            save_checkpoint(folder, loop.step, state)
            keep_checkpoints(folder, {loop.step, last_honest(checks)})

    def look() -> None:
        found: list[Any] = [None]
        if accelerator.is_main_process:
            with loop.kept():
                found = [monitor.look(loop.step)]
        checks.extend(broadcast_object_list(found))  # one verdict, or processes would part
        if accelerator.is_main_process:
            write_text_atomic(run.path / "checks.json", to_json([c.to_dict() for c in checks]))
            rows = [monitor.batch.degraded, monitor.untuned, monitor.images]
            rows += [] if monitor.batch.truth is None else [monitor.batch.truth]
            shown = min(6, config.monitor.images)
            grid = make_grid(torch.cat([row[:shown].cpu() for row in rows]), nrow=shown)
            save_png(grid, run.path / "previews" / f"step-{loop.step:06d}.png")
            print(f"step {loop.step}: {checks[-1].reason}")

    if not checks:
        look()
        save()
    accelerator.init_trackers("finetune_restorer")
    began, cpu = time.perf_counter(), time.process_time()
    with Progress(disable=not (sys.stderr.isatty() and accelerator.is_main_process)) as progress:
        bar = progress.add_task("fine-tuning", total=config.loop.steps, completed=loop.step)
        while loop.step < config.loop.steps and not (checks[-1].hacked and config.monitor.stop):
            record = loop.take_step()
            record |= {
                "seconds": round(spent["seconds"] + time.perf_counter() - began, 2),
                "cpu_seconds": round(spent["cpu_seconds"] + time.process_time() - cpu, 2),
            }
            if accelerator.is_main_process:
                run.log(record)
            accelerator.log({k: v for k, v in record.items() if v is not None}, step=loop.step)
            if loop.step % config.monitor.every == 0 or loop.step == config.loop.steps:
                look()
                save()
            progress.update(bar, completed=loop.step)

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        export(run, config, loop, monitor, sampler, checks)
    accelerator.end_training()


def last_honest(checks: list[Check]) -> int:
    """Step of the last check without evidence against it; the start is honest."""
    return max((check.step for check in checks if check.honest), default=0)


def public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a model card may say of them: all but :data:`PRIVATE`."""
    return {
        name: public(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in PRIVATE
    }


def export(
    run: RunFolder,
    config: Config,
    loop: Loop,
    monitor: Monitor,
    sampler: Sampler,
    checks: list[Check],
) -> None:
    """Go back to the weights that are kept, and write pictures, adapter, pipeline and card."""
    kept = last_honest(checks) if config.monitor.stop else loop.step
    skipped_steps = loop.skipped_steps  # of the whole run, not up to what is kept
    loop.load(load_checkpoint(run.path / "checkpoints", kept)["loop"])
    loop.tuned.load(dict(zip(loop.tuned.names, loop.kept_weights(), strict=True)))
    draw_curves(run.records(), checks, kept, run.path / "curves.png")
    with torch.no_grad():
        after = monitor.restored()
    draw_before_after(
        monitor.batch,
        monitor.untuned,
        after,
        monitor.start,
        monitor.measure(after),
        run.path / "before_after.png",
    )
    folder = run.path / "pipeline"
    if loop.tuned.peft is not None:
        loop.tuned.save_adapter(run.path / "adapter")
    how = sampler.save(loop.tuned, folder)
    text = model_card(
        checks,
        kept,
        how,
        OmegaConf.to_yaml(OmegaConf.create(public(asdict(config)))),
        images=config.monitor.images,
        skipped_steps=skipped_steps,
        base=config.restorer,
    )
    write_text_atomic(folder / "README.md", text)
    if loop.tuned.peft is not None:
        write_text_atomic(run.path / "adapter" / "README.md", text)
    print(f"{verdict(checks, kept)}\nweights: {folder}")


if __name__ == "__main__":
    main()
