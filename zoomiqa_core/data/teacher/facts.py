"""What is known of an image before anything is written, and how sure a first look can be of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox

HARD_RATINGS = (2.2, 4.2)
"""Between these a rating is hard to tell at a glance."""
MIDDLE = 3.0
LOCAL_PULL, GLOBAL_PULL = 0.35, 0.15
"""How far the first rating of a hard case is drawn to the middle of the scale: more where a small
region decides, which a glance hardly sees."""
FIRST_SPREAD = 0.1
"""The first rating of a hard case is off by up to this, uniformly, on top."""


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong."""

    kind: str
    """Key of :data:`zoomiqa_core.data.teacher.wording.WORDINGS`."""
    rating: float
    """How people rate a place that carries it, 1–5: what names its strength."""
    bbox: BBox | None = None
    """Where it is, normalised, two decimals; None when everywhere."""


@dataclass(frozen=True)
class Facts:
    """What is known of an image."""

    rating: float
    """Of the whole image, 1–5."""
    flaws: tuple[Flaw, ...] = ()
    """The one that decides first."""
    look_at: BBox | None = None
    """The region worth enlarging, normalised, two decimals."""
    merits: tuple[str, ...] = ()
    """What is measured to be good: adjectives."""


def needs_closer_look(facts: Facts) -> bool:
    """Whether the case is hard: a region is damaged, or the rating lies in the middle."""
    if facts.look_at is None:
        return False
    local = any(flaw.bbox is not None for flaw in facts.flaws)
    return local or HARD_RATINGS[0] <= facts.rating < HARD_RATINGS[1]


def first_rating(facts: Facts, generator: torch.Generator) -> float:
    """The unsure rating of a first look, two decimals.

    ``r + pull·(3 − r) + u``, u uniform in ±0.1; the pull is .35 when a region decides, else .15.
    """
    local = any(flaw.bbox is not None for flaw in facts.flaws)
    pull = LOCAL_PULL if local else GLOBAL_PULL
    drift = FIRST_SPREAD * (2 * float(torch.rand((), generator=generator)) - 1)
    return written(facts.rating + pull * (MIDDLE - facts.rating) + drift)


def written(rating: float) -> float:
    """The rating as it is written: on the scale, with two decimals."""
    return round(min(max(rating, MIN_RATING), MAX_RATING), 2)
