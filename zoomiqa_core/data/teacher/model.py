"""A model as the teacher: rationales from any judge backend, local or on a server.

The model is prompted as a judge is, through the chains of inference, so its text fits the records.
If it is told people's rating, the rating is part of the question; a rationale that ends far from it
is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from zoomiqa_core.data.gr_iqa.filters import Continuation, ContinueRationale
from zoomiqa_core.data.gr_iqa.rationale import GRIQARound, RecordError, round_from_reply
from zoomiqa_core.zoom_iqa.answer import AnswerError
from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.judge import Backend
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import Prompts
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS, messages

RATED = (
    "{question}\nPeople rated this image {rating:.2f} on average. Let your last rating agree with "
    "theirs, find the reasons in the image, and do not mention that you were told."
)
"""The question with people's rating."""
PASSING = frozenset(
    {"server_busy", "server_error", "timeout", "connection", "bad_response", "out_of_memory"}
)
"""Transient failures; they are not cached."""
GREY = (128, 128, 128)
"""Colour of the image that replaces a removed one, so that tokens and positions stay the same."""


class Lesson(NamedTuple):
    """What the teacher wrote about one image."""

    rounds: tuple[GRIQARound, ...]
    """Empty when it is refused."""
    reason: str
    """Why: the failure's name, ``"bad_record"`` or ``"rating_off"``; empty when not."""
    detail: str
    calls: int
    tokens: int

    @property
    def passing(self) -> bool:
        """Whether asking again another time may help."""
        return self.reason in PASSING


@dataclass
class Budget:
    """How many calls and how much money may be spent; None sets no limit."""

    max_calls: int | None = None
    max_cost: float | None = None
    cost_per_1k_tokens: float = 0.0
    """Of the tokens the model writes, in any currency; set it so that it covers the prompt too."""
    calls: int = 0
    tokens: int = 0

    @property
    def cost(self) -> float:
        """Spent so far."""
        return self.tokens / 1000 * self.cost_per_1k_tokens

    def spend(self, calls: int, tokens: int) -> None:
        """Note what was used."""
        self.calls += calls
        self.tokens += tokens

    def allows(self, calls: int) -> bool:
        """Whether so many calls more stay inside; the cost of the last may go over."""
        enough_calls = self.max_calls is None or self.calls + calls <= self.max_calls
        return enough_calls and (self.max_cost is None or self.cost < self.max_cost)


@dataclass(frozen=True)
class ModelTeacher:
    """Writes rationales with a model.

    Args:
        backend: of a judge, see :func:`zoomiqa_core.scorer.load_scorer`.
        prompts: the texts it is asked with.
        tell_rating: hand it people's rating.
        tolerance: its last rating may be this far from theirs.
        retries: see :class:`zoomiqa_core.zoom_iqa.chain.Chain`.
    """

    backend: Backend
    prompts: Prompts
    tell_rating: bool = True
    tolerance: float = 0.5
    retries: int = 1

    @property
    def most_calls(self) -> int:
        """Calls that one lesson may take."""
        return MAX_ROUNDS * (1 + self.retries)

    def write(self, image: Image.Image, rating: float, question: str, seed: int) -> Lesson:
        """A rationale about an image that people rated so."""
        asked = RATED.format(question=question, rating=rating) if self.tell_rating else question
        chain = Chain(image, self.prompts, asked, seed=seed, retries=self.retries)
        self.backend.run([chain])
        calls = len(chain.rounds) + chain.retried

        def refused(reason: str, detail: str) -> Lesson:
            return Lesson((), reason, detail, calls, chain.tokens)

        for look in chain.rounds:
            if look.error:
                return refused(look.error, look.message)
        try:
            rounds = tuple(
                round_from_reply(look.text, image.size, last=number == len(chain.rounds))
                for number, look in enumerate(chain.rounds, start=1)
            )
        except (RecordError, AnswerError) as error:
            return refused("bad_record", str(error))
        if abs(rounds[-1].rating - rating) > self.tolerance:
            return refused("rating_off", f"{rounds[-1].rating:.2f} where people gave {rating:.2f}")
        return Lesson(rounds, "", "", calls, chain.tokens)


def vlm_continuation(
    vlm: LocalVLM, prompts: Prompts, question: str, size: tuple[int, int], *, seed: int = 0
) -> ContinueRationale:
    """A continuation of partial rationales by a local model, for Visual Reliance Filtering.

    Without the image the model sees a grey one of the same size. The entropy is estimated by the
    mean negative log-probability of the drawn tokens, as the model gave them.

    Args:
        vlm: the model.
        prompts: the texts it was trained on.
        question: that was asked.
        size: (width, height) of the image.
        seed: of the first draw; each further one takes the next.
    """
    asked = messages(prompts, question)
    blank = Image.new("RGB", size, GREY)
    drawn = 0

    def continue_rationale(prefix: str, image: Image.Image | None) -> Continuation | None:
        nonlocal drawn
        picture = blank if image is None else image
        reply = vlm.continue_reply(Request(asked, (picture,), seed + drawn), prefix)
        drawn += 1
        try:
            look = round_from_reply(prefix + reply.text, size)
        except (AnswerError, RecordError):
            return None
        entropy = -sum(reply.log_probs) / len(reply.log_probs)
        return Continuation(look.rating, look.tool, look.bbox, entropy)

    return continue_rationale
