"""Scorers that judge with a PyTorch model: the base they share, and the proxy's."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING, Assessment, BBox, RegionScore
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.images.inputs import (
    ImageInput,
    each_image,
    in_parts,
    is_single_image,
    read_or_fail,
    read_to_judge,
)
from zoomiqa_core.images.sources import DEFAULT_LIMITS, DecodedImage, ImageSource
from zoomiqa_core.proxy.inference import for_inference
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy
from zoomiqa_core.proxy.preprocess import fit
from zoomiqa_core.proxy.regions import region_ratings

Model = TypeVar("Model", bound=nn.Module)

BATCH_SIZE = 16
"""Images that an accelerator judges together by default."""


class ModelScorer(Generic[Model]):
    """Rates images with a copy of a model that maps a batch to ``rating`` and ``rating_std``.

    Args:
        model: (B, 3, H, W) → an output with ``rating`` and ``rating_std``, each (B,); it has
            ``max_pixels``. It is copied, so that it keeps its device and mode, and what is trained
            later does not change this scorer. ``scorer.model`` is the copy; call it for gradients.
        device: torch device, e.g. ``"cuda"``; None for the model's.
        name: what reports call it; ``load_scorer`` gives the name it was asked for.
    """

    lowest, highest = MIN_RATING, MAX_RATING
    """Range of the model's values; higher is better."""
    lower_is_better = False
    """Whether a lower value of the model is the better one."""
    differentiable = True
    """Whether ratings have a gradient in the image (:func:`zoomiqa_core.as_loss`)."""
    deterministic = True
    """Whether the same image always gets the same rating."""

    def __init__(
        self, model: Model, device: str | torch.device | None = None, name: str = ""
    ) -> None:
        own = next(model.parameters()).device
        self.name = name
        self.device = own if device is None else torch.device(device)
        self.model = copy.deepcopy(model).to(self.device).eval()
        self._largest_batch: dict[tuple[int, int], int] = {}

    @overload
    def assess(
        self, images: ImageSource, *, batch_size: int | None = ..., limits: ImageLimits = ...
    ) -> Assessment: ...
    @overload
    def assess(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int | None = ...,
        limits: ImageLimits = ...,
    ) -> list[Assessment]: ...

    def assess(
        self,
        images: ImageInput,
        *,
        batch_size: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Assessment | list[Assessment]:
        """Judge one image or several.

        Args:
            images: a path, PIL image, array (H, W, C) or tensor (3, H, W); or several: a batch
                (B, 3, H, W) or (B, H, W, C), a list, or any other iterable of images.
            batch_size: images of equal size judged together, at most. By default one on a CPU,
                where a rating then has the same bits whatever the list, and 16 on an accelerator,
                where it depends on its batch by rounding. Images of up to 128² gain on a CPU too
                (half the time in batches of 8). A batch that does not fit in memory is halved, and
                its size remembered.
            limits: sizes accepted, e.g. ``ImageLimits(max_pixels=200_000_000)``.

        Returns:
            One :class:`Assessment` per image, in a list unless ``images`` is a single image. An
            image that cannot be read, is one flat colour, or whose judgement is not finite gives
            ``valid=False`` with its error; the others go on.

        Raises:
            BadTypeError, BadShapeError, BadValuesError: ``images`` holds something that is no
                image, or an array or tensor with values outside [0, 1].
            ValueError: ``batch_size`` is not at least 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"expected batch_size ≥ 1, or None for the default, got {batch_size}")
        size = batch_size or (1 if self.device.type == "cpu" else BATCH_SIZE)
        assessments: list[Assessment] = []
        for part in in_parts(each_image(images), size):
            assessments += self._assess_part(part, limits)
        return assessments[0] if is_single_image(images) else assessments

    def _assess_part(self, sources: Sequence[ImageSource], limits: ImageLimits) -> list[Assessment]:
        assessments: dict[int, Assessment] = {}
        # Only what is judged stays in memory, not the decoded photo of 12 or more megapixels.
        fitted: dict[int, Tensor] = {}
        read: dict[int, DecodedImage] = {}
        same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, source in enumerate(sources):
            image = read_or_fail(source, limits=limits)
            if isinstance(image, Assessment):
                assessments[index] = image
                continue
            fitted[index] = self._fitted(image)
            read[index] = DecodedImage(fitted[index][0], image.notes, image.name)
            same_size[tuple(fitted[index].shape)].append(index)
        for indices in same_size.values():
            judged = self._rate([fitted[index] for index in indices])
            assessments |= dict(zip(indices, judged, strict=True))
        return [
            _named(assessments[index], read[index]) if index in read else assessments[index]
            for index in range(len(sources))
        ]

    def _rate(self, images: Sequence[Tensor]) -> list[Assessment]:
        """Judge (1, 3, h, w) images of one size, in batches that fit in memory."""
        key = (images[0].shape[-2], images[0].shape[-1])
        size = min(len(images), self._largest_batch.get(key, len(images)))
        assessments: list[Assessment] = []
        while len(assessments) < len(images):
            part = images[len(assessments) : len(assessments) + size]
            try:
                out = self._judge(torch.cat(list(part)) if len(part) > 1 else part[0])
            except torch.OutOfMemoryError as error:
                out, message = None, str(error)
            # Outside of the except block, where the traceback would hold the tensors.
            if out is not None:
                rows = torch.stack([out.rating, out.rating_std], 1).tolist()  # waits once
                assessments += [_assessment(*row) for row in rows]
            elif len(part) == 1:
                assessments.append(Assessment.failed("out_of_memory", message))
            else:
                torch.cuda.empty_cache()
                size = self._largest_batch[key] = len(part) // 2
        return assessments

    def _fitted(self, image: DecodedImage) -> Tensor:
        """(1, 3, h, w): the image at the size at which it is judged."""
        return fit(image.pixels[None], self.model.max_pixels)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def _judge(self, images: Tensor) -> Any:
        """The model's output for a batch (B, 3, H, W)."""
        return self.model(images.to(self.device))


class ProxyScorer(ModelScorer[QualityProxy]):
    """The differentiable proxy as a :class:`~zoomiqa_core.scorer.Scorer`.

    The output for the image judged last is kept, so that its rating, map and regions cost one
    forward pass. It judges with folded batch norms (:func:`~.inference.for_inference`).

    >>> scorer = ProxyScorer(QualityProxy.from_pretrained())
    >>> image = torch.rand(3, 64, 96)
    >>> scorer.assess([image, "missing.png"])[1].error
    'missing'
    >>> tuple(scorer.quality_map(image).shape)
    (1, 4, 6)
    """

    def __init__(
        self, model: QualityProxy, device: str | torch.device | None = None, name: str = "proxy"
    ) -> None:
        super().__init__(model, device, name)
        self._folded = for_inference(self.model)
        self._last: tuple[Tensor, ProxyOutput] | None = None

    def score_regions(
        self,
        image: ImageSource,
        bboxes: Sequence[BBox],
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[RegionScore]:
        """Rate regions by pooling the map inside them with the proxy's weights.

        Args:
            image: one image.
            bboxes: normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.
            limits: sizes accepted.

        Raises:
            ImageError: the image cannot be read, or is one flat colour.
            ValueError: a box is malformed.
        """
        pixels = self._fitted(read_to_judge(image, limits=limits))
        return region_ratings(self._judge(pixels), bboxes, *pixels.shape[-2:])

    def quality_map(self, image: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> Tensor:
        """Ratings on a grid of 16-pixel cells laid over the image.

        Returns:
            (1, h, w) fp32 on the CPU, 1–5.

        Raises:
            ImageError: the image cannot be read, or is one flat colour.
        """
        pixels = self._fitted(read_to_judge(image, limits=limits))
        return self._judge(pixels).map[0].to("cpu", copy=True)

    @torch.no_grad()
    def _judge(self, images: Tensor) -> ProxyOutput:
        last = self._last  # read once: other threads may replace it
        if last is not None and len(images) == 1 and torch.equal(last[0], images):
            return last[1]
        batch = images.to(self.device, memory_format=torch.channels_last)
        out = self._folded(batch)
        if len(images) == 1:
            self._last = images, out
        return out


def _assessment(rating: float, std: float) -> Assessment:
    if math.isfinite(rating) and math.isfinite(std):
        return Assessment(rating, std)
    return Assessment.failed("not_finite", f"rating {rating}, standard deviation {std}")


def _named(assessment: Assessment, image: DecodedImage) -> Assessment:
    message = f"{image.name}: {assessment.message}" if assessment.message else ""
    return replace(assessment, name=image.name, notes=image.notes, message=message)
