"""Distillation: a teacher's labels, stored on disk, and the losses of a student that learns them.

A teacher is any judge with the methods of :class:`zoomiqa_core.scorer.Scorer`. Teachers are slow,
costly and can fail: each image is judged once, its label is one JSON line, and a failed judgement
is stored too (its error; no loss uses it).
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
"""Regions that a teacher rates: the four quarters and the centre."""


Key = tuple[str, str, str, bool]
"""What a label is stored under: image, teacher, its weights, whether regions were rated."""


@dataclass(frozen=True)
class Label:
    """One teacher's judgement of one image; None stands for an unknown value."""

    image: str
    """SHA-256 of the image file."""
    teacher: str
    """Name of the judge."""
    weights: str = ""
    """Hash of its weights; empty if they cannot be read here (a server)."""
    with_regions: bool = True
    """Whether ratings of :data:`BOXES` were requested."""
    rating: float | None = None
    """1–5."""
    std: float | None = None
    """Rating units."""
    regions: tuple[float | None, ...] = ()
    """Rating of each of :data:`BOXES`; empty without regions."""
    zooms: tuple[BBox, ...] = ()
    """Boxes that the teacher cropped, for training a judge that zooms."""
    error: str | None = None
    """Name of the failure; None if the judgement is valid."""

    @property
    def key(self) -> Key:
        """Key under which the label is stored; labels with equal keys are interchangeable."""
        return self.image, self.teacher, self.weights, self.with_regions


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, so that renamed files keep their labels.

    >>> _ = Path("a.txt").write_text("abc")
    >>> file_hash("a.txt")[:12]
    'ba7816bf8f01'
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def label_image(
    teacher: Any, path: str | Path, *, weights: str = "", regions: bool = True
) -> Label:
    """Label one image with a teacher's judgement.

    An invalid judgement, a failed connection and running out of memory give a label with ``error``.
    Other exceptions are raised.

    >>> import zoomiqa_core as zi
    >>> from zoomiqa_core.images.sources import save_png
    >>> photo = save_png(torch.rand(3, 64, 64), "photo.png")
    >>> label = label_image(zi.load_scorer("proxy"), photo, regions=False)
    >>> label.teacher, label.error, 1 <= label.rating <= 5
    ('proxy', None, True)
    """
    key = {
        "image": file_hash(path),
        "teacher": teacher.name,
        "weights": weights,
        "with_regions": regions,
    }
    try:
        assessment = teacher.assess(path)
        if not assessment.valid or not math.isfinite(assessment.rating):
            return Label(**key, error=assessment.error or "not_finite")
        ratings = _region_ratings(teacher, path) if regions else ()
    except (OSError, torch.OutOfMemoryError) as error:  # the other images are not affected
        return Label(**key, error=type(error).__name__)
    return Label(
        **key,
        rating=assessment.rating,
        std=assessment.rating_std if math.isfinite(assessment.rating_std) else None,
        regions=ratings,
        zooms=tuple(
            round_.bbox
            for round_ in (assessment.chains.rounds if assessment.chains else ())
            if round_.tool == "crop" and round_.bbox
        ),
    )


def _region_ratings(teacher: Any, path: str | Path) -> tuple[float | None, ...]:
    try:
        scores = teacher.score_regions(path, BOXES)
    except NotImplementedError:  # a judge of whole images
        return (None,) * len(BOXES)
    return tuple(
        score.rating if score.valid and math.isfinite(score.rating) else None for score in scores
    )


def read_labels(file: Path) -> dict[Key, Label]:
    r"""Read a label file: the last label of each key; an incomplete line is skipped.

    >>> line = json.dumps(asdict(Label("aa00", "proxy", rating=3.2)))
    >>> _ = Path("labels.jsonl").write_text(line + "\n" + line[:40])  # of a killed run
    >>> [label.rating for label in read_labels(Path("labels.jsonl")).values()]
    [3.2]
    """
    labels: dict[Key, Label] = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        record["regions"] = tuple(record["regions"])
        record["zooms"] = tuple(tuple(box) for box in record["zooms"])
        label = Label(**record)
        labels[label.key] = label
    return labels


def label_images(
    teacher: Any,
    paths: Sequence[str | Path],
    file: str | Path,
    *,
    weights: str = "",
    regions: bool = True,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[Label]:
    """Label images with a teacher's judgements; labels already in ``file`` are reused.

    >>> import zoomiqa_core as zi
    >>> from zoomiqa_core.images.sources import save_png
    >>> paths = [save_png(torch.rand(3, 64, 64), f"{name}.png") for name in "ab"]
    >>> proxy = zi.load_scorer("proxy")
    >>> labels = label_images(proxy, paths, "labels.jsonl", regions=False)
    >>> label_images(proxy, paths, "labels.jsonl", regions=False) == labels  # read from the file
    True
    >>> len(Path("labels.jsonl").read_text().splitlines())
    2

    Args:
        teacher: a judge (:class:`zoomiqa_core.scorer.Scorer`).
        paths: image files.
        file: JSON lines, appended to and flushed after each image.
        weights: hash of the teacher's weights
            (:func:`zoomiqa_core.evaluation.run.weights_digest`), so that a teacher that was trained
            further labels anew.
        regions: rate :data:`BOXES` as well; labels without regions are then not reused.
        progress: wraps ``paths``, to show progress.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    known = read_labels(file)
    complete = not file.is_file() or file.read_bytes()[-1:] in (b"", b"\n")
    labels = []
    with file.open("a", encoding="utf-8") as lines:
        if not complete:
            lines.write("\n")  # after the incomplete line of a killed run
        for path in progress(paths):
            key = file_hash(path), teacher.name, weights, regions
            if key not in known:
                known[key] = label_image(teacher, path, weights=weights, regions=regions)
                lines.write(json.dumps(asdict(known[key]), allow_nan=False) + "\n")
                lines.flush()
            labels.append(known[key])
    return labels


class TaughtBatch(NamedTuple):
    """Images of one size with a teacher's labels; NaN stands for an unknown value."""

    images: Tensor
    """(N, 3, H, W) in [0, 1]."""
    rating: Tensor
    """(N,) 1–5."""
    std: Tensor
    """(N,) ≥ 0, rating units."""
    regions: Tensor
    """(N, R) rating of each of :data:`BOXES`."""


def taught_batch(
    paths: Sequence[str | Path], labels: Sequence[Label], unknown_std: float
) -> TaughtBatch:
    """Read labelled images into a batch.

    >>> from zoomiqa_core.images.sources import save_png
    >>> path = save_png(torch.rand(3, 64, 64), "a.png")
    >>> batch = taught_batch([path], [Label("aa00", "judge", rating=3.2)], unknown_std=0.5)
    >>> batch.images.shape, batch.rating, batch.std
    (torch.Size([1, 3, 64, 64]), tensor([3.2000]), tensor([0.5000]))

    Args:
        paths: images of one size.
        labels: valid ones, one per image.
        unknown_std: stands in for a standard deviation that the teacher does not give.
    """
    unknown = (None,) * len(BOXES)
    return TaughtBatch(
        torch.stack([read_image(path).pixels for path in paths]),
        torch.tensor([math.nan if label.rating is None else label.rating for label in labels]),
        torch.tensor([unknown_std if label.std is None else label.std for label in labels]),
        torch.tensor(
            [
                [math.nan if rating is None else rating for rating in label.regions or unknown]
                for label in labels
            ]
        ),
    )


def label_weight(std: Tensor, typical: float) -> Tensor:
    """Weight of labels in (0, 1]: ``typical² / (typical² + std²)``.

    The inverse variance of a label whose error is ``typical`` even where the teacher reports no
    uncertainty, so that such labels do not outweigh all others.

    >>> label_weight(torch.tensor([0.0, 0.5]), typical=0.5)
    tensor([1.0000, 0.5000])
    """
    return typical**2 / (typical**2 + std.square())


def distillation_losses(out: ProxyOutput, taught: TaughtBatch, typical: float) -> dict[str, Tensor]:
    """Losses of a student against its teacher's labels, weighted by :func:`label_weight`.

    - ``rating``: smooth L1 (β = 0.25 rating units).
    - ``spread``: Kullback–Leibler divergence of the student's Gaussian from the teacher's,
      ``log σ/s + (s² + (r − t)²) / 2σ² − ½``, without gradient through the rating r, as in
      :func:`~.losses.error_loss`: σ grows where the teacher is uncertain or differs. s is at least
      0.05.
    - ``regions``: smooth L1 of the boxes that have a rating, pooled from the student's map.
    - ``order``: RankNet over pairs whose ratings differ by more than the sum of their spreads.

    >>> from zoomiqa_core.proxy.model import QualityProxy
    >>> student = QualityProxy.from_pretrained()
    >>> images = torch.rand(2, 3, 64, 64)
    >>> unknown = torch.full((2, len(BOXES)), torch.nan)
    >>> taught = TaughtBatch(images, torch.tensor([2.0, 4.0]), torch.tensor([0.1, 0.1]), unknown)
    >>> losses = distillation_losses(student(images), taught, typical=0.3)
    >>> list(losses), losses["regions"].item()
    (['rating', 'spread', 'regions', 'order'], 0.0)

    Args:
        out: the student's output for ``taught.images``.
        taught: N ≥ 1 images.
        typical: see :func:`label_weight`.
    """
    weight = label_weight(taught.std, typical)
    weight = weight / weight.sum()
    distance = functional.smooth_l1_loss(out.rating, taught.rating, beta=0.25, reduction="none")
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
        "rating": (weight * distance).sum(),
        "spread": (weight * divergence).sum(),
        "regions": (weight * regions).sum(),
        "order": order.sum() / clear.sum().clamp(min=1),
    }
