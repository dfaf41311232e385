"""What the nodes compute: ratings, maps, the best of a batch, verdicts, prompts.

Every function takes images as :func:`~.pictures.read_batches` gives them and returns a report in
words besides its figures. An image that cannot be judged is named and counted there, has the rating
NaN, and does not stop the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from restoration_guide.gate.gate import QualityGate
from restoration_guide.prompts.write import write_prompts
from restoration_guide.search.judging import describe_error, judge_images, quality_map
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, Assessment
from zoomiqa_core.images.heatmap import draw_box, paint_map, worst_region
from zoomiqa_core.images.sources import read_image
from zoomiqa_core.scorer import Scorer

from .pictures import Picture


class Rated(NamedTuple):
    """Ratings of a batch."""

    ratings: list[float]
    """1–5, one per image; NaN for an image that could not be judged."""
    mean: float
    """Of the images that were judged; NaN if there is none."""
    words: list[str]
    """One line per image."""
    report: str


class Mapped(NamedTuple):
    """Quality maps of a batch."""

    overlays: list[Tensor]
    """(3, H, W): the map's colours over the image in grey, dark violet is bad and yellow excellent,
    with a box around the worst region; the image itself where there is no map."""
    low_quality: Tensor
    """(B, H, W): 1 where the rating is 1, 0 where it is 5, and where there is no map."""
    report: str


class Gated(NamedTuple):
    """Verdicts on a batch."""

    passed: bool
    """Whether every result was accepted."""
    rating: float
    """The lowest rating of a result; NaN if one could not be judged."""
    accepted: list[bool]
    """One per result."""
    kept: list[Tensor]
    """(3, H, W): the result where it was accepted, else its input."""
    words: list[str]
    """One line per result, with the reasons."""
    captions: list[str]
    """The action on each result, and the result's rating."""
    report: str


class Prompts(NamedTuple):
    """Prompts of a batch."""

    positive: list[str]
    negative: list[str]
    report: str


def rate(scorer: Scorer, images: Sequence[Picture], source: Tensor | None = None) -> Rated:
    """Rate images.

    >>> import zoomiqa_core as zi
    >>> noise, broken = Picture(torch.rand(3, 64, 64)), Picture(torch.full((3, 64, 64), torch.nan))
    >>> rated = rate(zi.load_scorer("proxy"), [noise, broken])
    >>> [1 <= rating <= 5 for rating in rated.ratings], rated.mean == rated.ratings[0]
    ([True, False], True)
    >>> print(rated.report.splitlines()[0])
    1 of 2 judged by proxy; 1 failed (not_finite)

    Args:
        scorer: the judge.
        images: to rate.
        source: (3, H, W), what they were restored from, for a judge that takes it.
    """
    said = _judge(scorer, images, source)
    ratings = [each.rating if _usable(each) else math.nan for each in said]
    judged = [rating for rating in ratings if not math.isnan(rating)]
    words = [_words(each, image) for each, image in zip(said, images, strict=True)]
    mean = fmean(judged) if judged else math.nan
    return Rated(ratings, mean, words, _report(scorer, said, words))


def map_quality(scorer: Scorer, images: Sequence[Picture], source: Tensor | None = None) -> Mapped:
    """Draw where images are good and where they are bad.

    >>> import zoomiqa_core as zi
    >>> mapped = map_quality(zi.load_scorer("proxy"), [Picture(torch.rand(3, 64, 96))])
    >>> mapped.overlays[0].shape, mapped.low_quality.shape
    (torch.Size([3, 64, 96]), torch.Size([1, 64, 96]))

    Args:
        scorer: the judge.
        images: of one size.
        source: as for :func:`rate`.
    """
    overlays, masks, words, judged = [], [], [], []
    for image, said in zip(images, _judge(scorer, images, source), strict=True):
        overlay, mask = image.pixels, torch.zeros(image.pixels.shape[1:])
        if _usable(said):
            try:
                drawn = quality_map(scorer, image.pixels, source)
                box = worst_region(drawn)
                painted = paint_map(image.pixels, drawn)
                draw_box(painted, box, max(2, max(painted.size) // 200))
                overlay = read_image(painted).pixels
                mask = _low_quality(drawn, overlay.shape[1], overlay.shape[2])
            except Exception as error:  # whatever a judge raises
                said = Assessment.failed("map_error", describe_error(error))
        overlays.append(overlay)
        masks.append(mask)
        judged.append(said)
        words.append(_words(said, image))
    return Mapped(overlays, torch.stack(masks), _report(scorer, judged, words))


def gate_images(gate: QualityGate, before: Sequence[Picture], after: Sequence[Picture]) -> Gated:
    """Decide for each result whether it may replace its input.

    >>> import zoomiqa_core as zi
    >>> photo, black = Picture(torch.rand(3, 64, 64)), Picture(torch.zeros(3, 64, 64))
    >>> gated = gate_images(QualityGate(zi.load_scorer("restoration")), [photo], [black])
    >>> gated.passed, gated.words[0][:15], gated.kept[0] is photo.pixels
    (False, 'retry: constant', True)

    Args:
        gate: decides.
        before: the input of each result, or one input of all.
        after: results.

    Raises:
        ValueError: the number of inputs is neither 1 nor that of the results.
    """
    if len(before) not in (1, len(after)):
        raise ValueError(
            f"expected one input, or one per result ({len(after)}); got {len(before)} inputs"
        )
    inputs = [*before] * len(after) if len(before) == 1 else [*before]
    verdicts, kept = [], []
    for given, result in zip(inputs, after, strict=True):
        verdict = gate(given.pixels, result.pixels)
        verdicts.append(verdict)
        kept.append(result.pixels if verdict.accepted else given.pixels)
    ratings = [each.ratings[0].after.rating if each.ratings else math.nan for each in verdicts]
    accepted = [verdict.accepted for verdict in verdicts]
    words = [
        "; ".join((f"{verdict.action}: {'; '.join(verdict.reasons)}", *image.notes))
        for verdict, image in zip(verdicts, after, strict=True)
    ]
    counts = Counter(verdict.action for verdict in verdicts)
    actions = ", ".join(f"{count} {action}" for action, count in sorted(counts.items()))
    captions = [
        f"{verdict.action}: result rated {rating:.2f}" if math.isfinite(rating) else verdict.action
        for verdict, rating in zip(verdicts, ratings, strict=True)
    ]
    rating = math.nan if any(map(math.isnan, ratings)) else min(ratings)
    report = f"{sum(accepted)} of {len(after)} accepted ({actions})"
    return Gated(all(accepted), rating, accepted, kept, words, captions, _lines(report, words))


def prompts_of(
    scorer: Scorer, images: Sequence[Picture], positive: str = "", negative: str = ""
) -> Prompts:
    """A positive and a negative prompt per image, from what a judge would improve and avoid.

    >>> import zoomiqa_core as zi
    >>> prompts = prompts_of(zi.load_scorer("proxy"), [Picture(torch.rand(3, 64, 64))], "a rose")
    >>> prompts.positive, prompts.negative
    (['a rose'], [''])
    >>> print(prompts.report.splitlines()[1].split("; ")[-1])
    the judge gave no text

    Args:
        scorer: a judge that writes, a Zoom-IQA model.
        images: to look at.
        positive: base prompt, placed first.
        negative: base negative prompt, placed first.
    """
    said = _judge(scorer, images, None)
    written = [write_prompts(each, positive=positive, negative=negative) for each in said]
    words = [
        "; ".join((_words(each, image), *prompts.notes[1:], *_dropped(prompts.dropped)))
        for each, image, prompts in zip(said, images, written, strict=True)
    ]
    return Prompts(
        [prompts.positive for prompts in written],
        [prompts.negative or "" for prompts in written],
        _report(scorer, said, words),
    )


def _judge(scorer: Scorer, images: Sequence[Picture], source: Tensor | None) -> list[Assessment]:
    return judge_images(scorer, [image.pixels for image in images], source)


def _usable(said: Assessment) -> bool:
    return said.valid and math.isfinite(said.rating)


def _words(said: Assessment, image: Picture) -> str:
    """One judgement in a line."""
    if not _usable(said):
        found = ": ".join(filter(None, (said.error or "no rating", said.message)))
    else:
        spread = "" if math.isnan(said.rating_std) else f" ± {said.rating_std:.2f}"
        gain = f", gain {said.gain:+.2f} ± {said.gain_std:.2f}" if math.isfinite(said.gain) else ""
        found = f"{said.rating:.2f}{spread}{gain}"
    return "; ".join((found, *image.notes, *said.notes))


def _report(scorer: Scorer, said: Sequence[Assessment], words: Sequence[str]) -> str:
    failed = Counter(each.error or "no rating" for each in said if not _usable(each))
    head = f"{len(said) - failed.total()} of {len(said)} judged by {scorer.name}"
    if failed:
        kinds = ", ".join(sorted(failed))
        head += f"; {failed.total()} failed ({kinds})"
    return _lines(head, words)


def _lines(head: str, words: Sequence[str]) -> str:
    return "\n".join((head, *(f"image {index}: {text}" for index, text in enumerate(words))))


def _low_quality(drawn: Tensor, height: int, width: int) -> Tensor:
    bad = ((MAX_RATING - drawn) / (MAX_RATING - MIN_RATING)).clamp(0, 1).nan_to_num(0)
    return F.interpolate(bad[None], (height, width), mode="bilinear")[0, 0]


def _dropped(sentences) -> list[str]:
    return [f"left out ({each.reason}): {each.text}" for each in sentences]
