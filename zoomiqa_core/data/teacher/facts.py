"""Facts about an image that a teacher writes from, and the rating of an uncertain first round."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox

HARD_RATINGS = (2.2, 4.2)
"""Between these a rating is uncertain without a closer look."""
MIDDLE = 3.0
LOCAL_PULL, GLOBAL_PULL = 0.35, 0.15
"""How far the first rating of a hard case moves to the middle of the scale: more if a small region,
hardly visible in the whole image, decides."""
FIRST_SPREAD = 0.1
"""Half-width of the uniform noise added to the first rating of a hard case."""


@dataclass(frozen=True)
class Flaw:
    """One flaw of an image."""

    kind: str
    """Key of :data:`zoomiqa_core.data.teacher.wording.WORDINGS`."""
    rating: float
    """People's rating of a region that has it, 1–5; the adjective of strength follows from it."""
    bbox: BBox | None = None
    """Where it is, normalised, two decimals; None when everywhere."""


@dataclass(frozen=True)
class Facts:
    """Facts about an image.

    >>> facts = Facts(3.1, (Flaw("noise", 3.1),), look_at=(0.5, 0.5, 1.0, 1.0))
    >>> needs_closer_look(facts)
    True
    """

    rating: float
    """Of the whole image, 1–5."""
    flaws: tuple[Flaw, ...] = ()
    """The one that decides the rating comes first."""
    look_at: BBox | None = None
    """The region worth enlarging, normalised, two decimals."""
    merits: tuple[str, ...] = ()
    """Adjectives for what is measured to be good."""


def needs_closer_look(facts: Facts) -> bool:
    """Whether the case is hard: a region is damaged, or the rating is in the middle."""
    if facts.look_at is None:
        return False
    local = any(flaw.bbox is not None for flaw in facts.flaws)
    return local or HARD_RATINGS[0] <= facts.rating < HARD_RATINGS[1]


def first_rating(facts: Facts, generator: torch.Generator) -> float:
    """The uncertain rating of a first round, two decimals.

    ``r + pull·(3 − r) + u``, u uniform in ±0.1; the pull is .35 when a region decides, else .15.
    """
    local = any(flaw.bbox is not None for flaw in facts.flaws)
    pull = LOCAL_PULL if local else GLOBAL_PULL
    drift = FIRST_SPREAD * (2 * float(torch.rand((), generator=generator)) - 1)
    return written(facts.rating + pull * (MIDDLE - facts.rating) + drift)


def written(rating: float) -> float:
    """The rating as it is written: on the scale, with two decimals."""
    return round(min(max(rating, MIN_RATING), MAX_RATING), 2)
