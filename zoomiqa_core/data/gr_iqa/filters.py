"""Two filters for rationales: do they rely on the image, and do they agree with measurements?

Zoom-IQA (arXiv 2601.02918) filters what its teacher writes in two ways; the exact formulas were not
available, so the scores here are ours:

- Visual Reliance Filtering (VRF): a partial rationale is continued with the image and without. If
  box, tool, rating and token entropy barely change, the words did not need the image. Random
  differences between continuations with the image are subtracted.
- Hint-Augmented Consistency Filtering (HACF): every sentence is checked against measured hints
  (:mod:`zoomiqa_core.data.gr_iqa.claims`). Contradicted sentences are dropped; the whole sample is
  dropped if there are too many of them or a section would be left empty.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.claims import Checker, Verdict
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, GRIQARound, RecordError, reply_text
from zoomiqa_core.data.gr_iqa.regions import box_iou
from zoomiqa_core.zoom_iqa.answer import Tool
from zoomiqa_core.zoom_iqa.reasoning import parse_reasoning


class Continuation(NamedTuple):
    """What the continuation of a partial rationale says."""

    rating: float
    tool: Tool
    bbox: BBox | None
    """Normalised; None if the tool is final."""
    entropy: float
    """Mean entropy of the tokens, nats."""


ContinueRationale = Callable[[str, Image.Image | None], Continuation | None]
"""Continues the beginning of a reply, with the image or without (None). Returns None if the
continuation is not usable."""


@dataclass(frozen=True)
class RelianceConfig:
    """Weights of the changes between continuations, and the threshold on their mean."""

    prefix_share: float = 0.5
    """Share of the first section that the continuation starts from."""
    draws: int = 4
    """Number of continuations with the image, and without; at least 2."""
    box_weight: float = 1.0
    tool_weight: float = 1.0
    rating_weight: float = 1.0
    entropy_weight: float = 1.0
    rating_scale: float = 1.0
    """Change of the rating that counts as 1."""
    entropy_scale: float = 1.0
    """Change of the token entropy that counts as 1, nats."""
    threshold: float = 0.1
    """Samples with less reliance are dropped."""

    def __post_init__(self) -> None:
        weights = (self.box_weight, self.tool_weight, self.rating_weight, self.entropy_weight)
        if min(weights) < 0 or sum(weights) == 0 or min(self.rating_scale, self.entropy_scale) <= 0:
            raise ValueError("expected weights ≥ 0, not all 0, and scales > 0")
        if not 0 < self.prefix_share < 1 or self.draws < 2:
            raise ValueError(
                f"expected 0 < prefix_share < 1 and draws ≥ 2, got {self.prefix_share}, "
                f"{self.draws}"
            )


class Reliance(NamedTuple):
    """How much the image changed each part, at most 1, and their weighted mean."""

    box: float
    tool: float
    rating: float
    entropy: float
    score: float


def difference(a: Continuation, b: Continuation, config: RelianceConfig | None = None) -> Reliance:
    """How much two continuations differ, each term in [0, 1].

    ``box`` is 1 − IoU, 0 if neither has a box and 1 if only one has; ``rating`` and ``entropy`` are
    absolute differences over their scale, at most 1.

    >>> zoomed = Continuation(3.0, "crop", (0.0, 0.0, 0.5, 0.5), entropy=0.4)
    >>> difference(zoomed, Continuation(3.5, "final", None, entropy=0.4))
    Reliance(box=1.0, tool=1.0, rating=0.5, entropy=0.0, score=0.625)
    """
    config = config or RelianceConfig()
    if a.bbox and b.bbox:
        box = 1 - box_iou(a.bbox, b.bbox)
    else:
        box = float((a.bbox is None) != (b.bbox is None))
    tool = float(a.tool != b.tool)
    rating = min(abs(a.rating - b.rating) / config.rating_scale, 1.0)
    entropy = min(abs(a.entropy - b.entropy) / config.entropy_scale, 1.0)
    parts = (box, tool, rating, entropy)
    weights = (config.box_weight, config.tool_weight, config.rating_weight, config.entropy_weight)
    score = sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights)
    return Reliance(*parts, score)


def partial_rationale(look: GRIQARound, share: float) -> str:
    """The beginning of a reply: up to a share of the words of its first section."""
    words = look.summary.split()
    kept = " ".join(words[: max(1, math.floor(share * len(words)))])
    return reply_text(look).partition(look.summary)[0] + kept


def measure_reliance(
    record: GRIQARecord,
    image: Image.Image,
    continue_rationale: ContinueRationale,
    config: RelianceConfig | None = None,
) -> Reliance | None:
    """How much the continuation of a record's first round changes without the image.

    The mean difference between continuations with and without the image, minus the mean difference
    among those with it: 0 in expectation for a model that ignores the image.

    Returns:
        None if fewer than two continuations with the image, or none without, are usable.

    Raises:
        ValueError: the record has no rounds, or an empty first section.
    """
    config = config or RelianceConfig()
    if not record.rounds or not record.rounds[0].summary:
        raise ValueError(f"{record.image} has no rationale to begin with")
    prefix = partial_rationale(record.rounds[0], config.prefix_share)
    seen = _usable(continue_rationale(prefix, image) for _ in range(config.draws))
    blind = _usable(continue_rationale(prefix, None) for _ in range(config.draws))
    if len(seen) < 2 or not blind:
        return None
    across = _mean([difference(a, b, config) for a, b in itertools.product(seen, blind)])
    within = _mean([difference(a, b, config) for a, b in itertools.combinations(seen, 2)])
    return Reliance(*(a - w for a, w in zip(across, within, strict=True)))


def _usable(drawn: Iterable[Continuation | None]) -> list[Continuation]:
    return [one for one in drawn if one is not None and math.isfinite(one.rating)]


def _mean(differences: Sequence[Reliance]) -> Reliance:
    return Reliance(*(statistics.fmean(column) for column in zip(*differences, strict=True)))


@dataclass(frozen=True)
class Consistency:
    """Result of checking a record against its image."""

    record: GRIQARecord | None
    """Without contradicted sentences; None if the sample must be dropped or rewritten."""
    verdicts: tuple[Verdict, ...]
    """One per checked sentence."""

    @property
    def refuted(self) -> tuple[Verdict, ...]:
        """The contradicted ones."""
        return tuple(verdict for verdict in self.verdicts if verdict.refuted)


def check_consistency(
    record: GRIQARecord, image: Tensor, checker: Checker, *, max_refuted_share: float = 0.25
) -> Consistency:
    """Check every sentence that describes the image as it is, and drop contradicted ones.

    Directions are not checked: they describe an ideal image. Sentences of a later round that name
    no region are about the region that the round before asked for.

    Args:
        record: with rounds.
        image: (3, H, W) in [0, 1].
        checker: rules or a model.
        max_refuted_share: of the checked sentences; above it the whole sample is dropped.
    """
    verdicts: list[Verdict] = []
    rounds: list[GRIQARound] | None = []
    previous_bbox: BBox | None = None
    for number, look in enumerate(record.rounds, start=1):
        said = parse_reasoning(reply_text(look, number))
        changes = {}
        for section in ("summary", "issues", "decision"):
            sentences = list(getattr(said, section))
            found = checker.check(
                image, sentences, region=previous_bbox or look.bbox, enlarged=number > 1
            )
            verdicts += found
            kept = [verdict.sentence for verdict in found if not verdict.refuted]
            if len(kept) < len(sentences):
                changes[section] = " ".join(kept)
        rounds = _changed(rounds, look, changes)
        previous_bbox = look.bbox
    refuted = sum(verdict.refuted for verdict in verdicts)
    if rounds is None or refuted > max_refuted_share * len(verdicts):
        return Consistency(None, tuple(verdicts))
    return Consistency(dataclasses.replace(record, rounds=tuple(rounds)), tuple(verdicts))


def _changed(
    rounds: list[GRIQARound] | None, look: GRIQARound, changes: dict[str, str]
) -> list[GRIQARound] | None:
    """The rounds and one more, reworded; None if a section would be empty."""
    if rounds is None or not all(changes.values()):
        return None
    try:
        return [*rounds, dataclasses.replace(look, **changes)]
    except RecordError:  # the remaining sentences may not parse as a section
        return None
