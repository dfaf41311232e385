"""The synthetic teacher: writes a grounded rationale from known facts, without a model.

Its wording varies and its rounds follow Zoom-IQA (arXiv 2601.02918): an easy case is final in one
round; a hard one is uncertain, asks for the region that decides and revises its rating. The paper's
teacher is a large model; this one allows training and tests offline.
"""

from __future__ import annotations

from typing import Literal

import torch

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.rationale import GRIQARegion, GRIQARound
from zoomiqa_core.data.gr_iqa.regions import in_region, region_name
from zoomiqa_core.data.teacher.facts import (
    HARD_RATINGS,
    Facts,
    Flaw,
    first_rating,
    needs_closer_look,
    written,
)
from zoomiqa_core.data.teacher.wording import WORDINGS, pick, severity, verdict

Style = Literal["short", "long"]

MILD_RATING = 3.3
MILD_SIGNS = ("easy to overlook", "it stays in the background", "the detail survives")
"""Said instead of the signs of a flaw that people rate ``MILD_RATING`` or better."""


def write_rounds(
    facts: Facts, *, generator: torch.Generator, style: Style = "short"
) -> tuple[GRIQARound, ...]:
    """Write one round for an easy case, two for a hard one.

    >>> from zoomiqa_core.data.teacher.facts import Flaw
    >>> facts = Facts(1.4, (Flaw("blocks", 1.4),))
    >>> (only,) = write_rounds(facts, generator=torch.Generator().manual_seed(0))
    >>> only.rating, only.tool
    (1.4, 'final')

    Args:
        facts: about the image.
        generator: for the wording and the noise of the first rating.
        style: ``"short"`` keeps a reply under some 90 words; ``"long"`` adds what the flaw does.
    """
    write = _Writer(facts, generator, style)
    if not needs_closer_look(facts):
        return (write.only_round(),)
    unsure = first_rating(facts, generator)
    return write.first_round(unsure), write.second_round(unsure)


def write_region(
    bbox: BBox, rating: float, flaws: tuple[Flaw, ...], *, generator: torch.Generator
) -> GRIQARegion:
    """Write the reply about one region alone, with these flaws or none."""
    rating = written(rating)
    if not flaws:
        summary = _pick(generator, "The region is clean.", "Nothing disturbs the region.")
        ideal, issues = "Natural detail, as it is.", ""
    else:
        name = pick(WORDINGS[flaws[0].kind].names, generator)
        strength = severity(flaws[0].rating, generator)
        summary = _pick(generator, "The region shows {}.", "The enlarged region has {}.")
        summary = summary.format(f"{strength} {name}")
        ideal = f"{_cap(pick(WORDINGS[flaws[0].kind].ideals, generator))} in the region."
        issues = f"{_cap(strength)} {name} in the region."
    decision = _pick(generator, "The region is {}: {:.2f}.", "Quality here is {}, rated {:.2f}.")
    decision = decision.format(verdict(rating), rating)
    return GRIQARegion(bbox, GRIQARound(summary, ideal, issues, decision, rating, "final"))


class _Writer:
    """The words about one image; each section draws its own wording."""

    def __init__(self, facts: Facts, generator: torch.Generator, style: Style) -> None:
        self.facts, self.generator, self.style = facts, generator, style
        self.rating = written(facts.rating)
        self.place = region_name(facts.look_at)
        self.names = [pick(WORDINGS[flaw.kind].names, generator) for flaw in facts.flaws]
        self.strengths = [severity(flaw.rating, generator) for flaw in facts.flaws]

    def only_round(self) -> GRIQARound:
        """An easy case, final at once."""
        if self.facts.flaws:
            decision = self._pick(
                "Rated {r:.2f}: the {name} is plain to see, no closer look is needed.",
                "Sure of {r:.2f}, as the {name} can be seen at once.",
                "Because of the {name} alone: {r:.2f}.",
            )
        else:
            decision = self._pick(
                "Rated {r:.2f}: nothing disturbs the view, no closer look is needed.",
                "Sure of {r:.2f}, as the whole frame is clean.",
                "No flaw is seen, so {r:.2f}.",
            )
            if self.rating < HARD_RATINGS[1]:
                decision = self._pick("Rated {r:.2f} as a whole.", "Sure of {r:.2f} as a whole.")
        decision = decision.format(r=self.rating, name=self.names[0] if self.names else "")
        summary = self._summary(self.strengths, self.rating)
        return GRIQARound(
            summary, self._directions(), self._issues(), decision, self.rating, "final"
        )

    def first_round(self, unsure: float) -> GRIQARound:
        """A hard case: a first rating, and the wish to see what decides."""
        strengths = list(self.strengths)
        strengths[:1] = ["some"] * len(strengths[:1])  # how strong it is, the closer look tells
        subject = f"the {self.names[0]}" if self.names else "the detail"
        decision = self._pick(
            "About {r:.2f}, but not sure; enlarge {place} to judge {subject}.",
            "Perhaps {r:.2f}; a closer look {at} would tell more of {subject}.",
            "For now {r:.2f}. Unsure about {subject}, so show {place} larger.",
        ).format(r=unsure, place=self.place, at=in_region(self.place), subject=subject)
        issues = self._issues(strengths)
        box = self.facts.look_at
        return GRIQARound(
            self._summary(strengths, unsure),
            self._directions(),
            issues,
            decision,
            unsure,
            "crop",
            box,
        )

    def second_round(self, unsure: float) -> GRIQARound:
        """What the crop shows, and the rating it leads to."""
        if self.facts.flaws:
            flaw = self.facts.flaws[0]
            seen = f"{self.strengths[0]} {self.names[0]}"
            summary = self._pick(
                "The enlarged part shows {seen}: {sign}.",
                "Seen larger, {place} has {seen}; {sign}.",
                "The crop confirms {seen}: {sign}.",
            ).format(seen=seen, place=self.place, sign=self._sign(flaw))
        else:
            summary = self._pick(
                "Seen larger, {place} holds no further flaw.",
                "The enlarged part shows no single flaw.",
            ).format(place=self.place)
        decision = self._pick(
            "From {a:.2f} to {b:.2f}: {why}.",
            "First {a:.2f}, now {b:.2f}: {why}.",
            "The rating {moves} from {a:.2f} to {b:.2f}, as {why}.",
        ).format(a=unsure, b=self.rating, **self._change(self.rating - unsure))
        return GRIQARound(
            summary, self._directions(), self._issues(), decision, self.rating, "final"
        )

    def _summary(self, strengths: list[str], rating: float) -> str:
        word, flaws = verdict(rating), self.facts.flaws
        if not flaws:
            merits = " and ".join(self._shuffled(self.facts.merits)[:2])
            text = self._pick("{} photo", "Overall {} photo").format(_article(word))
            ending = self._pick("; it is {}.", ", {}.", "; {} as a whole.").format(merits)
            return _cap(text + (ending if merits else "."))
        text = self._pick(
            "{a_word} photo with {said}.",
            "{said}; the photo is {word}.",
            "The photo is {word}, with {said}.",
        ).format(word=word, a_word=_article(word), said=" and ".join(self._flaws(strengths)))
        if all(flaw.bbox is not None for flaw in flaws):
            text += self._pick(" The rest looks clean.", " Elsewhere nothing disturbs.", "")
        return self._lengthened(_cap(text))

    def _issues(self, strengths: list[str] | None = None) -> str:
        return " ".join(f"{_cap(said)}." for said in self._flaws(strengths or self.strengths))

    def _flaws(self, strengths: list[str]) -> list[str]:
        """Each flaw with its strength and place; those of one place together."""
        at_place: dict[str, list[str]] = {}
        for strength, name, flaw in zip(strengths, self.names, self.facts.flaws, strict=True):
            at_place.setdefault(in_region(region_name(flaw.bbox)), []).append(f"{strength} {name}")
        return [f"{' and '.join(names)} {place}" for place, names in at_place.items()]

    def _directions(self) -> str:
        if not self.facts.flaws:
            text = self._pick(
                "Clear detail {at}, kept as it is.",
                "Natural colours and clear detail {at}.",
                "{place}: clear detail and balanced light, as now.",
            )
            return _cap(text.format(at=in_region(self.place), place=self.place))
        ideals: dict[str, list[str]] = {}
        for flaw in self.facts.flaws:
            options = WORDINGS[flaw.kind].ideals
            known = ideals.setdefault(region_name(flaw.bbox), [])
            known += [o for o in self._shuffled(options)[:2] if o not in known]
        said = []
        for place, wanted in ideals.items():
            text = self._pick("{a} {at}.", "{a} and {b} {at}.", "{place}: {a} and {b}.")
            a, b = wanted[0], wanted[-1] if len(wanted) > 1 else "balanced light"
            said.append(_cap(text.format(a=a, b=b, at=in_region(place), place=place)))
        return " ".join(said)

    def _change(self, gap: float) -> dict[str, str]:
        """What a rating's change is called, and why it came."""
        flaws = self.facts.flaws
        if abs(gap) < 0.05:
            return {"moves": "hardly moves", "why": "the closer look changes little"}
        moves = "falls" if gap < 0 else "rises"
        if not flaws:
            why = "the detail is weaker than it seemed" if gap < 0 else "the detail holds up"
        elif gap < 0:
            why = "it is worse than it seemed"
        elif all(flaw.bbox is None for flaw in flaws):
            why = "it is milder than it seemed"
        else:
            why = "only this part is affected" if len(flaws) == 1 else "the worst part is small"
        return {"moves": moves, "why": why}

    def _lengthened(self, text: str) -> str:
        if self.style == "short":
            return text
        return f"{text} {_cap(self._sign(self.facts.flaws[0]))}."

    def _sign(self, flaw: Flaw) -> str:
        """What the flaw does to the picture; a mild one does little."""
        mild = flaw.rating >= MILD_RATING
        return pick(MILD_SIGNS if mild else WORDINGS[flaw.kind].signs, self.generator)

    def _shuffled(self, options: tuple[str, ...]) -> list[str]:
        return [options[i] for i in torch.randperm(len(options), generator=self.generator)]

    def _pick(self, *options: str) -> str:
        return pick(options, self.generator)


def _pick(generator: torch.Generator, *options: str) -> str:
    return pick(options, generator)


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
