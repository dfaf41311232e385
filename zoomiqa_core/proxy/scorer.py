"""Scorers that judge with a PyTorch model: the base they share, and the proxy's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from zoomiqa_core.assessment import Assessment, BBox, RegionScore
from zoomiqa_core.images.inputs import (
    ImageInput,
    each_image,
    is_single_image,
    read_or_fail,
    read_to_judge,
)
from zoomiqa_core.images.sources import DecodedImage, ImageSource
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy
from zoomiqa_core.proxy.preprocess import fitted_size
from zoomiqa_core.proxy.regions import region_ratings

Model = TypeVar("Model", bound=nn.Module)


class ModelScorer(Generic[Model]):
    """Rates images with a model that maps a batch to ``rating`` and ``rating_std``.

    Images are judged one by one, so a rating never depends on its neighbours in a list. For
    gradients call ``scorer.model(batch)`` itself.

    Args:
        model: (B, 3, H, W) → an output with ``rating`` and ``rating_std``; it is moved to
            ``device`` and judges in evaluation mode.
        device: torch device, e.g. ``"cuda"``.
        name: what reports call it; ``load_scorer`` gives the name it was asked for.
    """

    def __init__(self, model: Model, device: str | torch.device = "cpu", name: str = "") -> None:
        self.name = name
        self.model = model.to(device).eval()
        self.device = torch.device(device)

    @overload
    def assess(self, images: ImageSource) -> Assessment: ...
    @overload
    def assess(self, images: Iterable[ImageSource]) -> list[Assessment]: ...

    def assess(self, images: ImageInput) -> Assessment | list[Assessment]:
        """Judge one image or several.

        Args:
            images: a path, PIL image, array (H, W, C) or tensor (3, H, W); or several: a batch
                (B, 3, H, W) or (B, H, W, C), a list, or any other iterable of images.

        Returns:
            One :class:`Assessment` per image, in a list unless ``images`` is a single image. An
            image that cannot be read, is one flat colour, or whose judgement is not finite gives
            ``valid=False`` with its error; the others go on.

        Raises:
            BadTypeError, BadShapeError, BadValuesError: ``images`` holds something that is no
                image, or an array or tensor with values outside [0, 1].
        """
        assessments = [self._assess(image) for image in each_image(images)]
        return assessments[0] if is_single_image(images) else assessments

    def _assess(self, source: ImageSource) -> Assessment:
        image = read_or_fail(source)
        if isinstance(image, Assessment):
            return image
        out = self._judge(image.pixels)
        rating, std = float(out.rating), float(out.rating_std)
        if not (torch.isfinite(out.rating) & torch.isfinite(out.rating_std)).all():
            return Assessment.failed("not_finite", f"{image.name}: rating {rating}", image.name)
        return Assessment(rating, std, name=image.name, notes=image.notes)

    @torch.no_grad()
    def _judge(self, pixels: Tensor) -> Any:
        """The model's output for one image (3, H, W)."""
        return self.model(pixels[None].to(self.device))


class ProxyScorer(ModelScorer[QualityProxy]):
    """The differentiable proxy as a :class:`~zoomiqa_core.scorer.Scorer`."""

    def __init__(
        self, model: QualityProxy, device: str | torch.device = "cpu", name: str = "proxy"
    ) -> None:
        super().__init__(model, device, name)

    def score_regions(self, image: ImageSource, bboxes: Sequence[BBox]) -> list[RegionScore]:
        """Rate regions by pooling the map inside them with the proxy's own weights.

        Args:
            image: one image.
            bboxes: normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.

        Raises:
            ImageError: the image cannot be read.
            ValueError: a box is malformed.
        """
        decoded: DecodedImage = read_to_judge(image)
        _, height, width = decoded.pixels.shape
        out: ProxyOutput = self._judge(decoded.pixels)
        return region_ratings(out, bboxes, *fitted_size(height, width, self.model.max_pixels))

    def quality_map(self, image: ImageSource) -> Tensor:
        """Ratings on a grid of 16-pixel cells laid over the image.

        Returns:
            (1, h, w) fp32 on the CPU, 1–5.

        Raises:
            ImageError: the image cannot be read.
        """
        return self._judge(read_to_judge(image).pixels).map[0].cpu()
