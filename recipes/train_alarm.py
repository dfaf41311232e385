"""Train the alarm: a second judge, on full-reference similarity alone.

    python -m recipes.train_alarm --config recipes/configs/train_alarm/default.yaml \
        photos=PHOTOS restored=SETS pool=POOL out=runs/alarm

``photos`` is a folder of clean photographs, ``restored`` the folder ``sets`` that
:mod:`recipes.build_restored_sets` made of them, ``pool`` the folder ``families`` of
:mod:`recipes.build_restorations`, which holds restorations of many kinds. Neither ratings nor
gradients of the proxy are used, so an image that fools the proxy need not fool the alarm. Every
tenth photo, with its sets and families, is held out for evaluation.

First the statistics of all families of versions are measured (``out/families``; finished parts are
kept, so the recipe resumes). Then the committee is fitted, in seconds, to the differences of the
label within a family and, with a smaller weight, to the label itself: the reference rating, and in
the pool the restoration judge's mixture of full-reference distances. The result is ``out/weights``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import MISSING
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from recipes.compose import compose
from zoomiqa_core.alarm.families import SIZE, damaged_family, restored_family
from zoomiqa_core.alarm.model import Alarm
from zoomiqa_core.alarm.reference import reference_rating
from zoomiqa_core.alarm.statistics import statistics
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import ordered_pairs, srcc
from zoomiqa_core.images.sources import find_images
from zoomiqa_core.proxy.losses import error_loss, regression_loss
from zoomiqa_core.restoration.labels import mixture_rating
from zoomiqa_core.restoration.measured import imagenet_backbone, measure
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.pool import find_families, load_family
from zoomiqa_core.runs.files import atomic_path
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.random import below, numbered_generator

PART = 20
"""Families in one file."""
MIN_GAP = 0.25
"""Pairs closer than this in their reference rating are not counted as ordered."""


@dataclass(frozen=True)
class Config:
    """Settings of one training of the alarm."""

    photos: str = MISSING
    """Folder of clean photographs, sides ≥ ``crop``."""
    restored: str = MISSING
    """Folder of their restored sets."""
    pool: str = MISSING
    """Folder of families of restorations."""
    out: str = "runs/alarm"
    """Run folder."""
    families: int = 500
    """Number of families of each of the three kinds."""
    held_out_families: int = 60
    """Number of families of held-out photos, of each kind."""
    crop: int = 256
    """Side in pixels."""
    members: int = 5
    """Networks of the committee."""
    hidden: int = 64
    """Units of their hidden layers."""
    epochs: int = 25
    """Passes over the families."""
    lr: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 1.0
    level_weight: float = 0.25
    """Weight of the rating itself; its differences within a family weigh 1."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    seed: int = 0


Make = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""A family's versions (``SIZE``, 3, H, W) and their labels (``SIZE``,)."""


@torch.no_grad()
def measured(folder: Path, make: Make, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Statistics (count, ``SIZE``, COUNT) and labels (count, ``SIZE``) of families."""
    parts = []
    numbers = range(0, count, PART)
    for first in track(numbers, folder.name, disable=not sys.stderr.isatty()):
        path = folder / f"{first:05d}.safetensors"
        if not path.is_file():
            rows = []
            for number in range(first, min(first + PART, count)):
                family, rating = make(numbered_generator(seed, number))
                rows.append((statistics(family), rating))
            found, rating = (torch.stack(column) for column in zip(*rows, strict=True))
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                save_file({"statistics": found, "rating": rating}, partial)
        parts.append(load_file(path))
    return torch.cat([p["statistics"] for p in parts]), torch.cat([p["rating"] for p in parts])


def drawn(draw: Callable[[PhotoPool, int, torch.Generator], Tensor], paths: list[Path], crop: int):
    """Families of photos, labelled with the reference rating."""
    pool = PhotoPool(paths, min_side=crop)

    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        family = draw(pool, crop, generator)
        return family, reference_rating(family, family[:1])

    return make


def of_pool(paths: list[Path]) -> Make:
    """Random candidates of a family of restorations, with the restoration judge's label."""
    judge = RestorationJudge()
    imagenet_backbone(judge)

    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        family = load_family(paths[below(len(paths), generator)])
        chosen = torch.randperm(len(family.images), generator=generator)[:SIZE]
        images, degraded, clean = (
            x.float() / 255 for x in (family.images[chosen], family.degraded, family.clean)
        )
        return images, mixture_rating(measure(judge, images, degraded, clean)[1])

    return make


def difference_loss(rating: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (β = .1 rating) of the differences of all pairs in each family, (F, size) both.

    The alarm compares versions of one photo, so its rating of the photo's content cancels.
    """
    size = rating.shape[1]
    found, true = (x[:, :, None] - x[:, None, :] for x in (rating, target))
    return functional.smooth_l1_loss(found, true, beta=0.1) * size / (size - 1)  # no diagonal


def fit(alarm: Alarm, found: Tensor, rating: Tensor, config: Config) -> None:
    """Fit every member to four fifths of the families, (F, size, COUNT) and (F, size)."""
    alarm.standardise(found.flatten(0, 1))
    for number, member in enumerate(alarm.members):
        generator = numbered_generator(config.seed, number)
        own = torch.randperm(len(found), generator=generator)[: max(1, len(found) * 4 // 5)]
        optimiser = torch.optim.AdamW(member.parameters(), weight_decay=config.weight_decay)
        batches = -(-len(own) // 32)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.lr, total_steps=config.epochs * batches
        )
        member.train()
        for _ in range(config.epochs):
            order = own[torch.randperm(len(own), generator=generator)]
            for batch in order.tensor_split(batches):
                made, error = alarm.opinions(found[batch], [number])[0].unbind(-1)
                loss = difference_loss(made, rating[batch])
                loss = loss + config.level_weight * regression_loss(made, rating[batch])
                optimiser.zero_grad()
                (loss + 0.1 * error_loss(made, error, rating[batch])).backward()
                optimiser.step()
                schedule.step()
        member.eval()


@torch.no_grad()
def agreement(alarm: Alarm, found: Tensor, rating: Tensor) -> dict[str, float]:
    """Agreement with the reference rating, within families and over all versions."""
    out = alarm.judge(found.flatten(0, 1))
    made = out.rating.view_as(rating)
    pairs = [
        p for a, b in zip(made, rating, strict=True) for p in ordered_pairs(a, b, min_gap=MIN_GAP)
    ]
    error = (made - rating).flatten()
    return {
        "family SRCC": float(np.mean([srcc(a, b) for a, b in zip(made, rating, strict=True)])),
        f"pairs {MIN_GAP} apart in order": float(np.mean(pairs)),
        "SRCC": srcc(made.flatten(), rating.flatten()),
        "RMSE": float(error.square().mean().sqrt()),
        "SRCC of std with the absolute error": srcc(out.rating_std, error.abs()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, fit, evaluate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    photos = find_images([config.photos])
    unseen = {path.stem for path in photos[::10]}
    restored = [(p, p.stem.split("_", 1)[1]) for p in find_images([config.restored])]
    families = [(p, p.name.split("_", 1)[1]) for p in find_families(config.pool)]
    kinds: dict[str, tuple[Callable[[list[Path]], Make], list[tuple[Path, str]]]] = {
        "damaged": (
            partial(drawn, damaged_family, crop=config.crop),
            [(p, p.stem) for p in photos],
        ),
        "restored": (partial(drawn, restored_family, crop=config.crop), restored),
        "pool": (of_pool, families),
    }
    taught, held_out = [], {}
    for kind, (maker, named) in kinds.items():
        for split, count in ((False, config.families), (True, config.held_out_families)):
            make = maker([path for path, name in named if (name in unseen) == split])
            folder = run.path / "families" / (f"{kind}_held_out" if split else kind)
            made = measured(folder, make, count, config.seed)
            if split:
                held_out[kind] = made
            else:
                taught.append(made)
    found, rating = (torch.cat(column) for column in zip(*taught, strict=True))

    torch.manual_seed(config.seed)  # the initial weights, dropout
    alarm = Alarm(config.members, config.hidden)
    fit(alarm, found, rating, config)
    for kind, families in {"taught": (found, rating), **held_out}.items():
        record = {name: round(value, 4) for name, value in agreement(alarm, *families).items()}
        run.log({"versions": kind, **record})
        print(kind, record)
    alarm.save_pretrained(run.path / "weights")
    print(f"weights: {run.path / 'weights'}")


if __name__ == "__main__":
    main()
