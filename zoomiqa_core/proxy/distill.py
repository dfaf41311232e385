"""What a teacher says of images, kept on disk, and what a student learns from it.

A teacher is any judge with the methods of :class:`zoomiqa_core.scorer.Scorer`. Teachers are dear
and fail: each image is asked about once, its label is one JSON line under the hash of the file, and
a failed judgement is a line too, which the student never sees.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.assessment import BBox
from zoomiqa_core.images.sources import read_image
from zoomiqa_core.proxy.model import ProxyOutput
from zoomiqa_core.proxy.regions import pool_regions

BOXES: tuple[BBox, ...] = (
    *((x / 2, y / 2, (x + 1) / 2, (y + 1) / 2) for y in (0, 1) for x in (0, 1)),
    (0.25, 0.25, 0.75, 0.75),
)
"""Regions a teacher is asked about: four quarters and the middle."""


@dataclass(frozen=True)
class Label:
    """One teacher's judgement of one image; None is not known."""

    key: str
    """SHA-256 of the image file."""
    teacher: str
    rating: float | None = None
    """1–5."""
    std: float | None = None
    """Rating units."""
    regions: tuple[float | None, ...] = ()
    """Rating of each of :data:`BOXES`; empty when not asked for."""
    zooms: tuple[BBox, ...] = ()
    """Where the teacher looked closer, kept for whoever trains a judge that zooms."""
    error: str | None = None
    """Name of the failure; None when the judgement is valid."""


def content_key(path: str | Path) -> str:
    """SHA-256 of a file: the same image under another name has the same label."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def ask(teacher: Any, path: str | Path, key: str, *, regions: bool) -> Label:
    """Have one image judged; a teacher that fails, or says no finite rating, gives an error."""
    try:
        said = teacher.assess(path)
    except Exception as error:  # a server that is away, memory: the others go on
        return Label(key, teacher.name, error=type(error).__name__)
    if not said.valid or not math.isfinite(said.rating):
        return Label(key, teacher.name, error=said.error or "not_finite")
    found: tuple[float | None, ...] = ()
    if regions:
        try:
            found = tuple(
                region.rating if region.valid and math.isfinite(region.rating) else None
                for region in teacher.score_regions(path, BOXES)
            )
        except Exception:  # the rating stands without them
            found = (None,) * len(BOXES)
    return Label(
        key,
        teacher.name,
        rating=said.rating,
        std=said.rating_std if math.isfinite(said.rating_std) else None,
        regions=found,
        zooms=tuple(
            look.bbox
            for look in (said.chains.rounds if said.chains else ())
            if look.tool == "crop" and look.bbox
        ),
    )


def read_labels(file: Path, teacher: str) -> dict[str, Label]:
    """A teacher's labels by key, the last line of a key; a line cut by a kill is left out."""
    if not file.is_file():
        return {}
    labels = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        record["regions"] = tuple(record["regions"])
        record["zooms"] = tuple(tuple(box) for box in record["zooms"])
        label = Label(**record)
        if label.teacher == teacher:
            labels[label.key] = label
    return labels


def label_images(
    teacher: Any,
    paths: Sequence[str | Path],
    file: str | Path,
    *,
    regions: bool = True,
    retry: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[Label]:
    """The teacher's label of each image; what ``file`` has of this teacher is not asked again.

    Args:
        teacher: a judge (:class:`zoomiqa_core.scorer.Scorer`); its ``name`` is part of the label.
        paths: image files.
        file: JSON lines, appended to and flushed image by image.
        regions: ask about :data:`BOXES` as well.
        retry: ask again where the judgement failed before.
        progress: wraps the images, to show how far it is.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    known = read_labels(file, teacher.name)
    whole = not file.is_file() or file.read_bytes()[-1:] in (b"", b"\n")
    labels = []
    with file.open("a", encoding="utf-8") as lines:
        if not whole:
            lines.write("\n")  # after a line cut by a kill
        for path in progress(paths):
            key = content_key(path)
            if key not in known or (retry and known[key].error):
                known[key] = ask(teacher, path, key, regions=regions)
                lines.write(json.dumps(asdict(known[key]), allow_nan=False) + "\n")
                lines.flush()
            labels.append(known[key])
    return labels


class Lesson(NamedTuple):
    """Images of one size, as a teacher sees them; NaN is not known."""

    images: Tensor
    """(N, 3, H, W) in [0, 1]."""
    rating: Tensor
    """(N,) 1–5."""
    std: Tensor
    """(N,) ≥ 0, rating units."""
    regions: Tensor
    """(N, R) rating of each of :data:`BOXES`."""


def lesson(paths: Sequence[str | Path], labels: Sequence[Label], unknown_std: float) -> Lesson:
    """Read images with valid labels; a teacher that says no std is given ``unknown_std``."""
    nothing = (None,) * len(BOXES)
    return Lesson(
        torch.stack([read_image(path).pixels for path in paths]),
        torch.tensor([float("nan") if x.rating is None else x.rating for x in labels]),
        torch.tensor([unknown_std if x.std is None else x.std for x in labels]),
        torch.tensor(
            [[math.nan if r is None else r for r in x.regions or nothing] for x in labels]
        ),
    )


def trust(std: Tensor, typical: float) -> Tensor:
    """Weight of labels in (0, 1]: ``typical² / (typical² + std²)``.

    The inverse variance of a label whose teacher errs by ``typical`` even when it is sure, so that
    sure labels cannot outweigh all others.
    """
    return typical**2 / (typical**2 + std.square())


def lesson_losses(out: ProxyOutput, taught: Lesson, typical: float) -> dict[str, Tensor]:
    """How far a student is from its teacher; labels count by :func:`trust`.

    - ``rating``: smooth L1 (β = 0.25 rating units).
    - ``spread``: Kullback–Leibler divergence of the student's Gaussian from the teacher's,
      ``log σ/s + (s² + (r − t)²) / 2σ² − ½``, the rating held fixed as in
      :func:`~.losses.error_loss`: where the teacher is unsure or wrong about, σ is large. s is
      at least 0.05.
    - ``regions``: smooth L1 of the boxes that have a rating, pooled from the student's map.
    - ``order``: RankNet over pairs whose ratings lie apart by more than both spreads together.

    Args:
        out: the student's judgement of ``taught.images``.
        taught: N ≥ 1 images.
        typical: see :func:`trust`.
    """
    weight = trust(taught.std, typical)
    weight = weight / weight.sum()
    apart = functional.smooth_l1_loss(out.rating, taught.rating, beta=0.25, reduction="none")
    spread = taught.std.clamp(min=0.05)
    error = (out.rating - taught.rating).detach()
    divergence = (out.rating_std / spread).log() - 0.5
    divergence = divergence + (spread.square() + error.square()) / (2 * out.rating_std.square())

    pooled = pool_regions(out, BOXES, *taught.images.shape[-2:])
    known = ~taught.regions.isnan()
    target = torch.where(known, taught.regions, pooled.detach())
    regions = functional.smooth_l1_loss(pooled, target, beta=0.25, reduction="none")
    regions = regions.sum(1) / known.sum(1).clamp(min=1)

    gap = taught.rating[:, None] - taught.rating[None, :]
    clear = gap > taught.std[:, None] + taught.std[None, :]
    margin = out.rating[:, None] - out.rating[None, :]
    order = 0.25 * functional.softplus(-margin / 0.25) * clear
    return {
        "rating": (weight * apart).sum(),
        "spread": (weight * divergence).sum(),
        "regions": (weight * regions).sum(),
        "order": order.sum() / clear.sum().clamp(min=1),
    }
