"""Scorers that judge with a PyTorch model: the base they share, and the proxy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from zoomiqa_core.assessment import Assessment, BBox, RegionScore
from zoomiqa_core.images.sources import (
    DecodedImage,
    ImageError,
    ImageSource,
    read_image,
    source_name,
)
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
    def assess(self, images: Sequence[ImageSource]) -> list[Assessment]: ...

    def assess(self, images: ImageSource | Sequence[ImageSource]) -> Assessment | list[Assessment]:
        """Judge one image or a list of them.

        Args:
            images: path, PIL image, array, tensor (3, H, W), or a list or tuple of those.

        Returns:
            One :class:`Assessment` per image. An image that cannot be read, or a judgement that
            is not finite, gives ``valid=False`` with its error; the others go on.
        """
        if isinstance(images, (list, tuple)):
            return [self._assess(image) for image in images]
        return self._assess(images)  # pyright: ignore[reportArgumentType]

    def _assess(self, source: ImageSource) -> Assessment:
        try:
            image = read_image(source)
        except ImageError as error:
            return Assessment.failed(error.code, str(error), source_name(source))
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
        decoded: DecodedImage = read_image(image)
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
        return self._judge(read_image(image).pixels).map[0].cpu()
