"""Facts about an image that a teacher writes from, and what decides whether it zooms in."""

from __future__ import annotations

from dataclasses import dataclass

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox

HARD_RATINGS = (2.2, 4.2)
"""Between these a rating is uncertain without a closer look."""
MIDDLE = 3.0


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
    blind: float = MIDDLE
    """Rating of a judge that saw a thumbnail only. A hard case's first round is rated so; what the
    thumbnail hides is left to the crop."""
    closer: tuple[Flaw, ...] = ()
    """Flaws seen in the enlarged ``look_at``, the second round's."""


def needs_closer_look(facts: Facts) -> bool:
    """Whether the case is hard: a region is damaged, or the rating is in the middle."""
    if facts.look_at is None:
        return False
    local = any(flaw.bbox is not None for flaw in facts.flaws)
    return local or HARD_RATINGS[0] <= facts.rating < HARD_RATINGS[1]


def written(rating: float) -> float:
    """The rating as it is written: on the scale, with two decimals."""
    return round(min(max(rating, MIN_RATING), MAX_RATING), 2)
