"""Choose among candidates of one input: screen, measure fidelity, judge, choose.

A search (:mod:`restoration_guide.search.best_of_n`) makes candidates and hands them to
:class:`Picking`; :func:`pick_best` hands it images that exist already. The rule of
:mod:`restoration_guide.search.choice` chooses among the candidates within the fidelity limits. A
second, slower judge may decide among the best few. A candidate that cannot be used is skipped and
counted under one of these names; it never gets a default rating:

=================  =================================================================
status             a candidate …
=================  =================================================================
ok                 … that may be chosen
unreadable         … whose file holds no image
wrong_size         … whose size is not the input's
not_finite         … with NaN or infinite pixels
out_of_range       … with pixels outside [0, 1]
constant           … that is black or one flat colour while the input is not
judgement_failed   … the judge failed on
unfaithful         … beyond a fidelity limit
pruned             … ended half-way (:mod:`restoration_guide.search.prune`); rated by its preview
=================  =================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from restoration_guide.fidelity.colour import is_grey
from restoration_guide.fidelity.measure import FidelityLimits, measure_fidelity
from restoration_guide.restorers.base import Candidate
from restoration_guide.search.choice import (
    ChoiceRule,
    choose,
    choose_rated,
    finalists,
    ranked,
    with_consensus,
    with_gains,
)
from restoration_guide.search.judging import check_judge, describe_error, judge_images
from restoration_guide.search.screening import matched_colour, screened
from restoration_guide.search.selection import OK, Index, Row, SearchInterrupted, Selection
from restoration_guide.search.timing import Stopwatch
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.inputs import ImageInput, each_image
from zoomiqa_core.images.sources import (
    DEFAULT_LIMITS,
    ClosedImageError,
    DecodedImage,
    ImageError,
    ImageLimits,
    ImageSource,
    find_images,
    read_image,
)
from zoomiqa_core.scorer import load_scorer

if TYPE_CHECKING:
    from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class PickConfig(ChoiceRule):
    """Settings of the choice among candidates that are there.

    >>> PickConfig(min_gain=0.1).finalists
    3
    """

    batch_size: int = 1
    """Candidates that may be judged together, and by a search restored together. On an accelerator
    more is faster, takes as many times the memory, and changes candidates by rounding at most. On
    the CPU the builtin restorer and judge work one by one, so there it has no effect."""
    finalists: int = 3
    """How many of the best the second judge is shown, where there is one."""
    fidelity: FidelityLimits = field(default_factory=FidelityLimits)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.batch_size, self.finalists) < 1:
            raise ValueError(
                "batch_size and finalists count candidates, ≥ 1; got "
                f"batch_size={self.batch_size}, finalists={self.finalists}."
            )


def pick_best(
    input: ImageSource | None,
    images: ImageInput | Mapping[str, ImageSource],
    judge: Scorer | str | None = None,
    *,
    second: Scorer | None = None,
    limits: FidelityLimits | None = None,
    sizes: ImageLimits = DEFAULT_LIMITS,
    **settings: Any,
) -> Selection:
    """Choose among images that exist already, by the rules of a search.

    >>> import zoomiqa_core as zi
    >>> photo = torch.rand(3, 48, 64)
    >>> images = {"half": photo * 0.5, "copy": photo, "small": photo[:, ::2]}
    >>> picked = pick_best(photo, images, zi.load_scorer("proxy"))
    >>> [(row.settings["image"], row.status) for row in picked.rows[1:]]
    [('half', 'unfaithful'), ('copy', 'ok'), ('small', 'wrong_size')]
    >>> picked.choice, picked.ranking
    ('input', ('input', 1))

    Without an input, of samples of a text-to-image model for example, the best rated image wins;
    nothing is measured against anything:

    >>> pick_best(None, torch.rand(3, 3, 48, 64), "proxy").choice in (0, 1, 2)
    True

    Args:
        input: the degraded image that all were made from; None where there is none.
        images: candidates: images, or the path of a folder, or names and images. Their index is
            their position.
        judge: the judge, or its name for ``zoomiqa_core.load_scorer``. By default "restoration",
            which sees the input, or without an input "proxy". The restoration judge may be asked
            without an input too; it is then less certain.
        second: a second judge that chooses among the first one's best.
        limits: fidelity limits; None for the measured defaults.
        sizes: of images that are read.
        settings: any other of :class:`PickConfig`, e.g. ``select="rating"``.

    Returns:
        The selection. A candidate that cannot be read or used, such as one of another size, has a
        row that says why; the others go on.

    Raises:
        ImageError: the input cannot be read, or a candidate is no image by its type or shape.
        NoCandidateError: without an input, when no image can be chosen.
        TypeError: there is no such setting, or what was given is no judge.
        ValueError: no images, or a setting out of range.
        SearchInterrupted: Ctrl-C; its ``selection`` is the choice among the judged images.
    """
    if judge is None or isinstance(judge, str):
        judge = _loaded(judge or ("restoration" if input is not None else "proxy"))
    limits = FidelityLimits() if limits is None else limits
    config = PickConfig(fidelity=limits, **settings)
    decoded = None if input is None else read_image(input, limits=sizes)
    picking = Picking(decoded, judge, config, second=second)
    with picking.watch.measure("restoring"):  # reading stands for it
        for index, (name, image) in enumerate(_named(images)):
            picking.read(index, name, image, sizes)
    if not (picking.candidates or picking.skipped):
        raise ValueError("expected images to choose from, got none; give at least one")
    return picking.select(config={"n": index + 1, "restorer": "images"})


class Picking:
    """The second half of a search: what is known of one input's candidates so far.

    Args:
        decoded: the input; None where there is none.
        scorer: judges candidates.
        config: the rule of the choice and the fidelity limits.
        second: a second judge.
        judged: called with each candidate and its row, as soon as its batch is judged.
    """

    def __init__(
        self,
        decoded: DecodedImage | None,
        scorer: Scorer,
        config: PickConfig,
        *,
        second: Scorer | None = None,
        judged: Callable[[Candidate, Row], None] | None = None,
    ) -> None:
        for judge in (scorer,) if second is None else (scorer, second):
            check_judge(judge)
        if decoded is None and config.select == "consensus":
            raise ValueError(
                'select="consensus" looks for the mean of what is better than the input, and there '
                'is none; take "gain" or "rating".'
            )
        self.decoded = decoded
        self.source = None if decoded is None else decoded.pixels
        self.scorer = scorer
        self.second = second
        self.config = config
        self.judged = judged
        self.watch = Stopwatch()
        self.candidates: list[Candidate] = []
        self.skipped: list[Row] = []
        """Rows without a candidate: unreadable files, and what was ended half-way."""
        self.assessments: dict[Index, Assessment] = {}
        self._rows: list[Row] = []
        self._asked = 0
        """Candidates that the judge was asked about, whether it answered or not."""
        self._grey = self.source is not None and is_grey(self.source)
        if self.source is not None:
            with self.watch.measure("judging"):
                self.assessments["input"] = judge_images(scorer, [self.source], self.source)[0]

    def read(self, index: int, name: str, image: ImageSource, sizes: ImageLimits) -> None:
        """Take an image as a candidate, or note why it is none."""
        settings = {"image": name} if name else {}
        try:
            decoded = read_image(image, limits=sizes)
        except ClosedImageError:
            raise
        except ImageError as error:
            known = {"not_finite": "not_finite", "bad_values": "out_of_range"}
            status = known.get(error.code, "unreadable")
            self.skipped.append(Row(index, status=status, detail=str(error), settings=settings))
            return
        self.take(Candidate(index, 0, settings, decoded.pixels, 0.0, notes=decoded.notes))

    def take(self, candidate: Candidate) -> Candidate:
        """Take a candidate; without its colour where the input is greyscale."""
        candidate = matched_colour(candidate, self._grey)
        self.candidates.append(candidate)
        return candidate

    def judge(self) -> None:
        """Judge the candidates that the judge was not asked about yet."""
        while batch := self.candidates[self._asked : self._asked + self.config.batch_size]:
            self._asked += len(batch)
            self._rows += (rows := self.rate(batch, self.assessments))
            if self.judged is not None:
                for candidate, row in zip(batch, self._with_gains(rows), strict=True):
                    self.judged(candidate, row)

    def rows(self) -> list[Row]:
        """The input, then everything judged or skipped so far, by index and with gains."""
        rows = sorted([*self._rows, *self.skipped], key=lambda row: int(row.index))
        if self.source is None:
            return rows
        return [self._input_row(), *self._with_gains(rows)]

    def lower_gains(self) -> dict[int, float]:
        """Lower bounds of the gains of the usable candidates, by index."""
        usable = [row for row in self._with_gains(self._rows) if row.status == OK]
        return {int(row.index): self.config.lower_gain(row) for row in usable}

    def rate(
        self, batch: Sequence[Candidate], assessments: dict[Index, Assessment] | None = None
    ) -> list[Row]:
        """Screen, measure and judge candidates; adds to ``assessments``."""
        rows = {candidate.index: screened(candidate, self.source) for candidate in batch}
        images = {
            candidate.index: _pixels(candidate)
            for candidate in batch
            if rows[candidate.index].status == OK
        }
        if not images:
            return list(rows.values())
        if self.source is not None:
            with self.watch.measure("fidelity"):
                found = measure_fidelity(torch.stack(list(images.values())), self.source[None])
            for index, fidelity in zip(images, found, strict=True):
                rows[index] = replace(rows[index], fidelity=fidelity)
        with self.watch.measure("judging"):
            judgements = judge_images(self.scorer, list(images.values()), self.source)
        for index, judgement in zip(images, judgements, strict=True):
            if assessments is not None:
                assessments[index] = judgement
            row = rows[index].judged(judgement)
            if row.fidelity is not None and row.status == OK:
                broken = "; ".join(row.fidelity.violations(self.config.fidelity))
                row = replace(row, status="unfaithful", detail=broken) if broken else row
            rows[index] = row
        return list(rows.values())

    def select(
        self,
        *,
        config: Mapping[str, Any],
        seed: int | None = None,
        error: BaseException | None = None,
        note: str = "",
    ) -> Selection:
        """Judge what is not judged yet, and choose.

        Args:
            config: what the candidates are made by, for the record.
            seed: of the search.
            error: what stopped the search early.
            note: added to the reason.

        Raises:
            NoCandidateError: without an input, when no image can be chosen.
            SearchInterrupted: Ctrl-C stopped the search, or the judging now.
        """
        try:
            self.judge()
        except KeyboardInterrupt as interrupt:
            error = interrupt
        missing = self.candidates[len(self._rows) :]
        self._rows += [_not_judged(candidate, self.source) for candidate in missing]
        rows = self.rows()
        images = {candidate.index: candidate for candidate in self.candidates}
        if self.config.select == "consensus":
            rows = with_consensus(rows, lambda index: _pixels(images[int(index)]), self.config)
        second_assessments: dict[Index, Assessment] = {}
        if not isinstance(error, KeyboardInterrupt):
            try:
                with self.watch.measure("judging"):
                    rows, second_assessments = self._ask_second(rows, images)
            except KeyboardInterrupt as interrupt:
                error = interrupt

        choice = (choose_rated if self.source is None else choose)(rows, self.config)
        order: list[Index] = [row.index for row in ranked(rows, self.config)]
        order.remove(choice.index)
        described = None if error is None else describe_error(error)
        stopped = None if error is None else f"the search stopped early: {described}"
        selection = Selection(
            input=self.source,
            choice=choice.index,
            reason="; ".join(filter(None, (choice.reason, note, stopped))),
            rows=tuple(rows),
            candidates=tuple(sorted(self.candidates, key=lambda candidate: candidate.index)),
            assessments=self.assessments,
            second_assessments=second_assessments,
            config=self._resolved_config(config),
            seed=seed,
            timing=self.watch.read(),
            ranking=(choice.index, *order),
            name="" if self.decoded is None else self.decoded.name,
            notes=() if self.decoded is None else self.decoded.notes,
            decoded=self.decoded,
            error=described,
            scorer=self.scorer,
            second=self.second,
            rule=self.config,
        )
        if isinstance(error, KeyboardInterrupt):
            raise SearchInterrupted(selection) from None
        return selection

    def _input_row(self) -> Row:
        return Row("input").judged(self.assessments["input"])

    def _with_gains(self, rows: Sequence[Row]) -> list[Row]:
        return [*rows] if self.source is None else with_gains([self._input_row(), *rows])[1:]

    def _ask_second(
        self, rows: list[Row], images: Mapping[int, Candidate]
    ) -> tuple[list[Row], dict[Index, Assessment]]:
        """The rows with the second judge's ratings of the input and the finalists."""
        count = self.config.finalists
        if self.source is None:
            best = ranked(rows, self.config)[:count]
        else:
            best = finalists(rows, self.config, count)
        if self.second is None or not best:
            return rows, {}
        asked: dict[Index, Tensor] = {} if self.source is None else {"input": self.source}
        asked |= {row.index: _pixels(images[int(row.index)]) for row in best}
        found = judge_images(self.second, list(asked.values()), self.source)
        judgements = dict(zip(asked, found, strict=True))
        rows = [
            row.judged_again(judgements[row.index]) if row.index in judgements else row
            for row in rows
        ]
        return rows, judgements

    def _resolved_config(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **asdict(self.config),
            "select": select if isinstance(select := self.config.select, str) else _name(select),
            **more,
            "scorer": _name(self.scorer),
            "second": None if self.second is None else _name(self.second),
        }


def _named(
    images: ImageInput | Mapping[str, ImageSource],
) -> Iterable[tuple[str, ImageSource]]:
    """Names, empty for objects without one, and images."""
    if isinstance(images, Mapping):
        for name, image in zip(images, each_image(list(images.values())), strict=True):
            yield str(name), image
        return
    if isinstance(images, str | os.PathLike):
        images = find_images(images)
    for image in each_image(images):
        named = isinstance(image, str | os.PathLike)
        yield os.fsdecode(image) if named else "", image


@cache
def _loaded(name: str) -> Scorer:
    return load_scorer(name)


def _not_judged(candidate: Candidate, source: Tensor | None) -> Row:
    """The row of a candidate that was finished when Ctrl-C ended the judging."""
    row = screened(candidate, source)
    return (
        replace(row, status="judgement_failed", detail="interrupted") if row.status == OK else row
    )


def _pixels(candidate: Candidate) -> Tensor:
    return candidate.image.detach().float().cpu().clamp(0, 1)


def _name(judge: Any) -> str:
    return getattr(judge, "name", getattr(judge, "__name__", type(judge).__name__))
