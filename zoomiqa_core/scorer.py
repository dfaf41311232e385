"""Judges behind one protocol: load one by name, ask it about images, regions and maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from zoomiqa_core.alarm.model import Alarm
from zoomiqa_core.assessment import Assessment, BBox, RegionScore, check_bbox
from zoomiqa_core.images.sources import (
    DecodedImage,
    ImageError,
    ImageSource,
    read_image,
    source_name,
)
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.proxy.preprocess import fit, fitted_size
from zoomiqa_core.proxy.regions import region_ratings
from zoomiqa_core.zoom_iqa.local.model_files import is_transformers_model

ImageList = Sequence[ImageSource]
TILE = 128
"""Side in px of what the alarm judges as one place."""


@runtime_checkable
class Scorer(Protocol):
    """A judge of image quality."""

    name: str
    """What reports and configurations call it; ``load_scorer(name)`` gives it again."""

    @overload
    def assess(self, images: ImageSource) -> Assessment: ...
    @overload
    def assess(self, images: ImageList) -> list[Assessment]: ...

    def score_regions(self, image: ImageSource, bboxes: Sequence[BBox]) -> list[RegionScore]:
        """Rate regions of one image, each seen in the context of the whole."""
        ...

    def quality_map(self, image: ImageSource) -> Tensor:
        """(1, h, w) rating of every place of the image, 1–5."""
        ...


class ProxyScorer:
    """The differentiable proxy as a :class:`Scorer`.

    Images are judged one by one, so a rating never depends on its neighbours in a list. For
    gradients call ``scorer.proxy(batch)`` itself.

    Args:
        proxy: the model; it is moved to ``device`` and judges in evaluation mode.
        device: torch device, e.g. ``"cuda"``.
        name: what reports call it; ``load_scorer`` gives the name it was asked for.
    """

    def __init__(
        self,
        proxy: QualityProxy | Alarm,
        device: str | torch.device = "cpu",
        name: str = "proxy",
    ) -> None:
        self.name = name
        self.proxy = proxy.to(device).eval()
        self.device = torch.device(device)

    @overload
    def assess(self, images: ImageSource) -> Assessment: ...
    @overload
    def assess(self, images: ImageList) -> list[Assessment]: ...

    def assess(self, images: ImageSource | ImageList) -> Assessment | list[Assessment]:
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

    def score_regions(self, image: ImageSource, bboxes: Sequence[BBox]) -> list[RegionScore]:
        """Rate regions by pooling the map inside them with the proxy's own weights.

        Args:
            image: one image.
            bboxes: normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.

        Raises:
            ImageError: the image cannot be read.
            ValueError: a box is malformed.
        """
        decoded = read_image(image)
        _, height, width = decoded.pixels.shape
        size = fitted_size(height, width, self.proxy.max_pixels)
        return region_ratings(self._judge(decoded), bboxes, *size)

    def quality_map(self, image: ImageSource) -> Tensor:
        """Ratings on a grid of 16-pixel cells laid over the image.

        Returns:
            (1, h, w) fp32 on the CPU, 1–5.

        Raises:
            ImageError: the image cannot be read.
        """
        return self._judge(read_image(image)).map[0].cpu()

    def _assess(self, source: ImageSource) -> Assessment:
        try:
            image = read_image(source)
        except ImageError as error:
            return Assessment.failed(error.code, str(error), source_name(source))
        out = self._judge(image)
        rating, std = float(out.rating), float(out.rating_std)
        if not (torch.isfinite(out.rating) & torch.isfinite(out.rating_std)).all():
            return Assessment.failed("not_finite", f"{image.name}: rating {rating}", image.name)
        return Assessment(rating, std, name=image.name, notes=image.notes)

    @torch.no_grad()
    def _judge(self, image: DecodedImage):
        return self.proxy(image.pixels[None].to(self.device))


class AlarmScorer(ProxyScorer):
    """The alarm as a :class:`Scorer`.

    It judges statistics of the whole image and has no map of its own: a place is judged by the
    statistics of a window around it alone, so its rating is rougher than the image's.
    """

    def quality_map(self, image: ImageSource) -> Tensor:
        """(1, h, w) ratings of tiles of about ``TILE`` px, each judged by itself."""
        pixels = self._fitted(image)
        rows = pixels.tensor_split(max(1, round(pixels.shape[1] / TILE)), 1)
        columns = max(1, round(pixels.shape[2] / TILE))
        ratings = [[self._rate(t)[0] for t in row.tensor_split(columns, 2)] for row in rows]
        return torch.tensor([ratings])

    def score_regions(self, image: ImageSource, bboxes: Sequence[BBox]) -> list[RegionScore]:
        """Rate regions by what is inside them, and around them up to ``TILE / 2`` px a side.

        Raises:
            ImageError: the image cannot be read.
            ValueError: a box is malformed.
        """
        pixels = self._fitted(image)
        found = []
        for bbox in bboxes:
            x0, y0, x1, y1 = check_bbox(bbox)
            (top, bottom), (left, right) = (
                _window(start, stop, side)
                for start, stop, side in zip((y0, x0), (y1, x1), pixels.shape[1:], strict=True)
            )
            found.append(RegionScore(bbox, *self._rate(pixels[:, top:bottom, left:right])))
        return found

    def _fitted(self, image: ImageSource) -> Tensor:
        return fit(read_image(image).pixels[None], self.proxy.max_pixels)[0]

    @torch.no_grad()
    def _rate(self, pixels: Tensor) -> tuple[float, float]:
        out = self.proxy(pixels[None].to(self.device))
        return float(out.rating), float(out.rating_std)


def _window(start: float, stop: float, side: int) -> tuple[int, int]:
    """First pixel and end of a share of ``side``, widened to ``TILE / 2`` px if it can be."""
    first, end = math.floor(start * side), math.ceil(stop * side)
    length = max(end - first, min(TILE // 2, side))
    first = min(max(0, first - (length - (end - first)) // 2), side - length)
    return first, first + length


@overload
def load_scorer(
    name: Literal["proxy", "alarm"] = ..., *, device: str | torch.device = ...
) -> ProxyScorer: ...
@overload
def load_scorer(
    name: str | Path, *, device: str | torch.device = ..., **settings: Any
) -> Scorer: ...


def load_scorer(
    name: str | Path = "proxy", *, device: str | torch.device = "cpu", **settings: Any
) -> Scorer:
    """Load a judge.

    Args:
        name: ``"proxy"`` for the bundled weights; ``"alarm"`` for the bundled second judge, by
            which what was tuned against the proxy is checked; ``"tiny"`` for the bundled small
            Zoom-IQA model; a folder or hub id holding a :class:`QualityProxy` or a Zoom-IQA model
            (Qwen2.5-VL or Qwen3-VL); or the address of an OpenAI-compatible server that has one,
            ``"http://…/v1"``.
        device: where it judges; a server judges where it is.
        settings: of a Zoom-IQA judge, see :func:`zoomiqa_core.zoom_iqa.local.model.local_scorer`
            and, for a server (``model=…`` at least),
            :func:`zoomiqa_core.zoom_iqa.served.judge.served_scorer`; the proxy takes none.

    Raises:
        FileNotFoundError: a folder that does not exist or holds no judge.
        OSError: a hub id that cannot be had.
        PromptsError: the model's prompts are not to be had; the message says how to get them.
        TypeError, ValueError: settings this judge does not take.
    """
    if str(name).startswith(("http://", "https://")):
        from zoomiqa_core.zoom_iqa.served.judge import served_scorer

        return served_scorer(str(name), **settings)
    if str(name) == "tiny":
        from zoomiqa_core.zoom_iqa.local.model import TINY, TINY_SAMPLING

        name, settings = TINY, {"name": "tiny", "sampling": TINY_SAMPLING, **settings}
    bundled = str(name) in ("proxy", "alarm")
    if not bundled and is_transformers_model(name):
        from zoomiqa_core.zoom_iqa.local.model import local_scorer

        return local_scorer(name, device=device, **settings)
    if settings:
        raise TypeError(f"the proxy takes no settings, got {', '.join(sorted(settings))}")
    if str(name) == "alarm":
        return AlarmScorer(Alarm.from_pretrained(), device, "alarm")
    return ProxyScorer(QualityProxy.from_pretrained(None if bundled else name), device, str(name))
