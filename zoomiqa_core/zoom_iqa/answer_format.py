"""Ratings in the replies of judges that follow another protocol: numbers or words of a scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.zoom_iqa.answer import AnswerError


@dataclass(frozen=True)
class AnswerFormat:
    r"""How a reply of one round gives its rating.

    >>> AnswerFormat(r"<answer>\s*([0-9.]+)\s*</answer>").read("Sharp.<answer>4.2</answer>")
    4.2
    >>> levels = {"excellent": 5, "good": 4, "fair": 3, "poor": 2, "bad": 1}
    >>> AnswerFormat(r"quality is (\w+)", levels=levels).read("The quality is Good.")
    4.0
    """

    pattern: str
    """Regular expression with one group, the rating; its last match in the reply counts."""
    lowest: float = MIN_RATING
    """The worst number or level; becomes 1."""
    highest: float = MAX_RATING
    """The best; becomes 5. Below ``lowest`` when less is better."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Word → number, any case; empty when the group is a number."""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groups
        except (re.error, TypeError) as error:
            raise ValueError(
                f"pattern is no regular expression, {error}: {self.pattern!r}"
            ) from None
        if groups != 1:
            raise ValueError(f"pattern must have one group, the rating; got {groups}")
        numbers = (self.lowest, self.highest, *self.levels.values())
        if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
            raise ValueError(f"lowest, highest and levels must be finite numbers, got {numbers}")
        if self.lowest == self.highest:
            raise ValueError(f"lowest and highest must differ, got {self.lowest:g} twice")

    def read(self, text: str) -> float:
        """The rating in a reply, 1–5.

        Raises:
            AnswerError: ``missing_answer`` or ``invalid_rating``.
        """
        found = re.findall(self.pattern, text)
        if not found:
            raise AnswerError("missing_answer", f"nothing in the reply matches {self.pattern!r}")
        word = found[-1].strip()
        levels = {level.lower(): number for level, number in self.levels.items()}
        try:
            value = levels[word.lower()] if levels else float(word)
        except (KeyError, ValueError):
            expected = ", ".join(self.levels) or "a number"
            raise AnswerError("invalid_rating", f"expected {expected}, got {word!r:.60}") from None
        low, high = sorted((self.lowest, self.highest))
        if not low <= value <= high:
            raise AnswerError("invalid_rating", f"expected {low:g} to {high:g}, got {value:g}")
        share = (value - self.lowest) / (self.highest - self.lowest)
        return MIN_RATING + share * (MAX_RATING - MIN_RATING)
