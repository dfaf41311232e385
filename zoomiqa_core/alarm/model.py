"""Alarm: a small committee over statistics of natural scenes; it shares nothing with the proxy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.alarm.statistics import COUNT, statistics
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.proxy.model import squash
from zoomiqa_core.proxy.preprocess import check_batch, fit
from zoomiqa_core.runs.files import to_json, write_text_atomic

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "alarm"
LEAST_VARIANCE = 1e-4
"""Directions of the standardised statistics with less are not blown up any further."""


class AlarmOutput(NamedTuple):
    """What the alarm makes of a batch of B images."""

    rating: Tensor
    """(B,) in 1–5."""
    rating_std: Tensor
    """(B,) > 0, rating units."""


class Alarm(nn.Module):
    """How near an image looks to a clean photo; no reference is needed.

    The image's :func:`~.statistics.statistics` are standardised and whitened over training images;
    small networks, each taught by other families, give a rating and an error each. The rating is
    their mean; its standard deviation adds their error and their disagreement.

    Args:
        members: networks.
        hidden: units of each network's two hidden layers.
        max_pixels: images with more pixels are judged at this area (antialiased).

    A new alarm has random weights.
    """

    centre: Tensor
    whitening: Tensor

    def __init__(self, members: int = 5, hidden: int = 64, max_pixels: int = 1024 * 1024) -> None:
        super().__init__()
        self.config = {"members": members, "hidden": hidden, "max_pixels": max_pixels}
        self.max_pixels = max_pixels
        self.register_buffer("centre", torch.zeros(COUNT))
        self.register_buffer("whitening", torch.eye(COUNT))
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(COUNT, hidden),
                nn.SiLU(),
                nn.Dropout(0.1),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, 2),
            )
            for _ in range(members)
        )
        self.eval()

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> Alarm:
        """Load an alarm from a folder; without one, the bundled weights.

        Raises:
            FileNotFoundError: the folder holds no alarm.
        """
        folder = BUNDLED_WEIGHTS if path is None else Path(path).expanduser()
        if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no model.safetensors and config.json; give a folder written by "
                "Alarm.save_pretrained, or nothing for the bundled weights"
            )
        alarm = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        load_model(alarm, folder / "model.safetensors", strict=True)
        return alarm.eval()

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / "model.safetensors"))
        write_text_atomic(folder / "config.json", to_json(self.config))

    @torch.no_grad()
    def standardise(self, found: Tensor) -> None:
        """Learn centre and whitening from (N, ``COUNT``) statistics of training images."""
        self.centre.copy_(found.mean(0))
        spread = found.std(0).clamp_min(1e-6)
        scaled = (found - self.centre) / spread
        variance, axes = torch.linalg.eigh(scaled.double().T @ scaled.double() / len(scaled))
        scale = variance.clamp_min(LEAST_VARIANCE).rsqrt()
        self.whitening.copy_((axes * scale).float() / spread[:, None])

    def forward(self, images: Tensor) -> AlarmOutput:
        """Judge a batch (B, 3, H, W) in [0, 1].

        Raises:
            TypeError, ValueError: not such a batch (see ``zoomiqa_core.proxy.preprocess``).
        """
        check_batch(images)
        return self.judge(statistics(fit(images, self.max_pixels)))

    def judge(self, found: Tensor) -> AlarmOutput:
        """Judge (B, ``COUNT``) statistics."""
        ratings, errors = self.opinions(found).unbind(-1)
        variance = errors.square().mean(0) + ratings.var(0, correction=0)
        return AlarmOutput(ratings.mean(0), variance.sqrt())

    def opinions(self, found: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Rating and error by every member, or by some of them: (members, ..., 2).

        Args:
            found: (..., ``COUNT``) statistics.
            members: numbers of those asked.
        """
        seen = squash((found - self.centre) @ self.whitening)
        numbers = range(len(self.members)) if members is None else members
        out = torch.stack([self.members[number](seen) for number in numbers])
        rating = MIN_RATING + (MAX_RATING - MIN_RATING) * out[..., 0].sigmoid()
        return torch.stack([rating, functional.softplus(out[..., 1]) + 1e-2], -1)
