"""Facts about a photo that people rated, from measured hints and the rating.

People's reasons are unknown. A flaw is named if a hint is extreme, with looser limits at lower
ratings; if there is none, the kind is ``overall``. What is written is true, but may not be the
whole cause.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.hints import LUMA, Hints, measure_hints
from zoomiqa_core.data.teacher.facts import MIDDLE, Facts, Flaw, needs_closer_look
from zoomiqa_core.zoom_iqa.crop import crop_box

GOOD_RATING, FAIR_RATING = 3.8, 3.4
"""From the first on an extreme hint is no flaw (a night scene is dark); under the second, a
moderate one is taken for a cause."""

STRONGEST_MODERATE = 2.4
"""A flaw that only a moderate hint shows is called no stronger than flaws of places rated so."""


class Sign(NamedTuple):
    """A kind of flaw and when a hint shows it; limits are those of clear and of moderate cases."""

    kind: str
    hint: str
    above: bool
    clear: float
    moderate: float


SIGNS = (
    Sign("dark", "brightness", False, 0.20, 0.27),
    Sign("bright", "brightness", True, 0.80, 0.74),
    Sign("blur", "blur", True, 0.58, 0.47),
    Sign("noise", "noise", True, 0.028, 0.008),
    Sign("blocks", "blockiness", True, 2.2, 1.7),
    Sign("flat", "contrast", False, 0.09, 0.13),
    Sign("fading", "colourfulness", False, 10.0, 16.0),
)
"""Clear limits are those of strong damage, moderate ones are passed by one in ten to one in four of
BIQ2021's photos rated under 3, noise by fewer."""

MERITS = (
    ("sharp", lambda hints: hints.blur < 0.33),
    ("well lit", lambda hints: 0.36 < hints.brightness < 0.65 and hints.contrast < 0.26),
    ("rich in contrast", lambda hints: hints.contrast > 0.2),
    ("colourful", lambda hints: hints.colourfulness > 45),
)
"""What is said of a photo without flaws, and when; the first two that hold."""


def photo_facts(image: Tensor, rating: float, blind: float = MIDDLE) -> Facts:
    """Facts about a rated photo.

    If the case is hard, the flaws of the whole are those a judge names who rates it ``blind``, and
    people's rating decides only which flaws of the crop are named.

    >>> facts = photo_facts(torch.rand(3, 96, 96) * 0.2, rating=2.4, blind=3.2)
    >>> [flaw.kind for flaw in facts.flaws], [flaw.kind for flaw in facts.closer]
    (['flat', 'dark'], ['flat', 'dark'])

    Args:
        image: (3, H, W) in [0, 1].
        rating: mean opinion, 1–5.
        blind: a judge's rating of a thumbnail.
    """
    hints, place = measure_hints(image), detailed_region(image)
    facts = Facts(rating, _flaws(hints, rating), place, blind=blind)
    if needs_closer_look(facts):
        closer = _flaws(measure_hints(_shown(image, place)), rating)
        closer = tuple(replace(flaw, bbox=place) for flaw in closer)
        facts = replace(facts, flaws=_flaws(hints, blind), closer=closer)
    stated = blind if needs_closer_look(facts) else rating
    return replace(facts, merits=_merits(hints) if stated >= GOOD_RATING else ())


def merits(image: Tensor) -> tuple[str, ...]:
    """Adjectives for what is measured to be good about an image."""
    return _merits(measure_hints(image))


def detailed_region(image: Tensor) -> BBox:
    """The half-by-half region, of nine, with most detail, where flaws are most visible.

    The others are the four corners, the middles of the sides and the centre.
    """
    luma = torch.einsum("c,chw->hw", torch.tensor(LUMA), image.float().cpu())
    return strongest_region(luma.diff(dim=0)[:, :-1].abs() + luma.diff(dim=1)[:-1].abs())


def strongest_region(plane: Tensor) -> BBox:
    """The half-by-half region, of nine, where a plane (H, W) has the greatest mean."""
    quarters = functional.adaptive_avg_pool2d(plane[None, None], 4)
    halves = functional.avg_pool2d(quarters, 2, stride=1).flatten()  # (9,)
    row, column = divmod(int(halves.argmax()), 3)
    x0, y0 = column / 4, row / 4
    return x0, y0, x0 + 0.5, y0 + 0.5


def _shown(image: Tensor, place: BBox) -> Tensor:
    """The pixels of the crop that a judge is shown for a box."""
    x0, y0, x1, y1 = crop_box(place, image.shape[-1], image.shape[-2]).bbox_px
    return image[:, y0:y1, x0:x1]


def _merits(hints: Hints) -> tuple[str, ...]:
    return tuple(word for word, holds in MERITS if holds(hints))


def _flaws(hints: Hints, rating: float) -> tuple[Flaw, ...]:
    """At most two flaws, those furthest beyond their clear limit first."""
    if rating >= GOOD_RATING:
        return ()
    found = []
    for sign in SIGNS:
        value = getattr(hints, sign.hint)
        limit = sign.moderate if rating < FAIR_RATING else sign.clear
        excess = value / sign.clear if sign.above else sign.clear / max(value, 1e-6)
        if value > limit if sign.above else value < limit:
            found.append((excess, sign.kind))
    if not found and rating < FAIR_RATING:
        return (Flaw("overall", rating),)
    worst = sorted(found, reverse=True)[:2]
    return tuple(Flaw(kind, _strength(excess >= 1, rating)) for excess, kind in worst)


def _strength(clear: bool, rating: float) -> float:
    """The rating that names how strong a flaw is: people's, held in what the hint supports."""
    return rating if clear else max(rating, STRONGEST_MODERATE)
