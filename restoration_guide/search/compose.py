"""Region composition: in each place what the better images agree on, if the whole is better for it.

The judge's maps say where which image is good. Each place gets the mean of the images, weighted by
``softmax(map / temperature)``, among those that are rated there at least like the input and are
faithful to it there. The weights change smoothly, so no border has to be hidden; finished
candidates of any restorer are pixels, so their latents are not asked for. The composition is then
judged like any candidate, and it is chosen only if judge, fidelity and seam agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.fidelity.measure import FidelityLimits, measure_fidelity
from restoration_guide.fidelity.terms import gaussian_blur
from restoration_guide.restorers.base import Candidate
from restoration_guide.search.choice import ChoiceRule, contenders, ranked, with_gains
from restoration_guide.search.judging import judge_images
from restoration_guide.search.selection import OK, Index, Row, Selection
from restoration_guide.search.timing import Stopwatch, Timing
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class ComposeConfig:
    """Settings of a composition; the temperature was chosen on training photos.

    >>> ComposeConfig(temperature=0.3).max_seam
    0.004
    """

    smoothing: float = 1.0
    """Standard deviation, in cells, of the Gaussian that the judge's maps are smoothed with."""
    temperature: float = 0.15
    """Rating points by which an image must be better in a cell to weigh e times as much there."""
    max_local_distance: float = 0.06
    """Largest :func:`local_distance` at which an image may be taken in a cell."""
    max_seam: float = 0.004
    """Largest :func:`seam_step`; one 8-bit step is .004."""

    def __post_init__(self) -> None:
        for name in ("smoothing", "max_local_distance", "max_seam"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is a finite number > 0; got {self.temperature}.")


@dataclass(frozen=True)
class Composition:
    """Several images mixed into one, differently by place."""

    image: Tensor
    """(3, H, W) in [0, 1]."""
    shares: dict[Index, float]
    """Mean weight by image; they sum to 1."""
    seam: float
    """See :func:`seam_step`."""
    local_distance: float
    """The largest :func:`local_distance` of its cells."""


def compose_regions(selection: Selection, config: ComposeConfig | None = None) -> Selection:
    """The selection with a composition of its images as one more candidate.

    >>> import zoomiqa_core as zi
    >>> from restoration_guide import BestOfN, load_restorer
    >>> search = BestOfN(load_restorer("builtin"), zi.load_scorer("proxy"), n=2)
    >>> composed = compose_regions(search(torch.rand(3, 48, 64)))
    >>> composed.choice in [row.index for row in composed.rows]
    True

    Args:
        selection: the outcome of a search, with its judge.
        config: None for the measured defaults.

    Returns:
        The same selection when one image has all the weight everywhere. Otherwise one with a
        further row, of the next free index, whose settings name each image's share (those below
        .5 % left out). The composition is the choice if it may replace the input
        (:func:`~restoration_guide.search.choice.contenders`), is rated above the choice, keeps the
        search's fidelity limits, has no cell further from the input than allowed, and its seam does
        not show. If not, the choice stays and the row is ``"rejected"``, with reasons.

    Raises:
        ValueError: the selection has no judge, or no input that the composition could be faithful
            to.
    """
    config = ComposeConfig() if config is None else config
    _scorer(selection)
    source = _input(selection)
    watch = Stopwatch()
    composition = _compose(selection, config, watch)
    if composition is None:
        return selection
    with watch.measure("fidelity"):
        fidelity = measure_fidelity(composition.image[None], source[None])[0]
    with watch.measure("judging"):
        judgement = judge_images(_scorer(selection), [composition.image], source)[0]
    index = 1 + max(int(row.index) for row in selection.rows if row.index != "input")
    shares = {part: f"{share:.0%}" for part, share in composition.shares.items()}
    parts = ", ".join(f"{part} {share}" for part, share in shares.items() if share != "0%")
    settings = {"composed of": parts}
    row = Row(index, seed=selection.seed, settings=settings, fidelity=fidelity, nfe=0)
    row = with_gains([selection.row("input"), row.judged(judgement)])[1]
    second: dict[Index, Assessment] = {}
    if selection.second is not None and selection.second_assessments and row.status == OK:
        with watch.measure("judging"):
            second[index] = judge_images(selection.second, [composition.image], source)[0]
        row = row.judged_again(second[index])
    row, choice, reason = _verdict(selection, row, composition, config)
    timing = watch.read()
    made = Candidate(index, selection.seed or 0, settings, composition.image, timing.total, 0)
    rows = (*selection.rows, replace(row, seconds=timing.total))
    order = [row.index for row in ranked(rows, _rule(selection))]
    return replace(
        selection,
        choice=choice,
        reason=reason,
        rows=rows,
        ranking=(choice, *(index for index in order if index != choice)),
        candidates=(*selection.candidates, made),
        assessments={**selection.assessments, index: judgement},
        second_assessments={**selection.second_assessments, **second},
        timing=_sum(selection.timing, timing),
    )


def _compose(selection: Selection, config: ComposeConfig, watch: Stopwatch) -> Composition | None:
    """None when the input has no map, or when one image has all the weight everywhere."""
    maps: dict[Index, Tensor] = {}
    with watch.measure("judging"):
        for row in selection.rows:
            found = selection.quality_map(row.index) if row.status == OK else None
            if found is not None:
                maps[row.index] = found
    if "input" not in maps:
        return None
    indices = list(maps)
    images = torch.stack([selection.image(index) for index in indices])
    ratings = low_pass(torch.cat(list(maps.values())), config.smoothing)
    grid = ratings.shape[-2:]
    source = _input(selection)[None]
    faithful = local_distance(images, source, grid) <= config.max_local_distance
    weights = local_weights(ratings, indices.index("input"), faithful, config.temperature)
    if bool((weights == 1).all(dim=(1, 2)).any()):
        return None
    weights = functional.interpolate(
        weights[None], images.shape[-2:], mode="bilinear", align_corners=False
    )[0]
    mixed = (weights[:, None] * images).sum(0).clamp(0, 1)
    return Composition(
        mixed,
        {index: float(weight.mean()) for index, weight in zip(indices, weights, strict=True)},
        seam_step(mixed, images, grid),
        float(local_distance(mixed[None], source, grid).max()),
    )


def local_weights(maps: Tensor, source: int, faithful: Tensor, temperature: float) -> Tensor:
    """How much each image counts in each cell.

    Args:
        maps: (K, h, w) ratings of K images.
        source: place of the input among them; it always counts.
        faithful: (K, h, w), False where an image must not be taken.
        temperature: rating points > 0.

    Returns:
        (K, h, w) that sum to 1 in every cell: ``softmax(maps / temperature)`` over the faithful
        images rated there at least like the input, 0 for all others.
    """
    counts = faithful & (maps >= maps[source])
    counts[source] = True
    return (maps / temperature).masked_fill(~counts, -math.inf).softmax(0)


def local_distance(images: Tensor, degraded: Tensor, grid: Sequence[int]) -> Tensor:
    """RMS difference of the Gaussian low-pass (σ 3 px) by cell: ``low_pass_distance`` of regions.

    Args:
        images: (K, 3, H, W) in [0, 1].
        degraded: (1, 3, H, W) in [0, 1], the restorer's input.
        grid: height and width in cells.

    Returns:
        (K, h, w), pixel values of [0, 1].
    """
    squares = low_pass(images - degraded, 3.0).square().mean(1)
    return functional.adaptive_avg_pool2d(squares, (grid[0], grid[1])).sqrt()


def seam_step(image: Tensor, sources: Tensor, grid: Sequence[int]) -> float:
    """How much larger than in any source the steps from pixel to pixel are where it is worst.

    Args:
        image: (3, H, W), mixed from the sources.
        sources: (K, 3, H, W).
        grid: height and width in cells.

    Returns:
        The largest mean over a cell, in pixel values of [0, 1].
    """
    worst = 0.0
    for axis in (0, 1):
        own = image.diff(dim=axis + 1).abs().mean(0)
        largest = sources.diff(dim=axis + 2).abs().mean(1).amax(0)
        excess = (own - largest).clamp_min(0)
        by_cell = functional.adaptive_avg_pool2d(excess[None], (grid[0], grid[1]))
        worst = max(worst, float(by_cell.max()))
    return worst


def low_pass(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (…, H, W) with replicated borders; ``sigma`` 0 is the identity."""
    if sigma == 0:
        return planes
    blurred = gaussian_blur(planes.reshape(1, -1, *planes.shape[-2:]), sigma)
    return blurred.view_as(planes)


def _verdict(
    selection: Selection, row: Row, composition: Composition, config: ComposeConfig
) -> tuple[Row, Index, str]:
    """The composition's row with its status, and the choice with its reason."""
    kept = selection.choice, selection.reason
    if row.status != OK:
        return row, *kept
    rivals = contenders([*selection.rows, row], _rule(selection))
    rated = f"rated {row.rating:.2f} against {selection.row(selection.choice).rating:.2f}"
    doubts = []
    if row not in rivals or row.rating <= selection.row(selection.choice).rating:
        doubts.append(f"{rated} of the choice")
    if row.fidelity is not None:
        doubts += row.fidelity.violations(FidelityLimits(**selection.config["fidelity"]))
    doubts += _second_doubts(selection, row)
    if composition.local_distance > config.max_local_distance:
        allowed = f"{composition.local_distance:.4f} > {config.max_local_distance:g}"
        doubts.append(f"a cell's distance to the input is {allowed}")
    if composition.seam > config.max_seam:
        doubts.append(f"its seam is a step of {composition.seam:.4f} > {config.max_seam:g}")
    if doubts:
        return replace(row, status="rejected", detail="; ".join(doubts)), *kept
    parts = f"candidate {row.index} is best: composed of {row.settings['composed of']}"
    return row, row.index, f"{parts}, {rated} of {selection.choice}"


def _second_doubts(selection: Selection, row: Row) -> list[str]:
    """Why the second judge, where it decided the choice, prefers the choice."""
    before = selection.row("input").second_rating
    chosen = selection.row(selection.choice).second_rating
    if before is None or chosen is None or not math.isfinite(before) or not math.isfinite(chosen):
        return []  # the first judge decided
    if row.second_rating is None or math.isnan(row.second_rating):
        return [f"the second judge could not rate it: {row.second_error or 'there is none'}"]
    needed = before + _rule(selection).min_gain
    if row.second_rating > max(chosen, needed):
        return []
    return [
        f"the second judge rates it {row.second_rating:.2f} against {chosen:.2f} of the choice and "
        f"{before:.2f} of the input"
    ]


def _rule(selection: Selection) -> ChoiceRule:
    """The rule that the search chose by."""
    if selection.rule is None:
        raise ValueError("this selection has no rule to choose by")
    return selection.rule


def _input(selection: Selection) -> Tensor:
    if selection.input is None:
        raise ValueError("this selection has no input, to which a composition must be faithful")
    return selection.input


def _scorer(selection: Selection) -> Scorer:
    if selection.scorer is None:
        raise ValueError("this selection has no judge whose maps could be compared")
    return selection.scorer


def _sum(first: Timing, second: Timing) -> Timing:
    a, b = asdict(first), asdict(second)
    return Timing(**{part: a[part] + b[part] for part in a})
