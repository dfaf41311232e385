"""A request as tokens and visual features; each image of a call is encoded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.local.prefix import Prompt, VisualFeatures, encode_images

MAX_ASPECT = 200
"""Maximum ratio of the sides; the models' image processors accept no more."""


class EncodedImage(NamedTuple):
    """An image and its visual features."""

    image: Image.Image
    """Kept alive, so that its id is not reused."""
    grid: Tensor
    """(1, 3) temporal, vertical and horizontal patches."""
    features: VisualFeatures


EncodedImages = dict[int, EncodedImage]
"""The images of one call, by ``id``."""


class TokenizerLock:
    """Held while the tokenizer is used: fast tokenizers may not be used by two threads at once.

    Unlike a :class:`threading.Lock` it can be pickled and copied; the copy is a new lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[TokenizerLock], tuple[()]]:
        return TokenizerLock, ()


class PromptEncoder:
    """Turns requests into prompts for a model.

    Args:
        model: a Qwen2.5-VL or Qwen3-VL.
        processor: its processor.
        lock: of the processor's tokenizer.
        max_pixels: larger images are reduced to this; None for the processor's own limit.
    """

    def __init__(
        self, model: Any, processor: Any, lock: TokenizerLock, max_pixels: int | None = None
    ) -> None:
        self._model = model
        self._processor = processor
        self._lock = lock
        self.pixels = pixel_budget(processor.image_processor, max_pixels)

    def encode(
        self, request: Request, known: EncodedImages, beginning: Sequence[int] = ()
    ) -> Prompt:
        """Tokens and visual features of a request.

        Args:
            request: messages and images.
            known: images that are already encoded; those of the request are added.
            beginning: tokens that the reply starts with.
        """
        encoded = [self._encoded(image, known) for image in request.images]
        grids = torch.cat([image.grid for image in encoded])
        merged = self._model.config.vision_config.spatial_merge_size**2
        counts = (grids.prod(-1) // merged).tolist()
        token = self._processor.image_token
        with self._lock:
            chat = self._processor.apply_chat_template(
                request.messages, tokenize=False, add_generation_prompt=True
            )
            text, *rest = chat.split(token)
            for count, part in zip(counts, rest, strict=True):
                text += token * count + part
            ids = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(
            torch.tensor([*ids, *beginning]), grids, [image.features for image in encoded]
        )

    def _encoded(self, image: Image.Image, known: EncodedImages) -> EncodedImage:
        if id(image) not in known:
            prepare = self._processor.image_processor
            inputs = prepare([image], size=self.pixels, return_tensors="pt")
            grid = inputs["image_grid_thw"]
            (features,) = encode_images(self._model, inputs["pixel_values"], grid)
            known[id(image)] = EncodedImage(image, grid, features)
        return known[id(image)]


def pixel_budget(image_processor: Any, max_pixels: int | None) -> dict[str, int]:
    """Minimum and maximum number of pixels of an image, under the processor's names for them.

    Raises:
        ValueError: ``max_pixels`` is below the processor's minimum.
    """
    smallest, largest = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
    if max_pixels is not None and max_pixels < smallest:
        raise ValueError(f"max_pixels must be at least {smallest}, got {max_pixels}")
    return {"shortest_edge": smallest, "longest_edge": max_pixels or largest}


def aspect_problem(image: Image.Image) -> str | None:
    """Why the model accepts no image of this aspect ratio; None when it does."""
    width, height = image.size
    if max(width, height) <= MAX_ASPECT * min(width, height):
        return None
    return (
        f"{width}×{height}: the longer side is over {MAX_ASPECT} times the shorter, more than the "
        "model accepts; crop the image first"
    )
