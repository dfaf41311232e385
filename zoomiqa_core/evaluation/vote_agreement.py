"""Agreement of a judge's preferences with people's choices between two images, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from zoomiqa_core.data.benchmarks.votes import VotedPair
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap


class VoteAgreement(NamedTuple):
    """How far preferences agree with people's; NaN where nothing could be compared."""

    votes: Estimate
    """Share of the votes that agree."""
    pairs: Estimate
    """Share of the pairs whose majority agrees; pairs without a majority are left out."""
    best: Estimate
    """Share of inputs whose preferred image is the one people prefer, over the inputs with three or
    more images of which every pair was voted on."""
    judged: int
    """Number of pairs that were compared."""


def vote_agreement(
    pairs: Sequence[VotedPair], preference: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> VoteAgreement:
    """Compare preferences with votes, with 95 % bootstrap intervals over photos.

    A tie agrees with half of the votes. The best image of an input is the one with the largest sum
    of shares over its pairs; of several best ones, each is picked equally often.

    Args:
        pairs: with people's votes.
        preference: (n,) 0 for the left image, 1 for the right one, 0.5 for a tie; NaN where the
            judge failed: the pair, and its input's best image, are then left out.
        resamples: of the photos; all figures share the same draws.
        seed: of the draws.

    >>> votes = [VotedPair(Path("a"), Path("b"), 0.75, 4, "x"), VotedPair(Path("c"), Path("d"), 0)]
    >>> found = vote_agreement(votes, [1, 0.5])
    >>> found.votes.value, found.pairs.value  # (4 · .75 + 1 · .5) / 5, (1 + .5) / 2
    (0.7, 0.75)
    """
    chosen = np.asarray(preference, float)
    share, votes = (np.array([getattr(p, key) for p in pairs], float) for key in ("share", "votes"))
    names, photo = np.unique([pair.photo for pair in pairs], return_inverse=True)

    def estimate(values: np.ndarray, weights: np.ndarray, photo: np.ndarray) -> Estimate:
        weights = np.where(np.isnan(values), 0, weights)
        sums = np.bincount(photo, weights * np.nan_to_num(values), minlength=len(names))
        counts = np.bincount(photo, weights, minlength=len(names))
        found = bootstrap(_ratio, sums, counts, resamples=resamples, seed=seed)
        return found if (counts > 0).sum() > 1 else Estimate(found.value, np.nan, np.nan)

    best, of_photo = _best_picked(pairs, share, chosen, photo)
    return VoteAgreement(
        estimate(chosen * share + (1 - chosen) * (1 - share), votes, photo),
        estimate(1 - np.abs(chosen - _majority(share)), (share != 0.5).astype(float), photo),
        estimate(best, np.ones(len(best)), of_photo),
        int((~np.isnan(chosen)).sum()),
    )


def preferences(pairs: Sequence[VotedPair], ratings: Mapping[Path, float]) -> np.ndarray:
    """(n,) 1 where the right image has the higher rating, 0 the left one, 0.5 at equal ratings.

    NaN where one of the two ratings is NaN.
    """
    left, right = (
        np.array([ratings[getattr(p, side)] for p in pairs]) for side in ("left", "right")
    )
    return (1 + np.sign(right - left)) / 2


def majority_ceiling(pairs: Sequence[VotedPair], **options: int) -> VoteAgreement:
    """The most that deterministic preferences can agree with: the majority of every pair."""
    found = vote_agreement(pairs, _majority(np.array([p.share for p in pairs])), **options)
    best = found.best if np.isnan(found.best.value) else Estimate(1.0, 1.0, 1.0)
    return found._replace(best=best)


def _majority(share: np.ndarray) -> np.ndarray:
    return (1 + np.sign(share - 0.5)) / 2


def _ratio(sums: np.ndarray, counts: np.ndarray) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() > 0 else np.nan


def _best_picked(
    pairs: Sequence[VotedPair], share: np.ndarray, chosen: np.ndarray, photo: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Chance that the image picked is people's best, and the photo, for each complete input."""
    groups: dict[tuple[str, Path | None], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        groups[pair.photo, pair.input].append(index)
    found, of_photo = [], []
    for indices in groups.values():
        sides = [image for i in indices for image in (pairs[i].left, pairs[i].right)]
        images, place = np.unique([str(image) for image in sides], return_inverse=True)
        if len(images) < 3 or len(indices) != len(images) * (len(images) - 1) // 2:
            continue
        best = []
        for values in (share[indices], chosen[indices]):
            won = np.bincount(place, np.stack([1 - values, values], 1).reshape(-1))
            best.append(won >= won.max() - 1e-9)  # sums of shares are equal up to rounding
        failed = np.isnan(chosen[indices]).any()
        found.append(np.nan if failed else (best[0] & best[1]).sum() / best[1].sum())
        of_photo.append(photo[indices[0]])
    return np.array(found, float), np.array(of_photo, int)
