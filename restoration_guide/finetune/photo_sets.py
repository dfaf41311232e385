"""The training and held-out photos of a run, from its folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from restoration_guide.finetune.pairs import find_pairs
from restoration_guide.finetune.photos import DegradedPhotos, PairedPhotos, Photos, split_photos
from restoration_guide.finetune.reports import ReportedPhotos
from zoomiqa_core.images.sources import find_images


def read_photos(
    folder: str,
    held_out: str | None,
    presets: Mapping[str, float],
    *,
    crop: int,
    held_out_crop: int,
    scale: int = 1,
    pairs: str | None = None,
    reports: str | None = None,
    confidence: float = 0.5,
) -> tuple[Photos, Photos]:
    """Training and held-out photos.

    >>> import torch
    >>> from zoomiqa_core.images.sources import save_png
    >>> for n in range(3):
    ...     _ = save_png(torch.rand(3, 64, 64), Path(f"photos/{n}.png"))
    >>> training, held_out = read_photos(
    ...     "photos", None, {"mixed": 1.0}, crop=48, held_out_crop=64
    ... )
    >>> len(training), len(held_out)
    (2, 1)

    Args:
        folder: clean photos, or pairs.
        held_out: folder of the same kind; None holds out every third photo (not of pairs).
        presets: share of each degradation of clean photos.
        crop: side of the largest training crop.
        held_out_crop: side of the held-out crops.
        scale: side of the sampler's results over that of its inputs.
        pairs: layout of pairs, as :func:`.pairs.find_pairs` takes it; None for clean photos.
        reports: folder of best-of-N reports on ``folder``, whose candidates are trained on.
        confidence: k of the lower bound of the reports' ratings.

    Raises:
        ValueError: too few photos or too small ones; no pairs, or pairs of another scale than the
            sampler's.
    """
    if pairs is not None:
        if held_out is None:
            raise ValueError("pairs need held_out=FOLDER, a folder of other pairs")
        training, others = (
            PairedPhotos(find_pairs(side, pairs), min_side=size, enlarge=scale == 1)
            for side, size in ((folder, crop), (held_out, held_out_crop))
        )
        if scale not in (1, training.factor):
            raise ValueError(f"the sampler enlarges {scale} times, the pairs {training.factor}")
        return training, others
    paths = find_images([Path(folder)])
    if held_out is None:
        paths, kept = split_photos(paths)
    else:
        kept = find_images([Path(held_out)])
    clean = DegradedPhotos(kept, presets, min_side=held_out_crop, scale=scale)
    if reports is not None:
        return ReportedPhotos(reports, folder, min_side=crop, confidence=confidence), clean
    return DegradedPhotos(paths, presets, min_side=crop, scale=scale), clean
