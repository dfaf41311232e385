"""The outcome of a search or a pick: the chosen image, the reason, and every figure behind it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from restoration_guide.fidelity.measure import TERMS, Fidelity
from restoration_guide.search.judging import quality_map, region_rating
from restoration_guide.search.timing import Timing
from zoomiqa_core.images.sources import save_image, to_pil

if TYPE_CHECKING:
    from PIL import Image

    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.choice import ChoiceRule
    from zoomiqa_core.assessment import Assessment, BBox
    from zoomiqa_core.images.decoded import DecodedImage
    from zoomiqa_core.scorer import Scorer

Index = int | Literal["input"]
"""A candidate's number, or the input, which is a candidate too."""

OK = "ok"
"""Status of a row that may be chosen; every other status is the reason why it was skipped."""


@dataclass(frozen=True)
class Row:
    """One candidate, or the input, with every figure the choice rests on.

    >>> Row(0, rating=3.4, rating_std=0.2).to_dict()["status"]
    'ok'
    """

    index: Index
    rating: float = math.nan
    """Rating 1–5; NaN when there is no judgement."""
    rating_std: float = math.nan
    """Standard deviation of ``rating``, in rating units; NaN when there is no judgement."""
    gain: float = math.nan
    """Rating above the input's, as the judge sees it; NaN for the input."""
    gain_std: float = math.nan
    """Standard deviation of ``gain``."""
    status: str = OK
    """``"ok"``, or the reason why this row was skipped (see ``pick``)."""
    detail: str = ""
    """The status in words, with figures, and what was done to make the candidate usable."""
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The restorer's settings; empty for the input."""
    fidelity: Fidelity | None = None
    """None for the input and for candidates without usable pixels."""
    consensus_distance: float = math.nan
    """RMS distance to the mean of the candidates that are better than the input
    (:func:`restoration_guide.search.choice.consensus_distances`), in pixel values of [0, 1]; NaN
    for others, and unless the choice needs it."""
    second_rating: float | None = None
    """Rating by the second judge; NaN when that judge failed, None when it was not asked."""
    second_error: str = ""
    """Why the second judge failed."""
    seconds: float | None = None
    """Restoration time; None for the input and for pruned candidates."""
    nfe: int | None = None
    """Network evaluations it added to the run; None for the input, or where none are counted."""
    nfe_saved: int = 0
    """Evaluations it would have taken further; above 0 for pruned candidates alone."""

    def judged(self, judgement: Assessment) -> Row:
        """The row with its rating, or with the reason why it has none."""
        if not judgement.valid:
            detail = ": ".join(filter(None, (judgement.error, judgement.message)))
            return replace(self, status="judgement_failed", detail=detail)
        rating, std = judgement.rating, judgement.rating_std
        if not (math.isfinite(rating) and math.isfinite(std)):
            detail = f"rating {rating} ± {std} is not finite"
            return replace(self, status="judgement_failed", detail=detail)
        gain, gain_std = judgement.gain, judgement.gain_std
        return replace(self, rating=rating, rating_std=std, gain=gain, gain_std=gain_std)

    def judged_again(self, judgement: Assessment) -> Row:
        """The row with the second judge's rating, or NaN with the reason why it has none."""
        if judgement.valid and math.isfinite(judgement.rating):
            return replace(self, second_rating=judgement.rating)
        detail = ": ".join(filter(None, (judgement.error, judgement.message)))
        return replace(self, second_rating=math.nan, second_error=detail or "rating is not finite")

    def to_dict(self) -> dict[str, Any]:
        """One flat record for tables and JSON."""
        terms = self.fidelity.to_dict() if self.fidelity else dict.fromkeys(TERMS)
        return {
            "index": self.index,
            "seed": self.seed,
            "settings": dict(self.settings),
            "rating": self.rating,
            "rating_std": self.rating_std,
            "gain": self.gain,
            "gain_std": self.gain_std,
            "consensus_distance": self.consensus_distance,
            "second_rating": self.second_rating,
            "second_error": self.second_error,
            **terms,
            "status": self.status,
            "detail": self.detail,
            "seconds": self.seconds,
            "nfe": self.nfe,
        }


@dataclass(frozen=True, eq=False)
class Selection:
    """What :class:`~restoration_guide.search.best_of_n.BestOfN` and ``pick_best`` return.

    >>> import torch, zoomiqa_core as zi
    >>> from restoration_guide import BestOfN, load_restorer
    >>> search = BestOfN(load_restorer("builtin"), zi.load_scorer("proxy"), n=1)
    >>> selection = search(torch.rand(3, 48, 48))
    >>> selection.best.shape, len(selection.rows)
    (torch.Size([3, 48, 48]), 2)
    """

    input: Tensor | None
    """(3, H, W) float32 in [0, 1]: the image that came in; None where images without an input were
    compared."""
    choice: Index
    """Index of the chosen candidate, or ``"input"``."""
    reason: str
    """Why, with figures."""
    rows: tuple[Row, ...]
    """The input first, where there is one, then one row per candidate that came, by index."""
    candidates: tuple[Candidate, ...]
    """Every finished candidate, skipped ones included."""
    assessments: Mapping[Index, Assessment]
    """Judgements by index; candidates without usable pixels have none."""
    config: Mapping[str, Any]
    """The resolved settings of the search."""
    seed: int | None
    """Of the search; None for images that existed already."""
    timing: Timing
    ranking: tuple[Index, ...] = ()
    """Indices of everything usable, best first: the choice, then candidates that may replace the
    input, the input, and the others."""
    name: str = ""
    """The path as given; empty for an image that came as an object."""
    notes: tuple[str, ...] = ()
    """What was done to the image when it was read."""
    decoded: DecodedImage | None = field(default=None, repr=False)
    """The image as it was read: its EXIF and alpha go into saved pictures."""
    error: str | None = None
    """The error or Ctrl-C that cut the search short; None when all candidates were finished."""
    second_assessments: Mapping[Index, Assessment] = field(default_factory=dict)
    """Judgements of the second judge by index: of the input and the finalists."""
    scorer: Scorer | None = field(default=None, repr=False)
    """The judge, which also draws the quality maps of a report."""
    second: Scorer | None = field(default=None, repr=False)
    """The second judge, which also rates a composition."""
    rule: ChoiceRule | None = field(default=None, repr=False)
    """The rule of the choice."""

    @property
    def best(self) -> Tensor:
        """(3, H, W) float32 in [0, 1]: the chosen image."""
        return self.image(self.choice)

    @property
    def table(self) -> list[dict[str, Any]]:
        """One dictionary per row: the input, then the candidates by index."""
        return [row.to_dict() for row in self.rows]

    @property
    def skipped(self) -> dict[str, int]:
        """Number of skipped candidates by reason; the input is not counted."""
        statuses = (row.status for row in self.rows if row.index != "input")
        return dict(sorted(Counter(status for status in statuses if status != OK).items()))

    @property
    def second_failures(self) -> int:
        """How many of the second judge's judgements failed."""
        return sum(not judgement.valid for judgement in self.second_assessments.values())

    @property
    def nfe(self) -> dict[str, int] | None:
        """Network evaluations: ``spent``, and ``full``, those of all these candidates unpruned.

        None where the restorer does not count them.
        """
        counted = [row for row in self.rows if row.nfe is not None]
        if not counted:
            return None
        spent = sum(row.nfe or 0 for row in counted)
        return {"spent": spent, "full": spent + sum(row.nfe_saved for row in counted)}

    def image(self, index: Index) -> Tensor:
        """(3, H, W) in [0, 1] of a candidate or of the input.

        Raises:
            KeyError: no finished candidate has this index.
        """
        if index == "input" and self.input is not None:
            return self.input
        for candidate in self.candidates:
            if candidate.index == index:
                return candidate.image.detach().float().cpu().clamp(0, 1)
        finished = [candidate.index for candidate in self.candidates]
        others = "" if self.input is None else "'input' and "
        raise KeyError(f"no finished candidate {index!r}; there are {others}{finished}")

    def top(self, k: int) -> list[Tensor]:
        """The ``k`` best images, (3, H, W) in [0, 1], best first; fewer where fewer are usable.

        >>> import torch, zoomiqa_core as zi
        >>> from restoration_guide import pick_best
        >>> image = torch.rand(3, 48, 48)
        >>> selection = pick_best(image, [image * 0.99, image * 0.98], zi.load_scorer("proxy"))
        >>> len(selection.top(2)), torch.equal(selection.top(1)[0], selection.best)
        (2, True)
        """
        return [self.image(index) for index in self.ranking[:k]]

    def to_pil(self) -> Image.Image:
        """The chosen image as an 8-bit PIL image."""
        return to_pil(self.best)

    def row(self, index: Index) -> Row:
        """The row of a candidate or of the input."""
        return next(row for row in self.rows if row.index == index)

    def quality_map(self, index: Index) -> Tensor | None:
        """(1, h, w) rating map of a candidate or of the input.

        None when there is no judge or no valid judgement, or when the map is not finite.
        """
        if self.scorer is None or index not in self.assessments:
            return None
        if not self.assessments[index].valid:
            return None
        drawn = quality_map(self.scorer, self.image(index), self.input)
        return drawn if bool(drawn.isfinite().all()) else None

    def region_rating(self, index: Index, bbox: BBox) -> float:
        """The judge's rating of one region (normalised xyxy) of a candidate or of the input.

        Raises:
            ValueError: the selection has no judge.
        """
        if self.scorer is None:
            raise ValueError("this selection has no judge to rate a region with")
        return region_rating(self.scorer, self.image(index), bbox, self.input)

    def save(self, path: str | os.PathLike[str], *, bits: int = 8) -> Path:
        """Write the chosen picture, or everything usable into a folder, and return the path.

        Pictures have an sRGB profile, the input's EXIF, and the input's alpha beside the colour.

        Args:
            path: of a picture, whose suffix names the format: .png, .jpg, .webp or .tiff. A path
                without a suffix is a folder: it gets ``1-candidate-3.png``, ``2-input.png`` and so
                on in the order of the ranking. Files of these names are replaced.
            bits: per channel; 16 needs .png.

        Raises:
            ValueError: a suffix of another format, or bits that it does not hold.
        """
        path = Path(path).expanduser()
        if path.suffix and not path.is_dir():
            return save_image(self.best, path, like=self.decoded, bits=bits)
        path.mkdir(parents=True, exist_ok=True)
        for place, index in enumerate(self.ranking, start=1):
            name = "input" if index == "input" else f"candidate-{index}"
            picture = path / f"{place:0{len(str(len(self.ranking)))}d}-{name}.png"
            save_image(self.image(index), picture, like=self.decoded, bits=bits)
        return path


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a search; ``selection`` holds the choice among the judged candidates.

    Catch it to save what was found so far, e.g. ``stopped.selection.save("best.png")``. An
    ``except Exception`` lets it pass, as it does Ctrl-C:

    >>> issubclass(SearchInterrupted, KeyboardInterrupt)
    True
    """

    def __init__(self, selection: Selection) -> None:
        super().__init__(f"interrupted after {len(selection.candidates)} candidates")
        self.selection = selection
