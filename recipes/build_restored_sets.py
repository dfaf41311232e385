"""Make restored sets: each photo clean, degraded and restored in several ways.

    python -m recipes.build_restored_sets \
        --config recipes/configs/build_restored_sets/default.yaml photos=PHOTOS out=RUN

``photos`` is a folder of clean photographs. Each gives one PNG in ``out/sets``: a random crop in
versions side by side, ordered as :data:`zoomiqa_core.proxy.batches.VERSIONS`. ``train_proxy``
learns from the order of their quality, ``train_alarm`` from their similarity to the clean photo.
Restorations are written at full strength; training blends them to weaker ones. Finished files are
kept, so the recipe resumes.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field

import torch
from omegaconf import MISSING
from rich.progress import track
from torch import Tensor

from recipes.compose import compose
from restoration_guide.restorers.builtin.restorer import (
    TinyRestorationPipeline,
    load_builtin_pipeline,
)
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.images.sources import find_images, save_png
from zoomiqa_core.proxy.batches import VERSIONS
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.random import numbered_generator

PRESETS_IN_TURN = ("mixed", "noise_jpeg", "mixed", "blur_noise", "mixed", "x2", "blur")


@dataclass(frozen=True)
class Config:
    """Settings of the restored sets."""

    photos: str = MISSING
    """Folder of clean photographs, sides ≥ ``crop``."""
    out: str = "runs/restored_sets"
    """Run folder; the PNGs are in its ``sets``."""
    limit: int | None = None
    """Largest number of sets; None makes one of every photo."""
    crop: int = 256
    """Side of a version in pixels."""
    presets: list[str] = field(default_factory=lambda: list(PRESETS_IN_TURN))
    """Degradations of the photos, in turn."""
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    seed: int = 0


@torch.no_grad()
def versions(
    pipe: TinyRestorationPipeline, clean: Tensor, preset: str, generator: torch.Generator
) -> Tensor:
    """(``VERSIONS``, 3, S, S) of a clean (1, 3, S, S) crop.

    ``restored`` takes one network evaluation, the minimum-mean-square-error estimate;
    ``restored_bold`` two at temperature 1; ``restored_sampled`` three at temperature 0.7.
    """

    def restore(image: Tensor, first: Tensor, steps: int, temperature: float) -> Tensor:
        return pipe(
            image,
            steps,
            temperature=temperature,
            stochastic=True,
            generator=generator,
            first_prediction=first,
            output_type="pt",
            return_dict=False,
        )[0]

    degraded = degrade(clean, preset, generator=generator).images
    clean, degraded = clean.to(pipe.device), degraded.to(pipe.device)
    first, of_clean = pipe.first_prediction(degraded), pipe.first_prediction(clean)
    made = {
        "clean": clean,
        "degraded": degraded,
        "restored": restore(degraded, first, 1, 0.0),
        "restored_sampled": restore(degraded, first, 3, 0.7),
        "restored_bold": restore(degraded, first, 2, 1.0),
        "restored_clean": restore(clean, of_clean, 1, 0.0),
        "restored_clean_bold": restore(clean, of_clean, 2, 1.0),
    }
    return torch.cat([made[name] for name in VERSIONS]).cpu()


def main(arguments: list[str] | None = None) -> None:
    """Write the missing sets."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    pool = PhotoPool(find_images([config.photos])[: config.limit], min_side=config.crop)
    pipe = load_builtin_pipeline().to(config.device)
    presets = itertools.cycle(config.presets)
    pairs = list(zip(range(len(pool)), presets, strict=False))
    for index, preset in track(pairs, "sets", disable=not sys.stderr.isatty()):
        path = run.path / "sets" / f"{index:05d}_{pool.paths[index].stem}.png"
        if path.is_file():
            continue
        generator = numbered_generator(config.seed, index)
        clean = pool.crop(index, config.crop, generator=generator)[None]
        tiles = versions(pipe, clean, preset, generator)
        save_png(torch.cat(list(tiles), dim=-1), path)
    print(f"sets: {run.path / 'sets'}")


if __name__ == "__main__":
    main()
