"""The synthetic teacher: writes a grounded rationale from known facts, without a model.

Its wording varies and its rounds follow Zoom-IQA (arXiv 2601.02918): an easy case is final in one
round; a hard one is rated as a thumbnail lets one guess, asks for the region that decides and is
rated anew for what the crop shows. No section contains the rating: the answer has to be read off
the image and not copied from the words. The paper's teacher is a large model; this one allows
training and tests offline.
"""

from __future__ import annotations

from typing import Literal

import torch

from zoomiqa_core.assessment import BBox
from zoomiqa_core.data.gr_iqa.rationale import GRIQARegion, GRIQARound
from zoomiqa_core.data.gr_iqa.regions import in_region, region_name
from zoomiqa_core.data.teacher.facts import HARD_RATINGS, Facts, Flaw, needs_closer_look, written
from zoomiqa_core.data.teacher.wording import WORDINGS, pick, severity, verdict

Style = Literal["short", "long"]

MILD_RATING = 3.3
MILD_SIGNS = ("easy to overlook", "it stays in the background", "the detail survives")
"""Said instead of the signs of a flaw that people rate ``MILD_RATING`` or better."""
CHANGES = ((0.15, "hardly moves"), (0.5, "{} a little"), (1.0, "{}"), (9.0, "{} far"))
"""How far a rating moves, in words, by the greatest change they fit."""


def write_rounds(
    facts: Facts, *, generator: torch.Generator, style: Style = "short"
) -> tuple[GRIQARound, ...]:
    """Write one round for an easy case, two for a hard one.

    >>> from zoomiqa_core.data.teacher.facts import Flaw
    >>> noise = Flaw("noise", 2.6)
    >>> facts = Facts(2.6, (noise,), look_at=(0.5, 0.0, 1.0, 0.5), blind=3.2, closer=(noise,))
    >>> first, second = write_rounds(facts, generator=torch.Generator().manual_seed(0))
    >>> first.rating, first.tool, second.rating, second.tool
    (3.2, 'crop', 2.6, 'final')

    Args:
        facts: about the image.
        generator: for the wording.
        style: ``"short"`` keeps a reply under some 90 words; ``"long"`` adds what the flaw does.
    """
    if not needs_closer_look(facts):
        writer = _Writer(facts, facts.flaws, written(facts.rating), generator, style)
        return (writer.only_round(),)
    first = _Writer(facts, facts.flaws, written(facts.blind), generator, style)
    second = _Writer(facts, facts.closer, written(facts.rating), generator, style)
    return first.first_round(), second.second_round(first.rating)


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
    decision = _pick(generator, "The region is {}.", "Quality here is {}.", "{} in itself.")
    decision = _cap(decision.format(verdict(rating, generator)))
    return GRIQARegion(bbox, GRIQARound(summary, ideal, issues, decision, rating, "final"))


class _Writer:
    """The words of one round; each section draws its own wording."""

    def __init__(
        self,
        facts: Facts,
        flaws: tuple[Flaw, ...],
        rating: float,
        generator: torch.Generator,
        style: Style,
    ) -> None:
        self.facts, self.flaws, self.rating = facts, flaws, rating
        self.generator, self.style = generator, style
        self.place = region_name(facts.look_at)
        self.names = [pick(WORDINGS[flaw.kind].names, generator) for flaw in flaws]
        self.strengths = [severity(flaw.rating, generator) for flaw in flaws]

    def only_round(self) -> GRIQARound:
        """An easy case, final at once."""
        if self.flaws:
            decision = self._pick(
                "The {name} is plain to see, no closer look is needed.",
                "Sure of it, as the {name} can be seen at once.",
                "The {name} alone decides.",
            ).format(name=self.names[0])
        elif self.rating < HARD_RATINGS[1]:
            decision = self._pick("Rated as a whole.", "Sure of it as a whole.")
        else:
            decision = self._pick(
                "Nothing disturbs the view, no closer look is needed.",
                "Sure of it, as the whole frame is clean.",
                "No flaw is seen.",
            )
        return self._round(self._summary(), decision)

    def first_round(self) -> GRIQARound:
        """A hard case: a guess, and the wish to see what decides."""
        # How strong the deciding flaw is, only the closer look tells.
        self.strengths[:1] = ["some"] * len(self.strengths[:1])
        subject = f"the {self.names[0]}" if self.names else "the detail"
        decision = self._pick(
            "Not sure; enlarge {place} to judge {subject}.",
            "A guess; a closer look {at} would tell more of {subject}.",
            "Unsure about {subject}, so show {place} larger.",
        ).format(place=self.place, at=in_region(self.place), subject=subject)
        return self._round(self._summary(), decision, self.facts.look_at)

    def second_round(self, guess: float) -> GRIQARound:
        """What the crop shows, and where it moves the rating.

        Args:
            guess: rating of the first round.
        """
        if self.flaws:
            summary = self._pick(
                "{word}: the enlarged part shows {seen}; {sign}.",
                "Seen larger, {place} has {seen}; {sign}. The photo is {word}.",
                "The crop shows {seen}: {sign}. {word} as a whole.",
            )
            seen = f"{self.strengths[0]} {self.names[0]}"
            sign = self._sign(self.flaws[0])
        else:
            summary = self._pick(
                "{word}: seen larger, {place} holds no further flaw.",
                "The enlarged part shows no single flaw. {word} as a whole.",
            )
            seen = sign = ""
        word = verdict(self.rating, self.generator)
        word = word if "is {word}" in summary else _cap(word)
        summary = summary.format(word=word, place=self.place, seen=seen, sign=sign)
        moves, why = self._change(self.rating - guess)
        decision = self._pick(
            "The rating {moves}: {why}.",
            "So the rating {moves}, as {why}.",
            "{Why}: the rating {moves}.",
        ).format(moves=moves, why=why, Why=_cap(why))
        return self._round(summary, decision)

    def _round(self, summary: str, decision: str, box: BBox | None = None) -> GRIQARound:
        tool = "crop" if box else "final"
        directions, issues = self._directions(), self._issues()
        return GRIQARound(summary, directions, issues, decision, self.rating, tool, box)

    def _summary(self) -> str:
        word, flaws = verdict(self.rating, self.generator), self.flaws
        if not flaws:
            merits = " and ".join(self._shuffled(self.facts.merits)[:2])
            text = self._pick("{} photo", "Overall {} photo").format(_article(word))
            ending = self._pick("; it is {}.", ", {}.", "; {} as a whole.").format(merits)
            return _cap(text + (ending if merits else "."))
        text = self._pick(
            "{a_word} photo with {said}.",
            "{said}; the photo is {word}.",
            "The photo is {word}, with {said}.",
        ).format(word=word, a_word=_article(word), said=" and ".join(self._flaws()))
        if all(flaw.bbox is not None for flaw in flaws):
            text += self._pick(" The rest looks clean.", " Elsewhere nothing disturbs.", "")
        return self._lengthened(_cap(text))

    def _issues(self) -> str:
        return " ".join(f"{_cap(said)}." for said in self._flaws())

    def _flaws(self) -> list[str]:
        """Each flaw with its strength and place; those of one place together."""
        at_place: dict[str, list[str]] = {}
        for strength, name, flaw in zip(self.strengths, self.names, self.flaws, strict=True):
            at_place.setdefault(in_region(region_name(flaw.bbox)), []).append(f"{strength} {name}")
        return [f"{' and '.join(names)} {place}" for place, names in at_place.items()]

    def _directions(self) -> str:
        if not self.flaws:
            text = self._pick(
                "Clear detail {at}, kept as it is.",
                "Natural colours and clear detail {at}.",
                "{place}: clear detail and balanced light, as now.",
            )
            return _cap(text.format(at=in_region(self.place), place=self.place))
        ideals: dict[str, list[str]] = {}
        for flaw in self.flaws:
            options = WORDINGS[flaw.kind].ideals
            known = ideals.setdefault(region_name(flaw.bbox), [])
            known += [o for o in self._shuffled(options)[:2] if o not in known]
        said = []
        for place, wanted in ideals.items():
            text = self._pick("{a} {at}.", "{a} and {b} {at}.", "{place}: {a} and {b}.")
            a, b = wanted[0], wanted[-1] if len(wanted) > 1 else "balanced light"
            said.append(_cap(text.format(a=a, b=b, at=in_region(place), place=place)))
        return " ".join(said)

    def _change(self, gap: float) -> tuple[str, str]:
        """What a rating's change is called, and why it came."""
        if abs(gap) < CHANGES[0][0]:
            return CHANGES[0][1], "the closer look changes little"
        moves = next(words for most, words in CHANGES if abs(gap) < most)
        if not self.flaws:
            why = "the detail is weaker than it seemed" if gap < 0 else "the detail holds up"
        elif gap < 0:
            why = "it is worse than it seemed"
        elif all(flaw.bbox is None for flaw in self.flaws):
            why = "it is milder than it seemed"
        else:
            why = (
                "only this part is affected" if len(self.flaws) == 1 else "the worst part is small"
            )
        return moves.format("falls" if gap < 0 else "rises"), why

    def _lengthened(self, text: str) -> str:
        if self.style == "short":
            return text
        return f"{text} {_cap(self._sign(self.flaws[0]))}."

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
