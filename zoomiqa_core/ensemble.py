"""Several judges as one: their weighted mean, and how much they disagree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn import functional

from zoomiqa_core.assessment import Assessment, BBox, RegionScore
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.images.inputs import ImageInput, each_image, in_parts, is_single_image
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageSource
from zoomiqa_core.interop.loss import batch_ratings
from zoomiqa_core.scorer import load_scorer

PART = 16
"""Images that every member is asked about before the next are read."""


class EnsembleScorer:
    """The weighted mean of several judges on the 1–5 scale.

    The variance of a rating is the members' mean variance plus the variance between their ratings,
    so ``rating_std`` grows where they disagree. A member that states no error (NaN, or 0 as most
    wrapped metrics) adds disagreement alone.

    Where one member fails, the ensemble's judgement fails: a mean over the others would not compare
    with those of other images.

    Args:
        members: weight of each judge: a name for ``load_scorer``, or a judge. Only their ratios
            count.
        device: of the judges given by name.
        name: for reports; weights and names of the members by default.

    >>> import zoomiqa_core as zi
    >>> judge = EnsembleScorer({"proxy": 3, zi.load_scorer("alarm"): 1})
    >>> judge.name
    '0.75 proxy + 0.25 alarm'
    >>> said = judge.assess(torch.rand(3, 64, 64))
    >>> said.valid, said.rating_std > 0
    (True, True)
    """

    lower_is_better = False
    """Whether a lower value is the better one."""

    def __init__(
        self,
        members: Mapping[Any, float],
        *,
        device: str | torch.device = "cpu",
        name: str | None = None,
    ) -> None:
        weights = list(members.values())
        if len(weights) < 2 or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(
                f"expected two or more judges, each with a finite weight > 0, got {members}"
            )
        self.members: list[Any] = [
            load_scorer(member, device=device) if isinstance(member, str) else member
            for member in members
        ]
        self.weights = [weight / sum(weights) for weight in weights]
        parts = zip(self.weights, self.members, strict=True)
        self.name = name or " + ".join(f"{weight:.3g} {each.name}" for weight, each in parts)

    @property
    def differentiable(self) -> bool:
        """Whether every member's ratings have a gradient in the image."""
        return all(getattr(each, "differentiable", False) for each in self.members)

    @property
    def deterministic(self) -> bool:
        """Whether every member always gives an image the same rating."""
        return all(getattr(each, "deterministic", False) for each in self.members)

    @property
    def takes_degraded(self) -> bool:
        """Whether a member also takes the degraded input; it is passed on to those that do."""
        return any(getattr(each, "takes_degraded", False) for each in self.members)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that may change a rating, as plain values."""
        parts = zip(self.weights, self.members, strict=True)
        own = [
            {"name": each.name, "weight": w, **getattr(each, "settings", {})} for w, each in parts
        ]
        return {"members": own}

    @overload
    def assess(
        self, images: ImageSource, *, degraded: ImageSource | None = ..., limits: ImageLimits = ...
    ) -> Assessment: ...
    @overload
    def assess(
        self,
        images: Iterable[ImageSource],
        *,
        degraded: ImageSource | None = ...,
        limits: ImageLimits = ...,
    ) -> list[Assessment]: ...

    def assess(
        self,
        images: ImageInput,
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Assessment | list[Assessment]:
        """Judge one image or several; see :meth:`~zoomiqa_core.ProxyScorer.assess`.

        A failed judgement has the error of the first member that failed, and all their messages.
        """
        found: list[Assessment] = []
        for part in in_parts(each_image(images), PART):
            said = [
                each.assess(part, **self._given(each, degraded, limits)) for each in self.members
            ]
            found += [self._assessment(of_image) for of_image in zip(*said, strict=True)]
        return found[0] if is_single_image(images) else found

    def score_regions(
        self,
        image: ImageSource,
        bboxes: Sequence[BBox],
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[RegionScore]:
        """Rate regions; see the members for what a region's rating is.

        Raises:
            ImageError: the image cannot be read.
            ValueError: a box is malformed.
        """
        said = [
            each.score_regions(image, bboxes, **self._given(each, degraded, limits))
            for each in self.members
        ]
        return [
            RegionScore(bbox, *self._combined(regions), *self._failure(regions))
            for bbox, *regions in zip(bboxes, *said, strict=True)
        ]

    def quality_map(
        self,
        image: ImageSource,
        *,
        degraded: ImageSource | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Tensor:
        """(1, h, w) weighted mean of the members' maps on the finest grid among them.

        Coarser maps are repeated, not interpolated. NaN where a member's map is.

        Raises:
            ImageError: the image cannot be read.
        """
        maps = [
            each.quality_map(image, **self._given(each, degraded, limits)).float().cpu()
            for each in self.members
        ]
        grid = tuple(max(each.shape[side] for each in maps) for side in (-2, -1))
        fine = [functional.interpolate(each[None], grid, mode="nearest-exact")[0] for each in maps]
        return sum((w * each for w, each in zip(self.weights, fine, strict=True)), torch.zeros(()))

    def ratings(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Ratings (B,) of a batch with their gradient; see :func:`~zoomiqa_core.as_loss`."""
        parts = zip(self.weights, self.members, strict=True)
        return torch.stack([w * batch_ratings(each, images, degraded) for w, each in parts]).sum(0)

    @staticmethod
    def _given(member: Any, degraded: Any, limits: ImageLimits) -> dict[str, Any]:
        """Arguments that this member takes."""
        given: dict[str, Any] = {} if limits == DEFAULT_LIMITS else {"limits": limits}
        if degraded is not None and getattr(member, "takes_degraded", False):
            given["degraded"] = degraded
        return given

    def _assessment(self, said: Sequence[Assessment]) -> Assessment:
        rating, std = self._combined(said)
        error, message = self._failure(said)
        return Assessment(
            rating,
            std,
            error is None,
            error,
            message,
            said[0].name,
            directions=tuple(text for each in said for text in each.directions),
            issues=tuple(text for each in said for text in each.issues),
            notes=tuple(dict.fromkeys(note for each in said for note in each.notes)),
        )

    def _combined(self, said: Sequence[Assessment | RegionScore]) -> tuple[float, float]:
        """Mean and standard deviation of a mixture of the members' ratings; NaN after a failure."""
        if not all(each.valid for each in said):
            return math.nan, math.nan
        parts = list(zip(self.weights, said, strict=True))
        mean = sum(w * each.rating for w, each in parts)
        stds = [each.rating_std if math.isfinite(each.rating_std) else 0.0 for each in said]
        within = sum(w * std**2 for w, std in zip(self.weights, stds, strict=True))
        return mean, math.sqrt(within + sum(w * (each.rating - mean) ** 2 for w, each in parts))

    def _failure(self, said: Sequence[Assessment | RegionScore]) -> tuple[str | None, str]:
        failed = [pair for pair in zip(self.members, said, strict=True) if not pair[1].valid]
        if not failed:
            return None, ""
        reasons = {each.message or str(each.error): member.name for member, each in failed}
        if len(failed) == len(said) and len(reasons) == 1:  # the image's fault
            return failed[0][1].error, failed[0][1].message
        return failed[0][1].error, "; ".join(f"{name}: {why}" for why, name in reasons.items())
