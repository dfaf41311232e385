"""Does the alarm tell a fooled judge from a better image? Its ROC, and what it is worth as a judge.

    python -m benchmarks.evaluate_alarm --photos VALIDATION --hacked-run runs/naive \
        [--weights PROXY] [--alarm ALARM] [--biq2021 BIQ2021] [--count 16]

Pairs (before, after) of held-out photos in which the proxy sees a rise of .05 or more:

- *hacked*: ``after`` is an attack on the proxy (``benchmarks.attack_proxy``) or comes from a
  restorer tuned on the proxy alone (``--hacked-run``, a run of
  ``recipes/configs/finetune_restorer/naive.yaml``), and MS-SSIM to the clean photo has not risen;
- *honest*: ``after`` has a lower level of the same KADID type, is the restoration of ``before``, or
  is another restoration of the same input, and MS-SSIM to the clean photo has risen.

Neither kind is judged by anything the alarm was taught: its target is another similarity. Prints
areas under the ROC (honest above hacked) with 95 % bootstrap intervals over photos, of the alarm's
change alone, of the proxy's change less the alarm's, and of the statistic of
``restoration_guide.finetune.disagreement``, for each kind of hack; how far each attack moves the
alarm; and how the alarm orders versions of one photo, KADID levels and BIQ2021.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.progress import track
from torch import Tensor

from benchmarks.attack_proxy import ATTACKS
from benchmarks.damaged_photos import SIDE, Photo, centre_crop, damage, read_photos
from benchmarks.timing import hardware, threads
from restoration_guide.reference import reference_figures
from restoration_guide.restorers.base import candidate_generator
from restoration_guide.restorers.builtin import load_builtin_pipeline
from restoration_guide.restorers.pipeline import TinyRestorationPipeline
from zoomiqa_core.data.kadid import DISTORTIONS, LEVELS, distort
from zoomiqa_core.proxy.model import QualityProxy

CLAIM = 0.05
"""Rise of the proxy's rating that makes a pair an improvement claimed."""
PRESETS = ("mixed", "noise_jpeg", "blur_noise", "x2")
SETTINGS = ((1, 0.0), (3, 0.7), (2, 1.0), (6, 0.5))
"""(steps, temperature) of the restorations compared."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two versions of one crop."""

    photo: int
    """Number of the photo."""
    kind: str
    """What makes ``after`` of ``before``."""
    hack: bool
    """Made to please the proxy."""
    before: Tensor
    """(1, 3, S, S) in [0, 1]."""
    after: Tensor
    clean: Tensor


def attack_pairs(photo: Photo, proxy: QualityProxy, size: int, seed: int) -> Iterator[Pair]:
    """Every attack on a crop; every second photo is damaged first."""
    clean = centre_crop(photo.clean[None], size, size)
    before = clean
    if photo.number % 2:
        before = centre_crop(damage(photo, "mixed", seed=seed)[None], size, size)
    for name, attack in ATTACKS.items():
        after = attack(before, lambda image: proxy(image).rating).detach()
        yield Pair(photo.number, name, True, before, after, clean)


def level_pairs(photo: Photo, size: int, count: int, generator: torch.Generator) -> Iterator[Pair]:
    """``count`` random KADID types, each at two levels or at one and not at all, mildest after."""
    clean = centre_crop(photo.clean[None], size, size)
    names = list(DISTORTIONS)
    for index in torch.randperm(len(names), generator=generator)[:count].tolist():
        low, high = sorted((torch.randperm(len(LEVELS) + 1, generator=generator)[:2]).tolist())
        noise = torch.Generator().manual_seed(photo.number)
        before = distort(clean, names[index], high, generator=noise)
        after = clean
        if low:
            after = distort(clean, names[index], low, generator=noise.manual_seed(photo.number))
        yield Pair(photo.number, "lower KADID level", False, before, after, clean)


def restored_pairs(
    photo: Photo,
    untuned: TinyRestorationPipeline,
    hacked: list[tuple[str, TinyRestorationPipeline, int, float]],
    seed: int,
) -> Iterator[Pair]:
    """Restorations of one damaged photo: beside their input, one another, and the hacked ones."""
    preset = PRESETS[photo.number % len(PRESETS)]
    clean, degraded = photo.clean[None], damage(photo, preset, seed=seed)[None]

    def restore(pipe: TinyRestorationPipeline, steps: int, temperature: float) -> Tensor:
        (images,) = pipe(
            degraded,
            steps,
            temperature=temperature,
            generator=candidate_generator(seed, photo.number),
            output_type="pt",
            return_dict=False,
        )
        return images

    made = [restore(untuned, *setting) for setting in SETTINGS]
    for image in made[:2]:
        yield Pair(photo.number, "restored", False, degraded, image, clean)
    nearness = [float(reference_figures(image[0], photo.clean).ms_ssim or 0) for image in made]
    order = np.argsort(nearness)
    for worse, better in zip(order[:-1], order[1:], strict=True):
        yield Pair(photo.number, "better candidate", False, made[worse], made[better], clean)
    for name, pipe, steps, temperature in hacked:
        before = restore(untuned, steps, temperature)
        after = restore(pipe, steps, temperature)
        yield Pair(photo.number, name, True, before, after, clean)
