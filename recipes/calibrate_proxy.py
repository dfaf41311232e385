"""Make the proxy's standard deviation true: intervals that hold as often as they say.

    python -m recipes.calibrate_proxy weights=WEIGHTS biq2021=BIQ2021 out=CALIBRATED

``weights`` is a folder with a trained proxy, ``out`` gets a copy of it whose error head alone
differs: its last layer is scaled and shifted, ``z → scale·z + shift`` before the softplus (the
temperature of Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, for a spread).
For each scale the shift is the one at which the 90 % intervals hold 90 % of the opinions on
BIQ2021's *validation* photos; the scale is the likeliest. Each of BIQ2021's subsets counts the
same, however many of its photos there are: the largest, web photos of everyday quality, is the
easiest, and nobody knows which kind a user's photos are. Ratings, maps and the model's code stay
as they are. Under a minute on one free core; ``benchmarks.evaluate_judge`` tests it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import MISSING
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from recipes.compose import compose
from zoomiqa_core.data.benchmarks.sets import RatedImage, read_biq2021
from zoomiqa_core.evaluation.correlation import interval_calibration_error, interval_coverage, srcc
from zoomiqa_core.images.sources import to_batch
from zoomiqa_core.proxy.model import QualityProxy, weighted_mean
from zoomiqa_core.runs.files import to_json, write_text_atomic

SCALES = tuple(2 ** (step / 4) for step in range(-8, 9))
"""Scales tried: a quarter to four times the slope the head has learned."""
FLOOR = 1e-2
"""What the model adds to every cell's spread, rating units."""


@dataclass(frozen=True)
class Config:
    """Settings of a calibration."""

    weights: str = MISSING
    """Folder of the proxy."""
    biq2021: str = MISSING
    """BIQ2021 folder; its validation photos are judged whole."""
    out: str = MISSING
    """Folder of the calibrated proxy."""
    photos: int = 400
    """Validation photos judged at most, spread evenly."""
    level: float = 0.9
    """Of the intervals whose coverage is made exact."""
    device: str = "cpu"


class Doubt(NamedTuple):
    """What the error head says of one image, before the softplus."""

    logits: Tensor
    """(1, 1, h, w)."""
    weight: Tensor
    """(1, 1, h, w) > 0."""
    error: float
    """Rating − mean opinion."""
    subset: str
    """Of the dataset, the photo's."""


class Fit(NamedTuple):
    """``z → scale·z + shift``."""

    scale: float
    shift: float


@torch.no_grad()
def doubts(proxy: QualityProxy, images: list[RatedImage], device: str) -> list[Doubt]:
    """Judge photos whole."""
    logits: list[Tensor] = []
    hook = proxy.error_head.register_forward_hook(lambda *call: logits.append(call[2].float()))
    found = []
    try:
        for image in track(images, "BIQ2021 validation"):
            out = proxy(to_batch(image.path).to(device))
            error = float(out.rating) - image.rating
            found.append(Doubt(logits.pop().cpu(), out.weight.cpu(), error, image.subset))
    finally:
        hook.remove()
    return found


def spreads(found: list[Doubt], fit: Fit) -> np.ndarray:
    """(N,) standard deviations the proxy gives with a fit."""
    return np.array(
        [
            float(weighted_mean(functional.softplus(fit.scale * d.logits + fit.shift), d.weight))
            + FLOOR
            for d in found
        ]
    )


def fit_spread(found: list[Doubt], level: float) -> Fit:
    """The likeliest scale, with the shift that makes the coverage at ``level`` exact.

    Subsets count the same.

    Raises:
        ValueError: fewer than 20 images, which fix no coverage.
    """
    if len(found) < 20:
        raise ValueError(f"{len(found)} images fix no coverage; give 20 or more")
    error = np.array([d.error for d in found])
    sizes = Counter(d.subset for d in found)
    weight = np.array([1 / sizes[d.subset] for d in found])

    def shift(scale: float) -> float:
        low, high = -20.0, 20.0  # the coverage grows with the shift
        for _ in range(30):
            middle = (low + high) / 2
            std = spreads(found, Fit(scale, middle))
            covered = interval_coverage(error, std, level, weight=weight)
            low, high = (middle, high) if covered < level else (low, middle)
        return high

    def surprise(fit: Fit) -> float:
        std = spreads(found, fit)
        return float(np.average(np.log(std) + error**2 / (2 * std**2), weights=weight))

    return min((Fit(scale, shift(scale)) for scale in SCALES), key=surprise)


@torch.no_grad()
def apply(proxy: QualityProxy, fit: Fit) -> None:
    """Fold a fit into the error head's last layer."""
    last: Any = proxy.error_head[2]
    last.weight.mul_(fit.scale)
    last.bias.mul_(fit.scale).add_(fit.shift)


def figures(found: list[Doubt], fit: Fit) -> dict[str, float]:
    """What intervals are worth with a fit, on the images it was made on."""
    error, std = np.array([d.error for d in found]), spreads(found, fit)
    return {
        "coverage_50": interval_coverage(error, std, 0.5),
        "coverage_90": interval_coverage(error, std, 0.9),
        "calibration_error": interval_calibration_error(error, std),
        "srcc_with_error": srcc(std, abs(error)),
        "mean_std": float(std.mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Judge, fit, save."""
    config, _ = compose(Config, arguments)
    if Path(config.out).resolve() == Path(config.weights).resolve():
        raise ValueError("`out` would replace `weights`; give another folder")
    proxy = QualityProxy.from_pretrained(config.weights).to(config.device)
    images = read_biq2021(config.biq2021, "validation")
    images = images[:: math.ceil(len(images) / config.photos)]
    found = doubts(proxy, images, config.device)
    fit = fit_spread(found, config.level)
    record = {
        "config": asdict(config),
        "photos": len(found),
        "fit": fit._asdict(),
        "before": figures(found, Fit(1.0, 0.0)),
        "after": figures(found, fit),
    }
    apply(proxy, fit)
    proxy.cpu().half().save_pretrained(config.out)  # loaded into fp32 modules
    write_text_atomic(Path(config.out) / "calibration.json", to_json(record, sort_keys=False))
    print(to_json(record, sort_keys=False), end="")


if __name__ == "__main__":
    main()
