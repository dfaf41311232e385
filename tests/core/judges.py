"""Judges for tests: a tiny model that answers at random, and one that follows a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from zoomiqa_core.assessment import Assessment, Chains
from zoomiqa_core.zoom_iqa.chain import Chain, Request

FINAL = '</think><answer>{"bbox_2d": [0, 0, 0, 0], "rating": 3.50, "tool": "final"}</answer>'
CROP = '</think><answer>{"bbox_2d": [0.1, 0.2, 0.4, 0.9], "rating": 2.25, "tool": "crop"}</answer>'
GOOD = FINAL.replace("3.50", "4.75")
BROKEN = "</think><answer>{oh</answer>"


def picture(width: int = 96, height: int = 64, shade: int = 90) -> Image.Image:
    """A gradient with an edge, so that crops differ from the whole."""
    pixels = torch.linspace(0, 255, width).round().byte().expand(3, height, width).clone()
    pixels[:, : height // 2] = shade
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


class ScriptedBackend:
    """Replies with what ``reply(request)`` gives; keeps the requests it saw."""

    name = "scripted"
    settings: Mapping[str, Any] = {}

    def __init__(self, reply: Callable[[Request], str]) -> None:
        self.reply = reply
        self.seen: list[Request] = []

    def run(self, chains: Sequence[Chain]) -> None:
        for chain in chains:
            while (request := chain.request) is not None:
                self.seen.append(request)
                chain.read(self.reply(request), tokens=7)

    def expected(self, chains: Sequence[Chain]) -> list[Assessment]:
        return [Assessment(3.0, 0.5, chains=Chains(digit_mass=0.9)) for _ in chains]


def contrast(images: torch.Tensor) -> torch.Tensor:
    """A metric that can be pickled: (B, 3, H, W) → (B,) in [0, 0.5]."""
    return images.std((1, 2, 3))
