"""Alarm: a small residual network that knows nothing of the proxy, trained from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.alarm.reference import opponent
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.files import to_json, write_text_atomic
from zoomiqa_core.proxy.model import ProxyOutput, weighted_mean
from zoomiqa_core.proxy.preprocess import check_batch, coverage, fit, pad

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "alarm"


class Alarm(nn.Module):
    """How near an image looks to a clean photo; no reference is needed.

    Residual blocks of plain 3 × 3 convolutions (He et al., CVPR 2016) at strides 4, 8 and 16 see
    luma, two colour differences, and the luma's detail normalised by its local contrast, in which
    faint patterns of flat regions stand out. A head gives the rating of every 16 × 16 cell; the
    image's is their mean. The error head reads detached features.

    Args:
        widths: channels at strides 2 (one convolution), 4, 8 and 16.
        max_pixels: images with more pixels are judged at this area (antialiased).

    A new alarm has random weights.
    """

    def __init__(
        self, widths: tuple[int, ...] = (24, 48, 96, 128), max_pixels: int = 1024 * 1024
    ) -> None:
        super().__init__()
        self.widths, self.max_pixels = tuple(widths), max_pixels
        before = self.widths[0]
        layers: list[nn.Module] = [_convolution(4, before, stride=2)]
        for width in self.widths[1:]:
            layers += [_convolution(before, width, stride=2), Residual(width)]
            before = width
        self.features = nn.Sequential(*layers)
        self.rating_head = nn.Conv2d(before, 1, 1)
        self.error_head = nn.Conv2d(before, 1, 1)
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
        config = {"widths": list(self.widths), "max_pixels": self.max_pixels}
        write_text_atomic(folder / "config.json", to_json(config))

    def forward(self, images: Tensor) -> ProxyOutput:
        """Judge a batch (B, 3, H, W) in [0, 1].

        Raises:
            TypeError, ValueError: not such a batch (see ``zoomiqa_core.proxy.preprocess``).
        """
        check_batch(images)
        images = fit(images, self.max_pixels)
        covered = coverage(*images.shape[-2:], like=images)
        features = self.features(normalised(pad(images)))
        features = features[..., : covered.shape[-2], : covered.shape[-1]]
        spread = MAX_RATING - MIN_RATING
        quality_map = MIN_RATING + spread * torch.sigmoid(self.rating_head(features).float())
        error = functional.softplus(self.error_head(features.detach()).float()) + 1e-2
        weight = covered.expand_as(quality_map)
        return ProxyOutput(
            weighted_mean(quality_map, weight), weighted_mean(error, weight), quality_map, weight
        )


class Residual(nn.Module):
    """Two 3 × 3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) → the same."""
        return functional.relu(x + self.second(self.first(x)))


def normalised(images: Tensor) -> Tensor:
    """What the network sees of (B, 3, H, W): (B, 4, H, W), each channel of about unit scale.

    Luma and both colour differences, centred; and the luma less its local mean, divided by the
    local standard deviation + .01 over 7 x 7 px (MSCN: Mittal et al., TIP 2012).
    """
    channels = opponent(images)
    luma = channels[:, :1]
    centre = channels - channels.new_tensor([0.5, 0.0, 0.0]).view(1, 3, 1, 1)
    mean = _local_mean(luma)
    deviation = (_local_mean(luma.square()) - mean.square()).clamp_min(1e-8).sqrt()
    return torch.cat([centre * 4, (luma - mean) / (deviation + 0.01)], 1)


def _local_mean(values: Tensor) -> Tensor:
    rows = functional.avg_pool2d(values, (7, 1), 1, (3, 0), count_include_pad=False)
    return functional.avg_pool2d(rows, (1, 7), 1, (0, 3), count_include_pad=False)


def _convolution(before: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
