"""A request as tokens and visual features; each image of a call is encoded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from PIL import Image

from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.local.families.base import EncodedImage, Family, ImageInputs, Prompt

EncodedImages = dict[tuple[int, bool], EncodedImage]
"""The images of one call, by :meth:`Family.image_key`."""


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
        family: the model, and how it takes images.
        lock: of the processor's tokenizer.
    """

    def __init__(self, family: Family, lock: TokenizerLock) -> None:
        self._family = family
        self._lock = lock

    def encode(
        self, request: Request, known: EncodedImages, beginning: Sequence[int] = ()
    ) -> Prompt:
        """Tokens and visual features of a request.

        Args:
            request: messages and images.
            known: images that are already encoded; those of the request are added.
            beginning: tokens that the reply starts with.
        """
        if not self._family.encodes_once:
            return self._with_pixels(request, beginning)
        count = len(request.images)
        images = tuple(self._encoded(image, count, known) for image in request.images)
        ids = self.tokens(request, [image.inputs for image in images])
        return Prompt(torch.tensor([*ids, *beginning]), images)

    def tokens(self, request: Request, images: Sequence[ImageInputs]) -> list[int]:
        """Tokens of a request whose images are prepared."""
        processor = self._family.processor
        with self._lock:
            chat = processor.apply_chat_template(
                request.messages, tokenize=False, add_generation_prompt=True
            )
            text, *rest = chat.split(processor.image_token)
            for image, part in zip(images, rest, strict=True):
                text += image.text + part
            return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _with_pixels(self, request: Request, beginning: Sequence[int]) -> Prompt:
        """Tokens and pixels of a request, as the processor makes them."""
        processor = self._family.processor
        with self._lock:
            chat = processor.apply_chat_template(
                request.messages, tokenize=False, add_generation_prompt=True
            )
            inputs = processor(
                text=[chat],
                images=[list(request.images)],
                return_tensors="pt",
                add_special_tokens=False,
            )
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        for name, value in inputs.items():
            if value.shape == ids.shape:  # one per token: none of the beginning is an image's
                inputs[name] = torch.nn.functional.pad(value, (0, len(beginning)))
        return Prompt(torch.tensor([*ids[0].tolist(), *beginning]), inputs=dict(inputs))

    @torch.inference_mode()
    def _encoded(self, image: Image.Image, count: int, known: EncodedImages) -> EncodedImage:
        key = self._family.image_key(image, count)
        if key not in known:
            inputs = self._family.prepare(image, count)
            (features,) = self._family.encode([inputs])
            known[key] = EncodedImage(image, inputs, features)
        return known[key]
