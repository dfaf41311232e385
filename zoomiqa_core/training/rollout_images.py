"""The images of a generation batch: prepared once, and encoded once if nothing trains on pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.training.zoom_rollouts import Span
from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.local.families.base import Family, ImageInputs, VisualFeatures
from zoomiqa_core.zoom_iqa.local.prompt_encoding import PromptEncoder, TokenizerLock


class RolloutImages:
    """Images of roll-outs, by roll-out and round, as arguments of the model's forward pass.

    Args:
        family: the model in training, and how it takes images.
        whole: whether this process holds all weights; otherwise the vision tower runs only inside
            the model's forward pass.
    """

    def __init__(self, family: Family, *, whole: bool = True) -> None:
        self.family = family
        self.encoder = PromptEncoder(family, TokenizerLock())
        frozen = not any(parameter.requires_grad for parameter in family.vision_parameters())
        self._encode_once = frozen and whole
        self._prepared: dict[tuple[int, bool], tuple[Image.Image, ImageInputs]] = {}
        self._features: dict[int, VisualFeatures] = {}
        self._rollouts: list[list[list[ImageInputs]]] = []

    def prepare(self, request: Request) -> list[ImageInputs]:
        """The images of a request, each prepared once."""
        count, found = len(request.images), []
        for image in request.images:
            key = self.family.image_key(image, count)
            if key not in self._prepared:
                self._prepared[key] = image, self.family.prepare(image, count)
            found.append(self._prepared[key][1])
        return found

    def tokens(self, request: Request) -> list[int]:
        """Tokens of a request, the same as the judge's."""
        return self.encoder.tokens(request, self.prepare(request))

    def add(self, rollout: int, request: Request) -> None:
        """Note that the next round of a roll-out answers this request."""
        while len(self._rollouts) <= rollout:
            self._rollouts.append([])
        self._rollouts[rollout].append(self.prepare(request))

    def of_rounds(
        self, spans: Sequence[Span], rollouts: Sequence[int], input_ids: Tensor
    ) -> list[list[ImageInputs]]:
        """The images of each round.

        Args:
            spans: the rounds of the rows.
            rollouts: which roll-out each row is.
            input_ids: (B, P + C) the rows.

        Raises:
            ValueError: the image tokens of a round are not those of its images.
        """
        found, number = [], 0
        for index, span in enumerate(spans):
            number = number + 1 if index and spans[index - 1].row == span.row else 0
            images = self._rollouts[rollouts[span.row]][number]
            ids = input_ids[span.row, span.context[0] : span.reply[1]]
            expected = sum(image.text.count(self.family.image_token) for image in images)
            seen = int((ids == self.family.image_token_id).sum())
            if seen != expected:
                raise ValueError(
                    f"the image tokens of row {span.row} do not match its images, {seen} instead "
                    f"of {expected}: was a prompt truncated, or did the model write an image token?"
                )
            found.append(images)
        return found

    def arguments(self, rounds: Sequence[Sequence[ImageInputs]]) -> dict[str, Any]:
        """The images of a batch of rounds as arguments of the model's forward pass."""
        images = [image for images in rounds for image in images]
        if not self._encode_once:
            return self.family.on_device(self.family.pixel_arguments(rounds))
        new = list({id(i): i for i in images if id(i) not in self._features}.values())
        if new:
            with torch.no_grad():
                features = self.family.encode(new)
            self._features.update(zip(map(id, new), features, strict=True))
        return self.family.feature_arguments([self._features[id(image)] for image in images])
