"""Region composition: another candidate in each region, kept only if the whole is better for it.

The judge's maps say where which image is best; a region leaves the best single image only for a
clear gain, and only for an image that is faithful to the input there. Regions are labels on the
map's grid, each pair of neighbours that differ costing something (a Potts model, brought to a local
optimum by iterated conditional modes: Besag, JRSS B 1986), and are joined in pixels by multi-band
blending; finished candidates of any restorer are pixels, so their latents are not asked for. The
composition is then judged like any candidate, and it is chosen only if judge, fidelity and seam
agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.blending import blend, seam_step
from restoration_guide.fidelity import FidelityLimits, measure_fidelity
from restoration_guide.restorers.base import Candidate
from restoration_guide.selection import OK, Index, Row, Selection
from restoration_guide.timing import Stopwatch, Timing
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class ComposeConfig:
    """Settings of a composition."""

    smoothing: float = 1.0
    """Standard deviation, in cells, of the Gaussian that the judge's maps are smoothed with."""
    margin: float = 0.05
    """Rating points by which another map must exceed that of the best single image in a cell."""
    switch_cost: float = 0.05
    """Rating points that every pair of neighbouring cells with different labels costs."""
    max_local_distance: float = 0.06
    """Largest :func:`local_distance` at which an image may be taken in a cell."""
    levels: int = 5
    """Bands of the blending; the widest mixes over some 2^levels pixels."""
    max_seam: float = 0.004
    """Largest :func:`~restoration_guide.blending.seam_step`; one 8-bit step is .004."""

    def __post_init__(self) -> None:
        for name in ("smoothing", "margin", "switch_cost", "max_local_distance", "max_seam"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.levels < 1:
            raise ValueError(f"levels counts bands, at least 1; got {self.levels}.")


@dataclass(frozen=True)
class Composition:
    """Regions of several images joined into one."""

    image: Tensor
    """(3, H, W) in [0, 1]."""
    shares: dict[Index, float]
    """Share of the area by image; they sum to 1."""
    seam: float
    """See :func:`~restoration_guide.blending.seam_step`."""
    excess_distance: float
    """By how much the :func:`local_distance` of any cell exceeds all that was allowed there."""


def compose_regions(selection: Selection, config: ComposeConfig | None = None) -> Selection:
    """The selection with a composition of its images as one more candidate.

    Args:
        selection: the outcome of a search, with its judge.
        config: None for the measured defaults.

    Returns:
        The same selection when no region is clearly better in another image. Otherwise one with a
        further row, of the next free index, whose settings name each image's share. The composition
        is the choice if its lower bound exceeds the choice's (of the input: its rating and the
        minimal gain), it keeps the search's fidelity limits, no cell is further from the input than
        allowed, and its seam does not show. If not, the choice stays and the row is ``"rejected"``,
        with reasons.

    Raises:
        ValueError: the selection has no judge.
    """
    config = ComposeConfig() if config is None else config
    _scorer(selection)
    watch = Stopwatch()
    composition = _compose(selection, config, watch)
    if composition is None:
        return selection
    with watch.measure("fidelity"):
        fidelity = measure_fidelity(composition.image[None], selection.input[None])[0]
    with watch.measure("judging"):
        judgement = _judge(selection, composition.image)
    index = 1 + max(int(row.index) for row in selection.rows if row.index != "input")
    parts = ", ".join(f"{part} {share:.0%}" for part, share in composition.shares.items())
    settings = {"composed of": parts}
    row = Row(index, seed=selection.seed, settings=settings, fidelity=fidelity, nfe=0)
    row, choice, reason = _verdict(selection, row.judged(judgement), composition, config)
    timing = watch.read()
    made = Candidate(index, selection.seed, settings, composition.image, timing.total, 0)
    return replace(
        selection,
        choice=choice,
        reason=reason,
        rows=(*selection.rows, replace(row, seconds=timing.total)),
        candidates=(*selection.candidates, made),
        assessments={**selection.assessments, index: judgement},
        timing=_sum(selection.timing, timing),
    )


def _compose(selection: Selection, config: ComposeConfig, watch: Stopwatch) -> Composition | None:
    """None when the choice has no map, or is the best everywhere."""
    maps: dict[Index, Tensor] = {}
    with watch.measure("judging"):
        for row in selection.rows:
            found = selection.quality_map(row.index) if row.status == OK else None
            if found is not None:
                maps[row.index] = found
    if selection.choice not in maps:
        return None
    indices = list(maps)
    base = indices.index(selection.choice)
    images = torch.stack([selection.image(index) for index in indices])
    ratings = low_pass(torch.cat(list(maps.values())), config.smoothing)
    distances = local_distance(images, selection.input[None], ratings.shape[-2:])
    allowed = distances <= config.max_local_distance
    labels = assign_labels(
        ratings, base, margin=config.margin, switch_cost=config.switch_cost, allowed=allowed
    )
    used = labels.unique().tolist()
    if used == [base]:
        return None
    masks = torch.stack([labels == label for label in used]).float()
    size = images.shape[-2:]
    masks = functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
    joined = blend(images[used], masks, levels=config.levels)
    own_distance = local_distance(joined[None], selection.input[None], ratings.shape[-2:])[0]
    bound = distances[base].clamp_min(config.max_local_distance)
    return Composition(
        joined,
        {indices[label]: float(mask.mean()) for label, mask in zip(used, masks, strict=True)},
        seam_step(joined, images[used], masks.argmax(0)),
        float((own_distance - bound).max()),
    )


def assign_labels(
    maps: Tensor, base: int, *, margin: float, switch_cost: float, allowed: Tensor | None = None
) -> Tensor:
    """Which image to take in each cell.

    Args:
        maps: (K, h, w) ratings of K images.
        base: the image to stay with in doubt; its ratings are raised by ``margin``.
        margin: rating points.
        switch_cost: rating points for each pair of 4-neighbours with different labels.
        allowed: (K, h, w), False where an image must not be taken; the base always may.

    Returns:
        (h, w) int64 in 0 … K - 1: no cell alone could change to raise the sum of ratings minus
        costs.
    """
    ratings = maps.clone()
    ratings[base] += margin
    if allowed is not None:
        barred = ~allowed
        barred[base] = False
        ratings[barred] = -math.inf
    labels = ratings.argmax(0)
    rows, columns = (torch.arange(side) for side in labels.shape)
    colour = (rows[:, None] + columns) % 2
    while True:
        before = labels
        for now in (0, 1):  # a cell's neighbours have the other colour and hold still
            gains = ratings + switch_cost * _agreeing_neighbours(labels, len(maps))
            best = gains.argmax(0)
            current = gains.gather(0, labels[None])[0]
            better = (gains.amax(0) > current) & (colour == now)  # ties stay: the loop ends
            labels = torch.where(better, best, labels)
        if torch.equal(labels, before):
            return labels


def _agreeing_neighbours(labels: Tensor, count: int) -> Tensor:
    """(K, h, w): how many of a cell's four neighbours have label k."""
    ones = functional.pad(functional.one_hot(labels, count).permute(2, 0, 1), (1, 1, 1, 1))
    vertical = ones[:, :-2, 1:-1] + ones[:, 2:, 1:-1]
    return vertical + ones[:, 1:-1, :-2] + ones[:, 1:-1, 2:]


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


def low_pass(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (…, H, W) with replicated borders; ``sigma`` 0 is the identity."""
    from kornia.filters import gaussian_blur2d

    if sigma == 0:
        return planes
    size = 2 * math.ceil(3 * sigma) + 1
    stacked = planes.reshape(1, -1, *planes.shape[-2:])
    blurred = gaussian_blur2d(stacked, (size, size), (sigma, sigma), border_type="replicate")
    return blurred.view_as(planes)


def _judge(selection: Selection, image: Tensor) -> Assessment:
    """A failed assessment where the judge raises: the search's own choice stands."""
    scorer = _scorer(selection)
    try:
        with torch.no_grad():
            return scorer.assess([image])[0]
    except Exception as error:
        return Assessment.failed("judge_error", f"{type(error).__name__}: {error}")


def _verdict(
    selection: Selection, row: Row, composition: Composition, config: ComposeConfig
) -> tuple[Row, Index, str]:
    """The composition's row with its status, and the choice with its reason."""
    kept = selection.choice, selection.reason
    if row.status != OK:
        return row, *kept
    confidence, min_gain = selection.config["confidence"], selection.config["min_gain"]
    best, bound = selection.row(selection.choice), row.lower_bound(confidence)
    needed = best.rating + min_gain if best.index == "input" else best.lower_bound(confidence)
    figures = f"lower bound {bound:.2f} against {needed:.2f} for the choice without it"
    doubts = [] if bound > needed else [figures]
    if row.fidelity is not None:
        doubts += row.fidelity.violations(FidelityLimits(**selection.config["fidelity"]))
    if composition.excess_distance > 0:
        doubts.append(f"a cell is {composition.excess_distance:.4f} too far from the input")
    if composition.seam > config.max_seam:
        doubts.append(f"its seam is a step of {composition.seam:.4f} > {config.max_seam:g}")
    if doubts:
        return replace(row, status="rejected", detail="; ".join(doubts)), *kept
    parts = row.settings["composed of"]
    return row, row.index, f"candidate {row.index} is best: {figures}; composed of {parts}"


def _scorer(selection: Selection) -> Scorer:
    if selection.scorer is None:
        raise ValueError("this selection has no judge whose maps could be compared")
    return selection.scorer


def _sum(first: Timing, second: Timing) -> Timing:
    a, b = asdict(first), asdict(second)
    return Timing(**{part: a[part] + b[part] for part in a})
