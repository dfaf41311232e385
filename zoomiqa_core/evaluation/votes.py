"""Judge the images of people's choices between two images: resumable, one JSON line per image.

Every image is judged once, by :func:`zoomiqa_core.evaluation.run.evaluate`: a run resumes, and its
folder is bound to the votes and to the judge's weights. A judge that takes the degraded input is
asked with it and without it. The images' sharpness is judged too, as a trivial judge to compare
with. :mod:`zoomiqa_core.evaluation.vote_summary` computes figures from the lines.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.assessment import MIN_RATING, Assessment
from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.data.benchmarks.votes import (
    VotedPair,
    find_table,
    pairs_by_score,
    photos,
    read_votes,
)
from zoomiqa_core.evaluation.run import Judgement, evaluate, sample, weights_digest
from zoomiqa_core.images.errors import ImageError, ImageLimits
from zoomiqa_core.images.inputs import read_or_fail
from zoomiqa_core.images.sources import DEFAULT_LIMITS
from zoomiqa_core.restoration.labels import mixture_rating, teacher_distances
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.pool import find_families, load_family
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.launch import Process
from zoomiqa_core.scorer import Scorer

WITH_INPUT, WITHOUT_INPUT, ALONE, SHARPNESS = "with input", "without input", "judge", "sharpness"
"""How images are judged: rows of the table, and (with ``_`` for the space) sub-folders of a run."""


class Sharpness:
    """Rates an image 1 + the RMS of its luma's Laplacian, in [1, 5]: a trivial judge.

    >>> board = (torch.arange(8) + torch.arange(8)[:, None]).remainder(2).expand(3, 8, 8).float()
    >>> Sharpness().assess([board])[0].rating  # every response is ±4
    5.0
    """

    name = SHARPNESS

    def assess(
        self, images: Iterable[Any], *, limits: ImageLimits = DEFAULT_LIMITS
    ) -> list[Assessment]:
        """One assessment per image."""
        return [self._assess(image, limits) for image in images]

    def _assess(self, source: Any, limits: ImageLimits) -> Assessment:
        image = read_or_fail(source, limits=limits)
        if isinstance(image, Assessment):
            return image
        luma = (image.pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
        kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        if min(luma.shape) < 3:
            return Assessment.failed("too_small", f"{image.name}: needs 3 px a side", image.name)
        response = functional.conv2d(luma[None, None], kernel[None, None])
        rating = MIN_RATING + float(response.square().mean().sqrt())
        return Assessment(round(rating, 6), 0.0, name=image.name)


class JudgeWithInput:
    """A judge that is given the degraded input of each image; its other attributes are the judge's.

    Args:
        scorer: a judge whose ``assess`` takes ``degraded``.
        inputs: the input of each image.
    """

    def __init__(self, scorer: Any, inputs: Mapping[Path, Path | None]) -> None:
        self.scorer, self.inputs = scorer, inputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)

    def assess(self, images: Iterable[Path], **how: Any) -> list[Assessment]:
        """One assessment per image; one without a usable input fails."""
        return [self._assess(image, how) for image in images]

    def _assess(self, image: Path, how: dict[str, Any]) -> Assessment:
        degraded = self.inputs[image]
        if degraded is None:
            return Assessment.failed("no_input", f"{image}: the votes name no input", str(image))
        try:
            return self.scorer.assess(image, degraded=degraded, **how)
        except (ImageError, ValueError) as error:  # the input's: a bad candidate does not raise
            code = error.code if isinstance(error, ImageError) else "wrong_size"
            return Assessment.failed(f"input_{code}", str(error), str(image))


def read_pairs(
    data: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[VotedPair]:
    """Votes of a folder or CSV file (:func:`read_votes`), or families with the teacher's labels.

    Args:
        data: the folder or file.
        limit: only this many photos (of families: families), drawn at random.
        seed: of the draw.
        progress: wraps the families that are labelled, e.g. with a bar.
    """
    data = data.expanduser()
    if data.is_dir() and find_table(data) is None and any(data.glob("*/degraded.png")):
        families = sample(find_families(data), limit, seed)
        return label_families(progress(families))
    pairs = read_votes(data)
    drawn = set(sample(photos(pairs), limit, seed))
    return [pair for pair in pairs if pair.photo in drawn]


@torch.no_grad()
def label_families(families: Iterable[Path]) -> list[VotedPair]:
    """All pairs of candidates of each family, in the order of their distance to the clean photo.

    The order is that of :func:`zoomiqa_core.restoration.labels.mixture_rating` on the ImageNet
    features of the bundled restoration judge, rounded to 0.01; it is what full-reference metrics
    say, not people. The clean photo is no candidate.
    """
    judge, pairs = RestorationJudge.from_pretrained(), []
    for folder in families:
        family = load_family(folder)
        images, clean = family.images.float() / 255, family.clean[None].float() / 255
        kinds = [kind for kind in family.kinds if kind != "clean"]
        candidates: Tensor = images[[family.kinds.index(kind) for kind in kinds]]
        pyramids = judge.features(torch.cat([candidates, clean]))
        ratings = mixture_rating(teacher_distances(candidates, clean, pyramids)).tolist()
        paths = [folder / f"{kind}.png" for kind in kinds]
        labels = {path: round(rating, 2) for path, rating in zip(paths, ratings, strict=True)}
        pairs += pairs_by_score(labels, family.name, folder / "degraded.png")
    return pairs


def judge_pairs(
    pairs: Sequence[VotedPair],
    scorer: Scorer,
    out: Path,
    *,
    root: Path,
    config: dict[str, Any],
    batch: int = 1,
    limits: ImageLimits | None = None,
    process: Process | None = None,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> dict[str, list[Judgement]]:
    """Judge every image of the pairs that ``out`` has no judgement of.

    Arguments and errors are those of :func:`zoomiqa_core.evaluation.run.evaluate`; a judge that is
    given the input judges one image a call, whatever ``batch`` is.

    Returns:
        Row of the table → one judgement per image in the order of :func:`images_of`; ``mos`` is the
        image's share of the votes.

    >>> from PIL import Image
    >>> from zoomiqa_core.scorer import load_scorer
    >>> for name in "ab":
    ...     Image.effect_noise((64, 64), 40).save(f"{name}.png")
    >>> pairs, root = [VotedPair(Path("a.png"), Path("b.png"), 0.75)], Path(".")
    >>> judged = judge_pairs(pairs, load_scorer("proxy"), Path("run"), root=root, config={})
    >>> list(judged), [judgement["mos"] for judgement in judged["judge"]]
    (['judge', 'sharpness'], [0.25, 0.75])
    """
    inputs = {image: pair.input for pair in pairs for image in (pair.left, pair.right)}
    won, votes = defaultdict[Path, float](float), defaultdict[Path, int](int)
    for pair in pairs:
        for image, share in ((pair.left, 1 - pair.share), (pair.right, pair.share)):
            won[image] += share * pair.votes
            votes[image] += pair.votes
    images = [RatedImage(image, won[image] / votes[image], np.nan) for image in images_of(pairs)]
    judges: dict[str, Any] = {ALONE: scorer}
    if getattr(scorer, "takes_degraded", False):
        judges = {WITHOUT_INPUT: scorer}
        if any(inputs.values()):
            judges = {WITH_INPUT: JudgeWithInput(scorer, inputs), **judges}
    config = {**config, "votes": votes_fingerprint(pairs, root)}
    identity = {**config, "weights": weights_digest(scorer)}
    RunFolder(out, yaml.safe_dump(identity, sort_keys=False, allow_unicode=True))
    return {
        row: evaluate(
            images,
            judge,
            out / row.replace(" ", "_"),
            root=root,
            config={**config, "row": row},
            batch=batch,
            limits=limits,
            process=process,
            progress=progress,
        )
        for row, judge in {**judges, SHARPNESS: Sharpness()}.items()
    }


def images_of(pairs: Iterable[VotedPair]) -> list[Path]:
    """Every image of the pairs once, in their order."""
    return list(dict.fromkeys(image for pair in pairs for image in (pair.left, pair.right)))


def votes_fingerprint(pairs: Sequence[VotedPair], root: Path) -> str:
    """SHA-256 of the pairs with their votes, in their order; paths relative to the folder."""
    digest = hashlib.sha256()
    for pair in pairs:
        paths = (pair.left, pair.right, pair.input or root)
        names = [Path(os.path.relpath(path, root.expanduser())).as_posix() for path in paths]
        digest.update("\t".join([*names, f"{pair.share!r}", f"{pair.votes}\n"]).encode())
    return digest.hexdigest()
