"""Rewards of Zoom-IQA's second stage (arXiv 2601.02918): format, score, rank and grounding.

The paper's Eq. 3–5 were not available to us; each function states the formula it uses. A roll-out
is the list of its replies, one a round. If one of them cannot be parsed, the roll-out earns 0 from
every reward, is counted, and is left out of the ranking: no rating is ever invented for it.

:func:`reward_functions` wraps the rewards for TRL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from accelerate.utils import gather_object

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, BBox
from zoomiqa_core.data.gr_iqa.regions import box_iou
from zoomiqa_core.zoom_iqa.answer import (
    CLOSE,
    END_OF_THOUGHT,
    OPEN,
    Answer,
    AnswerError,
    answer_fields,
    parse_answer,
)
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS
from zoomiqa_core.zoom_iqa.reasoning import HEADINGS, START_OF_THOUGHT

ScoreKind = Literal["threshold", "smooth"]
RewardFunction = Callable[..., list[float | None]]

TOLERANCE = 0.35
"""Rating units within which a rating counts as right (Q-Insight, arXiv 2503.22679)."""
SIGMA = 0.5
"""Width of the smooth score reward, rating units."""
EPSILON = 1e-6

_LATER = ("crop inspection summary", "final decision & rationale")
_FIRST_HEADINGS = [heading for heading in HEADINGS if heading not in _LATER]
_LATER_HEADINGS = [_LATER[0], *_FIRST_HEADINGS[1:3], _LATER[1]]


class Outcome(NamedTuple):
    """What one roll-out concluded."""

    rating: float
    """Rating of the last round, clipped to 1–5; NaN if any round could not be parsed."""
    error: str | None = None
    """Code of the :class:`~zoomiqa_core.zoom_iqa.answer.AnswerError`; None if all rounds parsed."""
    bbox: BBox | None = None
    """Box of the first crop, normalised xyxy; None without a usable box."""
    zoomed: bool = False
    """Whether the first round asked for a crop."""


class Sample(NamedTuple):
    """What the rank reward needs of one roll-out."""

    image_id: str
    label_source: str
    """Images are only ranked among those labelled in the same way."""
    mos: float
    """1–5."""
    rating: float
    """1–5, NaN for none."""
    zoomed: bool = False


@dataclass(frozen=True)
class RewardConfig:
    """Weights of the rewards; a weight of 0 still logs its term.

    >>> RewardConfig(grounding=0.5).weights
    [1.0, 1.0, 1.0, 0.5]
    """

    format: float = 1.0
    """Weight of :func:`format_reward`."""
    score: float = 1.0
    """Weight of :func:`score_reward`."""
    rank: float = 1.0
    """Weight of :func:`rank_rewards`."""
    grounding: float = 0.0
    """Weight of :func:`grounding_reward`, for images whose damaged region is known."""
    score_kind: ScoreKind = "threshold"
    """``threshold`` or ``smooth``, see :func:`score_reward`."""

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or not any(self.weights):
            raise ValueError(f"expected weights ≥ 0 and at least one > 0, got {self.weights}")

    @property
    def weights(self) -> list[float]:
        """In the order of :func:`reward_functions`."""
        return [self.format, self.score, self.rank, self.grounding]


def read_outcome(
    replies: Sequence[str], size: tuple[int, int], max_rounds: int = MAX_ROUNDS
) -> Outcome:
    """Parse the replies of one roll-out.

    Unlike :func:`zoomiqa_core.zoom_iqa.protocol.conclude` it does not fall back to an earlier
    round: rewarding the fallback would teach the model to break off.

    >>> read_outcome(['<answer>{"bbox_2d": [0,0,0,0], "rating": 3.5, "tool": "final"}</answer>'],
    ...              size=(640, 480))
    Outcome(rating=3.5, error=None, bbox=None, zoomed=False)
    >>> read_outcome(["It is blurred."], size=(640, 480)).error
    'missing_answer'

    Args:
        replies: one a round, in order.
        size: (width, height) of the image, pixels.
        max_rounds: the round of this number cannot ask for a crop.

    Raises:
        ValueError: no replies.
    """
    if not replies:
        raise ValueError("expected the replies of a roll-out, got none")
    answers: list[Answer] = []
    for number, reply in enumerate(replies, start=1):
        try:
            answers.append(parse_answer(reply, last_round=number >= max_rounds))
        except AnswerError as error:
            return Outcome(math.nan, error.code)
    rating = min(max(answers[-1].rating, MIN_RATING), MAX_RATING)
    first = answers[0]
    return Outcome(rating, None, _normalised(first.bbox, size), first.tool == "crop")


def format_reward(replies: Sequence[str], max_rounds: int = MAX_ROUNDS) -> float:
    """1 if every reply follows the grammar of the prompts exactly, else 0 (Eq. 3).

    >>> format_reward(["3.5, a little dark"])
    0.0
    """
    return float(
        bool(replies)
        and all(
            is_well_formed(reply, first=number == 1, last=number >= max_rounds)
            for number, reply in enumerate(replies, start=1)
        )
    )


def is_well_formed(reply: str, *, first: bool, last: bool) -> bool:
    """Whether a reply is written as the prompts ask; :func:`parse_answer` accepts more.

    A well-formed reply is ``<think>``, the four headings of its round in order, each at the start
    of a line and followed by text, ``</think>``, and one ``<answer>`` with exactly the keys
    ``bbox_2d``, ``rating`` (1–5) and ``tool``: ``"final"`` with four zeros, or ``"crop"`` with a
    box inside the image. Nothing else may precede, separate or follow these.

    Args:
        reply: the whole text.
        first: whether it is round 1, whose headings differ from those of later rounds.
        last: whether it is the last round, which cannot ask for a crop.
    """
    text = reply.strip()
    if any(text.count(tag) != 1 for tag in (START_OF_THOUGHT, END_OF_THOUGHT, OPEN, CLOSE)):
        return False
    thought, _, answer = text.partition(END_OF_THOUGHT)
    answer = answer.strip()
    if not (
        thought.startswith(START_OF_THOUGHT) and answer.startswith(OPEN) and answer.endswith(CLOSE)
    ):
        return False
    headings = _FIRST_HEADINGS if first else _LATER_HEADINGS
    return _has_sections(thought[len(START_OF_THOUGHT) :], headings) and _valid_answer(text, last)


def _has_sections(thought: str, headings: Sequence[str]) -> bool:
    """Whether exactly these headings begin lines, in this order, each followed by text."""
    titles: list[str] = []
    texts: list[str] = []
    for line in thought.strip().splitlines():
        head, colon, rest = line.partition(":")
        title = head.strip().lower()
        if colon and title in HEADINGS:
            titles.append(title)
            texts.append(rest.strip())
        elif not titles:
            return False
        else:
            texts[-1] += line.strip()
    return titles == list(headings) and all(texts)


def _valid_answer(text: str, last: bool) -> bool:
    try:
        fields, _ = answer_fields(text)
    except AnswerError:
        return False
    if set(fields) != {"bbox_2d", "rating", "tool"}:
        return False
    rating, box, tool = fields["rating"], fields["bbox_2d"], fields["tool"]
    if not isinstance(rating, float) or not MIN_RATING <= rating <= MAX_RATING:
        return False
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, float) for v in box):
        return False
    if tool == "final":
        return not any(box)
    x0, y0, x1, y1 = box
    return tool == "crop" and not last and 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def score_reward(rating: float, mos: float, kind: ScoreKind = "threshold") -> float:
    """How close a rating is to the mean opinion score (Eq. 4); 0 if either is not finite.

    ``threshold`` (Q-Insight): 1 if r is less than 0.35 away from mos, else 0.
    ``smooth``: exp(−(r − mos)² / 2σ²) with σ = 0.5, which also orders two wrong ratings.

    >>> score_reward(3.2, mos=3.0), round(score_reward(3.5, mos=3.0, kind="smooth"), 3)
    (1.0, 0.607)
    """
    error = abs(rating - mos)
    if not math.isfinite(error):
        return 0.0
    if kind == "threshold":
        return float(error < TOLERANCE)
    return math.exp(-error * error / (2 * SIGMA * SIGMA))


def rank_rewards(
    ratings: Mapping[str, Sequence[float]],
    mos: Mapping[str, float],
    label_source: Mapping[str, str] | None = None,
) -> dict[str, list[float]]:
    """How well each rating orders its image among the other images (Eq. 5).

    The fidelity of VisualQuality-R1 (arXiv 2505.14460) under Thurstone's model: with K ratings
    q_ij of image i, their mean q̄_i and unbiased variance v_i,

        p_ij,z = Φ((q_ij − q̄_z) / √(v_i + v_z + 1e-6))
        g_i,z  = 1, ½ or 0 if mos_i is above, equal to or below mos_z
        r_ij   = mean over z ≠ i of √(p g + 1e-6) + √((1 − p)(1 − g) + 1e-6)

    so a perfect order earns 1.001. Sums are exact (``math.fsum``): the result depends neither on
    the order of images or ratings nor on the number of processes.

    Departure: z runs over the images whose label has the same source. People's means, means of a
    distortion type and modelled labels of local damage are on different scales, so an order
    between two of them is not an observation.

    Named cases: a rating that is not finite earns 0 and enters no mean or variance; the variance
    of a single rating is 0; an image without finite ratings is not compared with; without any
    image to compare with, every reward is 0.

    >>> r = rank_rewards({"a": [4.0, 4.2], "b": [2.0, 2.4]}, mos={"a": 4.5, "b": 1.5})
    >>> [round(x, 3) for x in r["a"]]
    [1.001, 1.001]
    >>> rank_rewards({"a": [4.0], "b": [2.0]}, {"a": 4.5, "b": 1.5}, {"a": "human", "b": "model"})
    {'a': [0.0], 'b': [0.0]}

    Args:
        ratings: of each image, in the order in which the rewards are returned.
        mos: of each image.
        label_source: of each image; None if all labels have one source.
    """
    sources = label_source or dict.fromkeys(ratings, "")
    moments = {
        image: _mean_and_variance(finite)
        for image, row in ratings.items()
        if (finite := [q for q in row if math.isfinite(q)])
    }
    rewards: dict[str, list[float]] = {}
    for image, row in ratings.items():
        others = [z for z in moments if z != image and sources[z] == sources[image]]
        rewards[image] = [
            math.fsum(
                _fidelity(q, mos[image], moments[image][1], *moments[z], mos[z]) for z in others
            )
            / len(others)
            if others and math.isfinite(q)
            else 0.0
            for q in row
        ]
    return rewards


def grounding_reward(outcome: Outcome, truths: Sequence[BBox]) -> float:
    """Intersection over union of the requested crop with the damaged region; 0 without a crop.

    With several damaged regions, the best match counts.

    >>> zoomed = Outcome(3.0, bbox=(0.0, 0.0, 0.5, 1.0), zoomed=True)
    >>> grounding_reward(zoomed, [(0.0, 0.0, 1.0, 1.0)])
    0.5

    Args:
        outcome: of the roll-out.
        truths: true boxes, normalised xyxy.
    """
    if outcome.error or outcome.bbox is None:
        return 0.0
    return max((box_iou(outcome.bbox, truth) for truth in truths), default=0.0)


def reward_functions(config: RewardConfig, max_rounds: int = MAX_ROUNDS) -> list[RewardFunction]:
    """Format, score, rank and grounding as TRL calls them, on the samples of one process.

    The dataset's columns ``mos``, ``image_id``, ``label_source`` and ``region_truth`` are used. TRL
    normalises per image, and the roll-outs of one image may be spread over processes, so the rank
    reward gathers the ratings of all processes, on every process in every call.

    It also logs, through TRL's ``log_metric``: ``unparsable`` (share of roll-outs), ``zoom_share``
    and ``distinct_ratings`` (of an image's parsable roll-outs, mean over images).
    """

    def outcomes(completions: Sequence[Any], pictures: Sequence[Any]) -> list[Outcome]:
        return [
            read_outcome(_replies(completion), image.size, max_rounds)
            for completion, image in zip(completions, pictures, strict=True)
        ]

    def format(completions: Sequence[Any], **_: Any) -> list[float | None]:
        return _finite(format_reward(_replies(turns), max_rounds) for turns in completions)

    def score(completions, picture, mos, **_: Any) -> list[float | None]:
        return _finite(
            score_reward(outcome.rating, label, config.score_kind)
            for outcome, label in zip(outcomes(completions, picture), mos, strict=True)
        )

    def rank(
        completions, picture, mos, image_id, label_source, **kwargs: Any
    ) -> list[float | None]:
        columns = zip(image_id, label_source, mos, outcomes(completions, picture), strict=True)
        local = [
            Sample(str(image), source, float(label), outcome.rating, outcome.zoomed)
            for image, source, label, outcome in columns
        ]
        samples = [Sample(*sample) for sample in gather_object(local)]
        if log_metric := kwargs.get("log_metric"):
            _log(samples, log_metric)
        return _finite(ranks_of(local, samples))

    def grounding(completions, picture, region_truth, **_: Any) -> list[float | None]:
        return [
            grounding_reward(outcome, boxes) if boxes else None
            for outcome, boxes in zip(outcomes(completions, picture), region_truth, strict=True)
        ]

    return [format, score, rank, grounding]


def ranks_of(local: Sequence[Sample], everywhere: Sequence[Sample]) -> list[float]:
    """Rank rewards of the samples of one process, computed from those of all processes.

    Raises:
        ValueError: one image has two labels.
    """
    ratings: dict[str, list[float]] = {}
    labels: dict[str, tuple[str, float]] = {}
    for sample in everywhere:
        label = sample.label_source, sample.mos
        if labels.setdefault(sample.image_id, label) != label:
            raise ValueError(
                f"image_id {sample.image_id!r} has the labels {labels[sample.image_id]} and "
                f"{label}: give each image an id of its own"
            )
        ratings.setdefault(sample.image_id, []).append(sample.rating)
    mos = {image: label for image, (_, label) in labels.items()}
    sources = {image: source for image, (source, _) in labels.items()}
    earned = {
        (image, rating): reward
        for image, rewards in rank_rewards(ratings, mos, sources).items()
        for rating, reward in zip(ratings[image], rewards, strict=True)
    }
    return [
        earned[sample.image_id, sample.rating] if math.isfinite(sample.rating) else 0.0
        for sample in local
    ]


def _fidelity(
    q: float, mos: float, variance: float, other_mean: float, other_var: float, other_mos: float
) -> float:
    z = (q - other_mean) / math.sqrt(variance + other_var + EPSILON)
    p = min(max(0.5 * math.erfc(-z / math.sqrt(2)), 0.0), 1.0)
    g = 1.0 if mos > other_mos else 0.0 if mos < other_mos else 0.5
    # Both probabilities are clamped: a rounding error below zero would make the root NaN.
    return math.sqrt(p * g + EPSILON) + math.sqrt(max(1 - p, 0.0) * (1 - g) + EPSILON)


def _mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _normalised(bbox: BBox | None, size: tuple[int, int]) -> BBox | None:
    """Box as ``crop_box`` reads it: sorted, clamped, relative to the image; None if all zeros."""
    if bbox is None or not any(bbox):
        return None
    width, height = (1, 1) if all(0 <= value <= 1 for value in bbox) else size
    x0, x1 = sorted(min(max(bbox[i] / width, 0.0), 1.0) for i in (0, 2))
    y0, y1 = sorted(min(max(bbox[i] / height, 0.0), 1.0) for i in (1, 3))
    return x0, y0, x1, y1


def _replies(completion: Sequence[dict[str, Any]]) -> list[str]:
    """The model's replies in a conversational completion, one a round."""
    contents = [turn["content"] for turn in completion if turn["role"] == "assistant"]
    return [
        content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
        for content in contents
    ]


def _log(samples: Sequence[Sample], log_metric: Callable[[str, float], None]) -> None:
    ratings: dict[str, set[float]] = {sample.image_id: set() for sample in samples}
    for sample in samples:
        if math.isfinite(sample.rating):
            ratings[sample.image_id].add(sample.rating)
    failed = sum(not math.isfinite(sample.rating) for sample in samples)
    log_metric("unparsable", failed / len(samples))
    log_metric("zoom_share", sum(sample.zoomed for sample in samples) / len(samples))
    log_metric("distinct_ratings", sum(map(len, ratings.values())) / len(ratings))


def _finite(rewards: Iterable[float]) -> list[float | None]:
    """Rewards with 0 for what is not finite: one infinity would spoil its group in TRL."""
    return [reward if math.isfinite(reward) else 0.0 for reward in rewards]
