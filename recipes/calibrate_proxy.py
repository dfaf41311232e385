"""Calibrate the proxy's standard deviation: 90 % intervals that cover 90 % of opinions.

    python -m recipes.calibrate_proxy weights=WEIGHTS biq2021=BIQ2021 out=CALIBRATED

``weights`` is a folder with a trained proxy; ``out`` gets a copy that differs only in the last
layer of its error head, which is scaled and shifted: ``z → scale·z + shift`` before the softplus
(temperature scaling of Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, for a
standard deviation). For each scale, the shift makes the 90 % intervals cover 90 % of the opinions
on BIQ2021's *validation* photos; of these, the scale with the highest likelihood is taken. Each of
BIQ2021's subsets has the same weight, whatever its size: the largest, web photos of everyday
quality, is the easiest, and a user's photos may be of any kind. Ratings and maps do not change.
Under a minute on one free core; ``benchmarks.evaluate_judge`` tests it.
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
"""Scales tried: a quarter to four times the learned slope."""
FLOOR = 1e-2
"""The model adds this to the standard deviation of every cell, rating units."""


@dataclass(frozen=True)
class Config:
    """Settings of a calibration."""

    weights: str = MISSING
    """Folder of the proxy."""
    biq2021: str = MISSING
    """BIQ2021 folder; its validation photos are judged at full size."""
    out: str = MISSING
    """Folder of the calibrated proxy."""
    photos: int = 400
    """Largest number of validation photos, spread evenly."""
    level: float = 0.9
    """Level of the intervals whose coverage is made exact."""
    device: str = "cpu"


class ErrorOutput(NamedTuple):
    """Output of the error head for one image, before the softplus, and the true error."""

    logits: Tensor
    """(1, 1, h, w)."""
    weight: Tensor
    """(1, 1, h, w) > 0."""
    error: float
    """Rating − mean opinion."""
    subset: str
    """Subset of the dataset that the photo belongs to."""


class Fit(NamedTuple):
    """``z → scale·z + shift``."""

    scale: float
    shift: float


@torch.no_grad()
def error_outputs(proxy: QualityProxy, images: list[RatedImage], device: str) -> list[ErrorOutput]:
    """Judge photos at full size."""
    logits: list[Tensor] = []
    hook = proxy.error_head.register_forward_hook(lambda *call: logits.append(call[2].float()))
    outputs = []
    try:
        for image in track(images, "BIQ2021 validation"):
            out = proxy(to_batch(image.path).to(device))
            error = float(out.rating) - image.rating
            outputs.append(ErrorOutput(logits.pop().cpu(), out.weight.cpu(), error, image.subset))
    finally:
        hook.remove()
    return outputs


def standard_deviations(outputs: list[ErrorOutput], fit: Fit) -> np.ndarray:
    """(N,) standard deviations of the proxy with a fit."""
    return np.array(
        [
            float(weighted_mean(functional.softplus(fit.scale * d.logits + fit.shift), d.weight))
            + FLOOR
            for d in outputs
        ]
    )


def fit_error_head(outputs: list[ErrorOutput], level: float) -> Fit:
    """The scale of highest likelihood, with the shift that makes the coverage at ``level`` exact.

    Subsets have the same weight.

    Raises:
        ValueError: fewer than 20 images, too few to measure a coverage.
    """
    if len(outputs) < 20:
        raise ValueError(
            f"{len(outputs)} images are too few to measure a coverage; give 20 or more"
        )
    error = np.array([d.error for d in outputs])
    sizes = Counter(d.subset for d in outputs)
    weight = np.array([1 / sizes[d.subset] for d in outputs])

    def shift(scale: float) -> float:
        low, high = -20.0, 20.0  # the coverage grows with the shift
        for _ in range(30):
            middle = (low + high) / 2
            std = standard_deviations(outputs, Fit(scale, middle))
            covered = interval_coverage(error, std, level, weight=weight)
            low, high = (middle, high) if covered < level else (low, middle)
        return high

    def negative_log_likelihood(fit: Fit) -> float:
        std = standard_deviations(outputs, fit)
        return float(np.average(np.log(std) + error**2 / (2 * std**2), weights=weight))

    return min((Fit(scale, shift(scale)) for scale in SCALES), key=negative_log_likelihood)


@torch.no_grad()
def apply(proxy: QualityProxy, fit: Fit) -> None:
    """Apply a fit to the last layer of the error head."""
    last: Any = proxy.error_head[2]
    last.weight.mul_(fit.scale)
    last.bias.mul_(fit.scale).add_(fit.shift)


def figures(outputs: list[ErrorOutput], fit: Fit) -> dict[str, float]:
    """Coverage and calibration of a fit, on the images it was made on."""
    error, std = np.array([d.error for d in outputs]), standard_deviations(outputs, fit)
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
    outputs = error_outputs(proxy, images, config.device)
    fit = fit_error_head(outputs, config.level)
    record = {
        "config": asdict(config),
        "photos": len(outputs),
        "fit": fit._asdict(),
        "before": figures(outputs, Fit(1.0, 0.0)),
        "after": figures(outputs, fit),
    }
    apply(proxy, fit)
    proxy.cpu().half().save_pretrained(config.out)  # loaded into fp32 modules
    write_text_atomic(Path(config.out) / "calibration.json", to_json(record, sort_keys=False))
    print(to_json(record, sort_keys=False), end="")


if __name__ == "__main__":
    main()
