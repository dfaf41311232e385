"""How well a text alone predicts a rating: do the records have to be looked at?

If the words of a reply determine its rating, or the first reply that of the second, a model trained
on them learns to copy and has no reason to look at the image or the crop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, reply_text
from zoomiqa_core.zoom_iqa.answer import END_OF_THOUGHT

MIN_TEXTS = 50
"""With fewer texts the share would be mostly chance."""
FOLDS = 5
MIN_COUNT = 5
"""Words and pairs of words in fewer texts are left out."""
RIDGE = 10.0
_WORD = re.compile(r"[a-z][a-z-]*")


def record_predictability(records: Sequence[GRIQARecord]) -> dict[str, float]:
    """Shares of the ratings' variance that words explain (held-out R², see :func:`words_r2`).

    Returns:
        ``rating_given_words``: of each reply's rating given its thought.
        ``round_2_given_round_1``: of the second rating given the whole first reply, its rating
        included. A share is left out when there are fewer than ``MIN_TEXTS`` texts.
    """
    rounds = [(n, look) for record in records for n, look in enumerate(record.rounds, start=1)]
    thoughts = [reply_text(look, n).partition(END_OF_THOUGHT)[0] for n, look in rounds]
    twice = [record.rounds for record in records if len(record.rounds) > 1]
    given = {
        "rating_given_words": (thoughts, [look.rating for _, look in rounds], None),
        "round_2_given_round_1": (
            [reply_text(looks[0]) for looks in twice],
            [looks[1].rating for looks in twice],
            [looks[0].rating for looks in twice],
        ),
    }
    return {
        name: round(words_r2(texts, ratings, known), 3)
        for name, (texts, ratings, known) in given.items()
        if len(texts) >= MIN_TEXTS
    }


def words_r2(
    texts: Sequence[str], ratings: Sequence[float], known: Sequence[float] | None = None
) -> float:
    """Held-out R² of ratings predicted from words and pairs of words, by ridge regression.

    Five folds; 0 means that the words say nothing, 1 that they determine the rating. Negative
    values, worse than the mean, are possible.

    >>> words = ["a good photo", "a bad photo"] * 30
    >>> round(words_r2(words, [4.0, 2.0] * 30), 2)
    0.98
    >>> words_r2(["a photo"] * 60, [4.0, 2.0] * 30) <= 0
    True

    Args:
        texts: N of them.
        ratings: N, to be predicted.
        known: N more values to predict from, e.g. an earlier rating.
    """
    counted = [Counter(_terms(text)) for text in texts]
    spread = Counter(term for terms in counted for term in terms)
    vocabulary = sorted(term for term, count in spread.items() if count >= MIN_COUNT)
    columns = np.array([[terms[term] for term in vocabulary] for terms in counted], dtype=float)
    columns = columns.reshape(len(texts), len(vocabulary))
    if known is not None:
        # Standardised, and so large that the ridge hardly shrinks it.
        value = (np.array(known) - np.mean(known)) / max(float(np.std(known)), 1e-6)
        columns = np.hstack([columns, 10 * value[:, None], 10 * np.square(value)[:, None]])
    target = np.array(ratings, dtype=float)
    fold = np.random.default_rng(0).permutation(len(texts)) % FOLDS
    predicted = np.empty_like(target)
    for number in range(FOLDS):
        test, train = fold == number, fold != number
        mean, centre = target[train].mean(), columns[train].mean(0)
        inputs = columns[train] - centre
        gram = inputs.T @ inputs + RIDGE * np.eye(inputs.shape[1])
        weights = np.linalg.solve(gram, inputs.T @ (target[train] - mean))
        predicted[test] = mean + (columns[test] - centre) @ weights
    residual = np.square(target - predicted).sum()
    return float(1 - residual / max(np.square(target - target.mean()).sum(), 1e-12))


def _terms(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return [*words, *(" ".join(pair) for pair in pairwise(words))]
