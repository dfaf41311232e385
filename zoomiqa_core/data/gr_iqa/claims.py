"""Check sentences about an image against measurements: which claims do they make, which are wrong?

A claim is refuted only by a measurement far on the other side, so that true sentences about unusual
images are kept: a kept sentence is not proved, but a dropped one should be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.hints import MIN_HINT_SIDE, Hints, measure_hints
from zoomiqa_core.data.gr_iqa.regions import NAMED_REGIONS, region_name


@dataclass(frozen=True)
class Claim:
    """Words whose truth can be measured."""

    name: str
    pattern: re.Pattern[str]
    hint: str
    """Field of :class:`Hints`."""
    below: float | None = None
    """Refuted by a measurement below this."""
    above: float | None = None
    """Refuted by a measurement above this."""
    denied_above: float | None = None
    """Its denial ("no noise") is refuted by a measurement above this."""


def _claim(name: str, words: str, hint: str, **limits: float) -> Claim:
    return Claim(name, re.compile(rf"\b(?:{words})\b"), hint, **limits)


_BLUR, _NOISE = "(?:blur|soft focus)", "(?:noise|grain)"
_DOTS, _BLOCKS = "(?:speckles|stray dots)", "(?:compression blocks|blockiness)"
_STRONG, _MILD = "(?:strong|heavy|severe|extreme)", "(?:faint|slight|mild|light)"

CLAIMS = (
    _claim("dark", r"dark\w*|dim|underexpos\w+|lack of light", "brightness", above=0.6),
    _claim("bright", r"too bright|overexpos\w+|excess light|washed out", "brightness", below=0.38),
    _claim("flat", r"low contrast|contrast loss|flat|flatness", "contrast", above=0.27),
    _claim("contrasty", r"(?:rich in|strong|excess|overdone) contrast", "contrast", below=0.12),
    _claim("faded", r"fad(?:ed|ing)|colour loss|pale|colourless", "colourfulness", above=40.0),
    _claim("colourful", r"colourful|vivid|saturated", "colourfulness", below=20.0),
    _claim("blurred", r"blur\w*|soft focus|out of focus", "blur", below=0.27, denied_above=0.6),
    _claim("sharp", r"sharp|crisp", "blur", above=0.5),
    _claim("noisy", r"nois[ey]\w*|grain\w*", "noise", below=0.006, denied_above=0.016),
    _claim("blocky", r"block\w*|compression", "blockiness", below=1.25, denied_above=2.2),
    _claim("strong blur", f"{_STRONG} {_BLUR}", "blur", below=0.52),
    _claim("strong noise", f"{_STRONG} {_NOISE}", "noise", below=0.026),
    _claim("strong dots", f"{_STRONG} {_DOTS}", "noise", below=0.02),
    _claim("strong blocks", f"{_STRONG} {_BLOCKS}", "blockiness", below=2.0),
    _claim(
        "strong darkness", f"{_STRONG} (?:underexposure|lack of light)", "brightness", above=0.5
    ),
    _claim("strong light", f"{_STRONG} (?:overexposure|excess light)", "brightness", below=0.6),
    _claim("strong fading", f"{_STRONG} colour (?:fading|loss)", "colourfulness", above=20.0),
    _claim("mild blur", f"{_MILD} {_BLUR}", "blur", above=0.52),
    _claim("mild noise", f"{_MILD} {_NOISE}", "noise", above=0.04),
    _claim("mild dots", f"{_MILD} {_DOTS}", "noise", above=0.02),
    _claim("mild blocks", f"{_MILD} {_BLOCKS}", "blockiness", above=2.3),
    _claim("clean of noise", r"clean|nothing disturbs|no flaw", "noise", above=0.016),
    _claim("clean of blur", r"clean|nothing disturbs|no flaw", "blur", above=0.75),
    _claim("clean of blocks", r"clean|nothing disturbs|no flaw", "blockiness", above=2.4),
)
"""Limits of a flaw's presence are passed by some 2 % of photos that have it at KADID's strengths
(320² crops of 12 training photos, all cells rated 4.45 or less); limits of its absence lie beyond
what clean photos measure."""

_DENIAL = re.compile(r"\b(?:no|not|without|free of|hardly any|never)\b[^,;:.]*$")
_WHOLE = re.compile(r"\b(?:whole frame|photo|image|picture)\b")
_ELSEWHERE = re.compile(r"\b(?:the rest|elsewhere|mostly)\b")


@dataclass(frozen=True)
class Verdict:
    """Result of checking one sentence."""

    sentence: str
    refuted: bool
    reason: str = ""
    """The claim and the measurement that contradicts it."""


class Checker(Protocol):
    """Checks sentences against an image: by rules (:class:`HintChecker`) or with a model."""

    def check(
        self,
        image: Tensor,
        sentences: Sequence[str],
        *,
        region: BBox | None = None,
        enlarged: bool = False,
    ) -> list[Verdict]:
        """One verdict per sentence.

        Args:
            image: (3, H, W) in [0, 1].
            sentences: that describe the image as it is.
            region: the region to be shown or shown, which sentences may refer to by name.
            enlarged: whether it is shown; then a sentence that names no region is about it.
        """
        ...


class HintChecker:
    """Checks sentences with hints measured in the region that each sentence names.

    Sentences about "the rest" are not checked: there is no box for it.

    >>> import torch
    >>> dark = torch.rand(3, 64, 64) / 5
    >>> for verdict in HintChecker().check(dark, ["It is too bright.", "The top is dark."]):
    ...     print(verdict.sentence, verdict.refuted, verdict.reason)
    It is too bright. True 'bright' against brightness 0.1 (limit 0.38)
    The top is dark. False
    """

    def __init__(self, claims: Sequence[Claim] = CLAIMS) -> None:
        self.claims = claims

    def check(
        self,
        image: Tensor,
        sentences: Sequence[str],
        *,
        region: BBox | None = None,
        enlarged: bool = False,
    ) -> list[Verdict]:
        """One verdict per sentence; see :class:`Checker`."""
        known: dict[BBox | None, Hints] = {}

        def hints_of(box: BBox | None) -> Hints:
            if box not in known:
                known[box] = measure_hints(_crop(image, box))
            return known[box]

        inner = None if region is None else _middle(region)
        boxes = NAMED_REGIONS if inner is None else {**NAMED_REGIONS, region_name(region): inner}
        nowhere = inner if enlarged else None
        return [self._verdict(_clauses(text, boxes, nowhere), text, hints_of) for text in sentences]

    def _verdict(
        self,
        clauses: list[tuple[str, BBox | None]],
        sentence: str,
        hints_of: Callable[[BBox | None], Hints],
    ) -> Verdict:
        for clause, box in clauses:
            for claim in self.claims:
                match = claim.pattern.search(clause)
                if not match or _ELSEWHERE.search(clause):
                    continue
                value = getattr(hints_of(box), claim.hint)
                denied = _DENIAL.search(clause[: match.start()]) is not None
                if why := _refuted(claim, value, denied=denied):
                    return Verdict(sentence, True, why)
        return Verdict(sentence, False)


def _refuted(claim: Claim, value: float, *, denied: bool) -> str:
    said = f"not {claim.name}" if denied else claim.name
    if denied:
        limit, wrong = claim.denied_above, claim.denied_above is not None
        wrong = wrong and value > (limit or 0.0)
    else:
        low = claim.below is not None and value < claim.below
        high = claim.above is not None and value > claim.above
        limit, wrong = (claim.below if low else claim.above), low or high
    if not wrong:
        return ""
    return f"{said!r} against {claim.hint} {value:.3g} (limit {limit:g})"


def _clauses(
    sentence: str, places: Mapping[str, BBox], nowhere: BBox | None
) -> list[tuple[str, BBox | None]]:
    """Parts of a sentence, split at ";" and "and", each with the box of the region it names.

    A part that names none takes that of the next part ("noise and blur in the centre"), the last
    one takes ``nowhere``.
    """
    box = nowhere
    clauses: list[tuple[str, BBox | None]] = []
    for part in reversed(re.split(r";| and ", sentence.lower())):
        names = [name for name in places if re.search(rf"{name}\b", part)]
        if names:
            box = places[names[-1]]
        elif _WHOLE.search(part):
            box = None
        clauses.append((part, box))
    return clauses[::-1]


def _middle(box: BBox) -> BBox:
    """The middle 70 % of each side of a region: a flaw need not reach its corners."""
    x0, y0, x1, y1 = box
    x, y = 0.15 * (x1 - x0), 0.15 * (y1 - y0)
    return x0 + x, y0 + y, x1 - x, y1 - y


def _crop(image: Tensor, box: BBox | None) -> Tensor:
    """The pixels of a box, widened to at least 24 px a side."""
    if box is None:
        return image
    height, width = image.shape[-2:]
    x0, x1 = _span(box[0], box[2], width)
    y0, y1 = _span(box[1], box[3], height)
    return image[..., y0:y1, x0:x1]


def _span(low: float, high: float, length: int) -> tuple[int, int]:
    start, end = int(low * length), round(high * length)
    if end - start < MIN_HINT_SIDE:
        start = max(0, min((start + end - MIN_HINT_SIDE) // 2, length - MIN_HINT_SIDE))
        end = min(start + MIN_HINT_SIDE, length)
    return start, end
