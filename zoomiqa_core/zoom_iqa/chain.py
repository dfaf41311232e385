"""One chain of rounds about one image as a state machine, and the rating of several chains.

Every backend (a local model, a server, a training roll-out) runs chains in the same way::

    while chain.request is not None:
        chain.read(reply_to(chain.request))
    assessment = combine_chains([chain])

Every request has its own seed, so a chain gives the same replies alone and in any batch.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

from zoomiqa_core.assessment import Assessment, BBox, Chains, Round
from zoomiqa_core.runs.random import derived_seed
from zoomiqa_core.zoom_iqa.answer import format_answer, replace_answer
from zoomiqa_core.zoom_iqa.crop import CropBox, crop_image, region_box
from zoomiqa_core.zoom_iqa.prompts import Prompts
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS, Crop, Message, conclude, messages, read_turn


class Request(NamedTuple):
    """What a chain asks for: a reply to these messages and images."""

    messages: list[Message]
    images: tuple[Image.Image, ...]
    """In the order in which the messages refer to them. All requests about one image share the
    object, so that it can be encoded once."""
    seed: int
    """Seed of the reply's sampling, below 2⁶³."""
    greedy: bool = False
    """Take the likeliest token each time instead."""


@dataclass(eq=False)
class Chain:
    """The rounds about one image: the next request, and the replies so far.

    >>> from zoomiqa_core.zoom_iqa.answer import format_answer
    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> chain = Chain(Image.new("RGB", (96, 64)), BUILTIN, "How good is this photo?")
    >>> chain.read("Unsure.</think>" + format_answer(2.5, (0.5, 0.5, 1, 1)))  # requests a crop
    >>> [image.size for image in chain.request.images]
    [(96, 64), (96, 64)]
    >>> chain.read("Sharp.</think>" + format_answer(3.5))
    >>> [reply.rating for reply in chain.rounds], chain.request
    ([2.5, 3.5], None)
    """

    image: Image.Image
    """RGB, at its original size."""
    prompts: Prompts
    question: str
    seed: int = 0
    max_rounds: int = MAX_ROUNDS
    retries: int = 1
    """How often a reply without a usable answer is sampled again, in each round."""
    repair: bool = False
    """See :func:`zoomiqa_core.zoom_iqa.answer.parse_answer`."""
    greedy: bool = False
    """Take the likeliest token each time; a reply that is asked for again is sampled."""
    rounds: list[Round] = field(default_factory=list, init=False)
    """Finished rounds: usable, or unusable after the last retry."""
    retried: int = field(default=0, init=False)
    """Number of replies that were sampled again."""
    tokens: int = field(default=0, init=False)
    """Number of tokens of all replies."""
    done: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.max_rounds < 1 or self.retries < 0:
            raise ValueError(
                f"expected max_rounds ≥ 1 and retries ≥ 0, got {self.max_rounds}, {self.retries}"
            )
        self._region = False
        self._previous: str | None = None
        self._views: tuple[Image.Image, ...] = (self.image,)
        self._asked = 0
        self._tries = 0

    @classmethod
    def of_region(
        cls,
        image: Image.Image,
        bbox: BBox,
        first: Round,
        prompts: Prompts,
        question: str,
        **settings,
    ) -> Chain:
        """A chain of one round about a region, shown enlarged after the whole image.

        Args:
            image: RGB.
            bbox: normalised xyxy; shown exactly (:func:`zoomiqa_core.zoom_iqa.crop.region_box`).
            first: a usable round 1 about the image; its answer is replaced by a request for the
                region.
            prompts: texts of the requests.
            question: of round 1.
            settings: further fields of the chain.
        """
        if prompts.answer is not None:  # one round: the region is the image
            crop = crop_image(image, region_box(bbox, *image.size))
            return cls(crop, prompts, question, **settings)
        chain = cls(image, prompts, question, **settings)
        chain._region = True
        chain._previous = replace_answer(first.text, format_answer(first.written, bbox))
        chain._show(region_box(bbox, *image.size))
        return chain

    @property
    def request(self) -> Request | None:
        """The next request; None when the chain is done."""
        if self.done:
            return None
        chat = messages(self.prompts, self.question, self._previous, region=self._region)
        greedy = self.greedy and not self._tries
        return Request(chat, self._views, derived_seed(self.seed, self._asked), greedy)

    def read(self, text: str, tokens: int = 0, expected: float | None = None) -> None:
        """Process the reply to :attr:`request`.

        Args:
            text: the whole reply.
            tokens: their number.
            expected: mean of the rating over the digits that could have been written in its place;
                None where the probabilities are not known.
        """
        self._asked += 1
        self.tokens += tokens
        turn = read_turn(
            text,
            self.image.size,
            number=self.max_rounds if self._region else len(self.rounds) + 1,
            max_rounds=self.max_rounds,
            repair=self.repair,
            answer_format=self.prompts.answer,
        )
        if not turn.round.valid and self._tries < self.retries:
            self._tries += 1
            self.retried += 1
            return
        self._tries = 0
        done = turn.round
        if done.valid and expected is not None and self.prompts.answer is None:
            done = dataclasses.replace(done, rating=expected, sampled=done.rating)
        self.rounds.append(done)
        if isinstance(turn.step, Crop):
            self._previous = text
            self._show(turn.step.box)
        else:
            self.done = True

    def fail(self, error: str, message: str) -> None:
        """End the chain with a failed round, for which there is no reply."""
        self.rounds.append(Round(math.nan, error=error, message=message))
        self.done = True

    def _show(self, box: CropBox) -> None:
        self._views = (self.image, crop_image(self.image, box))


def combine_chains(
    chains: Sequence[Chain], *, name: str = "", notes: tuple[str, ...] = ()
) -> Assessment:
    """Combine finished chains about one image into its assessment.

    The rating is the mean over the chains that gave one, ``rating_std`` the sample standard
    deviation (n − 1; NaN for a single chain). Rounds, directions and issues are those of the chain
    nearest to the mean.

    >>> from zoomiqa_core.zoom_iqa.prompts import BUILTIN
    >>> chains = [Chain(Image.new("RGB", (96, 64)), BUILTIN, "How good?") for _ in range(2)]
    >>> for chain, rating in zip(chains, (3.0, 4.0), strict=True):
    ...     chain.read("Sharp.</think>" + format_answer(rating))
    >>> assessment = combine_chains(chains)
    >>> assessment.rating, round(assessment.rating_std, 3)
    (3.5, 0.707)

    Args:
        chains: finished, at least one.
        name: of the image.
        notes: about its reading.
    """
    ends = [conclude(chain.rounds, name=name, notes=notes) for chain in chains]
    usable = [(end, end.chains) for end in ends if end.valid and end.chains]
    ratings = tuple(end.rating for end, _ in usable)
    rating = statistics.fmean(ratings) if ratings else math.nan
    nearest = min((end for end, _ in usable), key=lambda e: abs(e.rating - rating), default=ends[0])
    zoomed = [(end, record) for end, record in usable if record.rounds[0].bbox is not None]
    shifts = [
        end.rating - record.rounds[0].rating for end, record in zoomed if record.fallback is None
    ]
    record = dataclasses.replace(
        nearest.chains or Chains(),
        ratings=ratings,
        errors=tuple(end.error or "" for end in ends if not end.valid),
        fallbacks=sum(record.fallback is not None for _, record in usable),
        zoom_share=len(zoomed) / len(usable) if usable else None,
        zoom_shift=statistics.fmean(shifts) if shifts else None,
        retries=sum(chain.retried for chain in chains),
        tokens=sum(chain.tokens for chain in chains),
    )
    std = statistics.stdev(ratings) if len(ratings) > 1 else math.nan
    return dataclasses.replace(nearest, rating=rating, rating_std=std, chains=record)
