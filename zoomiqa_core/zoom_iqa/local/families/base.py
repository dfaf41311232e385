"""What the judge and its training need to know of a model that takes images.

The defaults are those of transformers' processors and models: an image becomes a run of image
tokens, ``get_image_features`` encodes it, and ``mm_encoder_outputs`` passes the features to the
language model. A family changes what differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor


class ImageInputs(NamedTuple):
    """An image as the processor prepares it."""

    text: str
    """What stands for the image in a prompt; one image token per visual feature."""
    tensors: dict[str, Tensor]
    """Pixels and their layout, arguments of ``get_image_features``."""


class VisualFeatures(NamedTuple):
    """Visual features of one image."""

    tokens: Tensor
    """(tokens, hidden)."""
    deep: tuple[Tensor, ...] = ()
    """(tokens, hidden) for each early layer that also receives features (Qwen3-VL)."""


class EncodedImage(NamedTuple):
    """An image and its visual features."""

    image: Image.Image
    """Kept alive, so that its id is not reused."""
    inputs: ImageInputs
    features: VisualFeatures


class Prompt(NamedTuple):
    """A prompt as input of the model."""

    ids: Tensor
    """(L,) token ids; one image token per visual feature."""
    images: tuple[EncodedImage, ...] = ()
    """In order; none when the family does not encode images once."""
    inputs: Mapping[str, Tensor] | None = None
    """What the processor made of images and text instead."""


class Family:
    """A model with its processor, and how it takes images.

    Args:
        model: an image-text-to-text model of transformers.
        processor: its processor.
        max_pixels: larger images are reduced to this; None for the processor's own limit.

    Raises:
        ValueError: the family has no such pixel budget.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    """Values of ``model_type`` in ``config.json``."""
    vision_modules: ClassVar[tuple[str, ...]] = ("vision_tower",)
    """Names of the modules that ``freeze_vision`` freezes."""
    language_module: ClassVar[str] = "language_model"
    """Name of the module that adapters are put into."""
    control_tokens: ClassVar[tuple[str, ...]] = ("image_token_id", "video_token_id")
    """Fields of the model's configuration or of the processor with tokens that no reply may
    contain."""
    encodes_once: ClassVar[bool] = True
    """Whether an image's features can be computed once and passed to several prompts."""
    max_aspect: ClassVar[int | None] = None
    """Maximum ratio of the sides that the image processor accepts."""
    features_are_listed: ClassVar[bool] = False
    """Whether the model expects the features of several images as a tuple, not as one tensor."""
    depends_on_count: ClassVar[bool] = False
    """Whether an image is prepared differently when the prompt has another one beside it."""

    def __init__(self, model: Any, processor: Any, max_pixels: int | None = None) -> None:
        self.model = model
        self.processor = processor
        self.image_options = self.pixel_options(processor, max_pixels)

    @classmethod
    def pixel_options(cls, processor: Any, max_pixels: int | None) -> dict[str, Any]:
        """Settings of the image processor that keep images within ``max_pixels``."""
        fixed = cls.max_pixels_of(processor, {})
        if max_pixels is not None and fixed is not None and max_pixels < fixed:
            raise ValueError(
                f"{cls.__name__} always sees {fixed} pixels of an image, got max_pixels="
                f"{max_pixels}: leave it out, or change the size in the image processor and the "
                "model"
            )
        return {}

    @classmethod
    def max_pixels_of(cls, processor: Any, options: Mapping[str, Any]) -> int | None:
        """How many pixels of an image the model sees, at most; None when that is not known."""
        size = getattr(processor.image_processor, "crop_size", None)
        size = size or processor.image_processor.size
        height, width = (
            size.get(side) or size.get("shortest_edge") for side in ("height", "width")
        )
        return int(height) * int(width)

    @property
    def max_pixels(self) -> int | None:
        """How many pixels of an image the model sees, at most; None when that is not known."""
        return self.max_pixels_of(self.processor, self.image_options)

    @property
    def image_token_id(self) -> int:
        """Token that stands for one visual feature."""
        return self.model.config.image_token_id

    @property
    def image_token(self) -> str:
        """The same as text."""
        return self.processor.tokenizer.convert_ids_to_tokens(self.image_token_id)

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return self.processor.tokenizer.pad_token_id

    @property
    def control_ids(self) -> list[int]:
        """Tokens that mark images and videos, which no reply may contain."""
        found: list[Any] = []
        for name in self.control_tokens:
            ids = getattr(self.model.config, name, None)
            ids = getattr(self.processor, name, None) if ids is None else ids
            found += ids if isinstance(ids, list) else [ids]
        unknown = (None, self.processor.tokenizer.unk_token_id)
        return [token for token in found if token not in unknown]

    def vision_parameters(self) -> Iterator[Any]:
        """Parameters that the visual features depend on: all but the language model's."""
        for name, parameter in self.model.model.named_parameters():
            if not name.startswith(f"{self.language_module}."):
                yield parameter

    def problem(self, image: Image.Image) -> str | None:
        """Why the model does not take this image; None when it does."""
        width, height = image.size
        limit = self.max_aspect
        if limit is None or max(width, height) <= limit * min(width, height):
            return None
        return (
            f"{width}×{height}: the longer side is over {limit} times the shorter, more than the "
            "model accepts; crop the image first"
        )

    def image_key(self, image: Image.Image, count: int) -> tuple[int, bool]:
        """Equal for two requests that show the same image in the same way.

        Args:
            image: must stay alive while the key is used.
            count: number of images in the request.
        """
        return id(image), self.depends_on_count and count > 1

    def prepare(self, image: Image.Image, count: int = 1) -> ImageInputs:
        """Resize and normalise an image of a request with ``count`` images; expand its token."""
        options = {**getattr(self.processor, "images_kwargs", {}), **self.image_options}
        inputs = self.processor.image_processor([image], return_tensors="pt", **options)
        text = self.processor.replace_image_token(inputs, 0)
        return ImageInputs(text, self.tensors(inputs))

    def tensors(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The arguments of ``get_image_features`` among the image processor's outputs."""
        return {"pixel_values": inputs["pixel_values"]}

    def encode(self, images: Sequence[ImageInputs]) -> list[VisualFeatures]:
        """Visual features of each image; with gradients where they are enabled."""
        found = []
        for image in images:
            out = self.model.model.get_image_features(
                **self.on_device(image.tensors), return_dict=True
            )
            tokens = out.pooler_output  # (tiles, tokens, hidden), or one (tokens, hidden) an image
            tokens = torch.cat([*tokens]) if not isinstance(tokens, Tensor) else tokens
            found.append(VisualFeatures(tokens.flatten(0, -2)))
        return found

    def on_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors on the model's device, pixels in its dtype."""
        model = self.model
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in tensors.items()
        }

    def encoder_output(self, features: Sequence[VisualFeatures]) -> Any:
        """The features in the form in which the model's own vision tower returns them."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        tokens: Any = tuple(feature.tokens for feature in features)
        if not self.features_are_listed:
            tokens = torch.cat(tokens)[None]
        return BaseModelOutputWithPooling(pooler_output=tokens)

    def position_ids(self, ids: Tensor, mask: Tensor, images: Sequence[ImageInputs]) -> Tensor:
        """Positions of the tokens of whole prompts, as the model takes them: (B, L).

        Args:
            ids: (B, L), padded.
            mask: (B, L) 1 on tokens, 0 on padding.
            images: of all rows, in order.
        """
        return (mask.cumsum(-1) - 1).clamp(min=0)

    def first_position(self, length: int) -> int:
        """Position of the token after a prompt that the model has just processed with pixels."""
        return length

    def next_positions(self, start: Tensor, count: int) -> Tensor:
        """Positions of ``count`` text tokens from ``start`` (B,), as the model takes them."""
        return start[:, None] + torch.arange(count, device=start.device)

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """Arguments of the forward pass that mark image tokens, where the model needs them."""
        return {}

    def pixel_arguments(self, rows: Sequence[Sequence[ImageInputs]]) -> dict[str, Tensor]:
        """The images of each row as arguments of the model's own forward pass."""
        images = [image.tensors for row in rows for image in row]
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

    def feature_arguments(self, features: Sequence[VisualFeatures]) -> dict[str, Any]:
        """Encoded images of all rows as arguments of the model's forward pass."""
        return {"mm_encoder_outputs": {"image": self.encoder_output(features)}}
