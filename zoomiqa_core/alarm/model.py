"""Alarm: small networks over natural-scene statistics; independent of the proxy."""

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
from zoomiqa_core.proxy.preprocess import at_least_fp32, check_batch, fit
from zoomiqa_core.runs.files import to_json, write_text_atomic

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "alarm"
LEAST_VARIANCE = 1e-4
"""Whitening scales directions of less variance as if they had this much."""


class AlarmOutput(NamedTuple):
    """The alarm's output for a batch of B images."""

    rating: Tensor
    """(B,) in 1–5."""
    rating_std: Tensor
    """(B,) > 0, rating units."""


class Alarm(nn.Module):
    """How close an image looks to a clean photo, without a reference.

    The image's :func:`~.statistics.statistics` are standardised and whitened over training images;
    small networks, each trained on other families, predict a rating and an error each. The rating
    is their mean; its variance is their mean squared error plus the variance of their ratings.

    Args:
        members: networks.
        hidden: units of each network's two hidden layers.
        max_pixels: images with more pixels are judged at this area (antialiased).

    A new alarm has random weights.

    >>> alarm = Alarm.from_pretrained()
    >>> out = alarm(torch.rand(2, 3, 96, 96))
    >>> tuple(out.rating.shape), bool((out.rating_std > 0).all())
    ((2,), True)
    """

    centre: Tensor
    whitening: Tensor

    def __init__(self, members: int = 5, hidden: int = 64, max_pixels: int = 1024 * 1024) -> None:
        super().__init__()
        self.config = {"members": members, "hidden": hidden, "max_pixels": max_pixels}
        self.max_pixels = max_pixels
        self.check_range = True
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

    @staticmethod
    def is_saved_in(path: str | Path) -> bool:
        """Whether a folder was written by :meth:`save_pretrained`."""
        config = Path(path).expanduser() / "config.json"
        return config.is_file() and "members" in json.loads(config.read_text(encoding="utf-8"))

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / "model.safetensors"))
        write_text_atomic(folder / "config.json", to_json(self.config))

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Compute centre and whitening from (N, ``COUNT``) statistics of training images."""
        self.centre.copy_(features.mean(0))
        spread = features.std(0).clamp_min(1e-6)
        scaled = (features - self.centre) / spread
        variance, axes = torch.linalg.eigh(scaled.double().T @ scaled.double() / len(scaled))
        scale = variance.clamp_min(LEAST_VARIANCE).rsqrt()
        self.whitening.copy_((axes * scale).float() / spread[:, None])

    def forward(self, images: Tensor) -> AlarmOutput:
        """Judge a batch (B, 3, H, W) in [0, 1] of any floating-point type.

        Statistics and ratings are computed in single precision at least, under autocast too.

        Raises:
            TypeError, ValueError: not such a batch (see ``zoomiqa_core.proxy.preprocess``).
        """
        check_batch(images, check_range=self.check_range)
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(at_least_fp32(self.centre).dtype)
            return self.judge(statistics(fit(images, self.max_pixels)))

    def judge(self, features: Tensor) -> AlarmOutput:
        """Judge (B, ``COUNT``) statistics."""
        ratings, errors = self.opinions(features).unbind(-1)
        variance = errors.square().mean(0) + ratings.var(0, correction=0)
        return AlarmOutput(ratings.mean(0), variance.sqrt())

    def opinions(self, features: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Rating and error by every member, or by some of them: (members, ..., 2).

        Args:
            features: (..., ``COUNT``) statistics.
            members: indices of those asked.
        """
        whitened = (features - self.centre.to(features)) @ self.whitening.to(features)
        inputs = squash(whitened).to(self.centre.dtype)
        indices = range(len(self.members)) if members is None else members
        out = at_least_fp32(torch.stack([self.members[index](inputs) for index in indices]))
        rating = MIN_RATING + (MAX_RATING - MIN_RATING) * out[..., 0].sigmoid()
        return torch.stack([rating, functional.softplus(out[..., 1]) + 1e-2], -1)
