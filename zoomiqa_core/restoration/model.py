"""RestorationJudge: rates a restoration with the degraded input in view."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.alarm.reference import opponent
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.proxy.preprocess import check_batch, pad

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "restoration"
TILE = 128
"""Side in px of what is judged as one place, the size of training crops."""
MAX_TILES = 36
"""Images with more tiles are judged in this many, spread evenly."""


class RestorationOutput(NamedTuple):
    """What the judge says of B candidates; differentiable in the candidates."""

    rating: Tensor
    """(B,) in [1, 5]: rating of the candidate."""
    rating_std: Tensor
    """(B,) > 0: standard deviation of the difference between this rating and another candidate's
    of the same input, over √2; so two candidates' difference has √(std_a² + std_b²)."""
    gain: Tensor
    """(B,) rating of the candidate − rating of the degraded input; 0 when they are equal, or when
    there is no input."""
    gain_std: Tensor
    """(B,) ≥ 0: standard deviation of the gain; 0 when candidate and input are equal."""
    map: Tensor
    """(B, 1, rows, columns) in [1, 5]: rating of each tile of about ``TILE`` px."""
    gain_map: Tensor
    """(B, 1, rows, columns): gain of each tile."""


class RestorationJudge(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="zoomiqa_core",
    tags=["image-quality-assessment", "image-restoration"],
    license="apache-2.0",
):
    """Rating of a restoration as full-reference metrics would give it, without the clean photo.

    Frozen ImageNet features of candidate and degraded input give the mean and the standard
    deviation of every channel at strides 2–32, for the candidate, the input and the absolute
    difference of the two; colour and period statistics are added. A small committee of MLPs maps
    them to a utility. The rating is a logistic curve of the utility. The gain is the difference of
    two ratings under the same input, so it is exactly 0 for the input itself and antisymmetric
    between candidates.

    Large images are judged in tiles of the training crops' size.

    Args:
        backbone: name of a timm model with ``features_only`` support.
        width: hidden units of a member.
        members: MLPs; the spread between them is part of the standard deviation.

    >>> judge = RestorationJudge(width=8, members=2)
    >>> degraded = torch.rand(1, 3, 64, 64)
    >>> judge(degraded, degraded).gain.item()
    0.0
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    spread: Tensor
    noise: Tensor
    backbone: Any

    def __init__(
        self, backbone: str = "tf_efficientnet_lite0", width: int = 96, members: int = 3
    ) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(
            backbone, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4)
        )
        config = self.backbone.pretrained_cfg
        for name in ("mean", "std"):
            value = torch.tensor(config[name]).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.channels = sum(self.backbone.feature_info.channels())
        count = 6 * self.channels + COLOUR_STATISTICS
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("noise", torch.tensor([0.3, 1.0]))  # floor, of the members' spread
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(0.1),
                nn.Linear(count + 1, width),
                nn.SiLU(),
                nn.Dropout(0.1),
                nn.Linear(width, 1),
            )
            for _ in range(members)
        )
        self.requires_grad_(False)
        self.members.requires_grad_(True)
        self.train(False)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **kwargs: Any) -> RestorationJudge:
        """Load a judge from a folder or hub id; without one, the bundled weights.

        Raises:
            FileNotFoundError: the folder does not exist or holds no weights.
        """
        path = BUNDLED_WEIGHTS if path is None else Path(path).expanduser()
        named_folder = path.is_absolute() or path.is_dir() or len(path.parts) != 2
        if named_folder and not (path / SAFETENSORS_SINGLE_FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds no {SAFETENSORS_SINGLE_FILE}; give a folder written by "
                "RestorationJudge.save_pretrained, a hub id OWNER/NAME, or nothing for the bundled "
                "weights (reinstall the package if those are missing)"
            )
        return super().from_pretrained(str(path), **kwargs)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **settings: Any,
    ) -> RestorationJudge:
        """The mixin's loading, strict and from safetensors alone."""
        judge = cls(**settings)
        if Path(model_id).is_dir():
            file = str(Path(model_id, SAFETENSORS_SINGLE_FILE))
        else:
            file = hf_hub_download(
                model_id,
                SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        load_model(judge, file, strict=True, device=map_location)
        return judge.eval()

    def train(self, mode: bool = True) -> RestorationJudge:
        """Switch training mode; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, candidate: Tensor, degraded: Tensor | None = None) -> RestorationOutput:
        """Judge candidates.

        Args:
            candidate: (B, 3, H, W) RGB in [0, 1].
            degraded: (B, 3, H, W) or (1, 3, H, W) input of all of them, or smaller by an integer
                factor on both sides; None when it is not known: the gain is then 0.

        Raises:
            TypeError, ValueError: not such batches.
        """
        check_batch(candidate)
        if degraded is not None:
            degraded = _on_grid(degraded, candidate)
        tiles, grid = _tiles(candidate)
        if degraded is None:
            utility = self.utilities(self.statistics(tiles, None))
            base = utility
        else:
            input_tiles, _ = _tiles(degraded)
            pyramid = self.features(input_tiles)
            utility = self.utilities(self.statistics(tiles, input_tiles, pyramid))
            base = self.utilities(self.statistics(input_tiles, input_tiles, pyramid, pyramid))
        return self._pooled(utility, base, len(candidate), grid)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the frozen backbone at strides 2–32."""
        return self.backbone((pad(images) - self.mean) / self.std)

    def statistics(
        self,
        candidate: Tensor,
        degraded: Tensor | None,
        input_pyramid: list[Tensor] | None = None,
        pyramid: list[Tensor] | None = None,
    ) -> Tensor:
        """What the committee reads: (B, count + 1); the last column is 1 when the input is seen.

        Args:
            candidate: (B, 3, H, W).
            degraded: the same shape, or None.
            input_pyramid: :meth:`features` of ``degraded``, when they are at hand.
            pyramid: :meth:`features` of ``candidate``, when they are at hand.
        """
        own = self.features(candidate) if pyramid is None else pyramid
        parts = [_moments(own)]
        colours = [colour_statistics(candidate)]
        if degraded is None:
            parts += [torch.zeros_like(parts[0])] * 2
            colours += [torch.zeros_like(colours[0])] * 2
        else:
            seen = self.features(degraded) if input_pyramid is None else input_pyramid
            pairs = zip(own, seen, strict=True)
            parts += [_moments(seen), _moments([(a - b).abs() for a, b in pairs])]
            theirs = colour_statistics(degraded)
            colours += [theirs, colours[0] - theirs]
        found = torch.cat([*parts, *colours], 1)
        flag = found.new_full((len(found), 1), float(degraded is not None))
        return torch.cat([found, flag], 1)

    def utilities(self, statistics: Tensor) -> Tensor:
        """(members, B) unbounded utilities of (B, count + 1) statistics."""
        values, flag = statistics[:, :-1], statistics[:, -1:]
        values = 3 * torch.tanh((values - self.centre) / self.spread / 3)
        seen = torch.ones_like(self.centre)
        seen[self.channels * 2 : self.channels * 6] = 0
        seen[self.channels * 6 + COLOUR_STATISTICS // 3 :] = 0
        values = torch.where(flag > 0, values, values * seen)
        rows = torch.cat([values, flag], 1)
        return torch.stack([member(rows)[:, 0] for member in self.members])

    def _pooled(
        self, utility: Tensor, base: Tensor, batch: int, grid: tuple[int, int]
    ) -> RestorationOutput:
        ratings, inputs = (to_rating(u).view(len(u), batch, 1, *grid) for u in (utility, base))
        gains = ratings - inputs
        member_ratings, member_gains = ratings.mean((2, 3, 4)), gains.mean((2, 3, 4))
        changed = 1 - torch.exp(-gains.detach().abs().mean(0).amax((1, 2, 3)) / 0.05)
        floor, scale = self.noise
        gain = member_gains.mean(0)

        def std(values: Tensor) -> Tensor:
            spread = values.detach().var(0, correction=0)
            return (floor.square() + scale.square() * spread).sqrt()

        return RestorationOutput(
            member_ratings.mean(0),
            std(member_ratings),
            gain,
            2**0.5 * std(member_gains) * changed,
            ratings.mean(0),
            gains.mean(0),
        )


COLOUR_STATISTICS = 3 * 14
"""Colour and period statistics of the candidate, of the input, and their difference."""


def colour_statistics(images: Tensor) -> Tensor:
    """(B, 14): colour and periodic patterns, which frozen features of a photo network miss.

    Mean and standard deviation of the three opponent channels; logarithm of the RMS detail of each;
    logarithm of the RMS of what repeats with a period of 2 px, 4 px and 8 px in the luma, and of
    the luma's extreme detail; mean of the opponent colours' magnitude.
    """
    channels = opponent(images)
    detail = channels - functional.avg_pool2d(
        functional.pad(channels, (1,) * 4, mode="replicate"), 3, 1
    )
    found = [channels.mean((2, 3)), channels.std((2, 3)), _log_rms(detail)]
    for period in (2, 4, 8):
        height, width = (side // period * period for side in images.shape[-2:])
        cells = functional.pixel_unshuffle(channels[:, :1, :height, :width], period)
        tile = cells.mean((2, 3))
        tile = tile - tile.mean(1, keepdim=True)
        found.append((tile.square().mean(1, keepdim=True) + 1e-8).log() / 2)
    found.append((detail[:, 0].abs().square().mean((1, 2), keepdim=True)[:, :, 0] + 1e-8).log())
    found.append(channels[:, 1:].abs().mean((1, 2, 3))[:, None])
    return torch.cat(found, 1)


def to_rating(utility: Tensor) -> Tensor:
    """Logistic curve from an unbounded utility to [1, 5]; 0 is 3."""
    return MIN_RATING + (MAX_RATING - MIN_RATING) * torch.sigmoid(utility)


def probability_better(ratings: Tensor, stds: Tensor) -> Tensor:
    """(N, N) probability that candidate i is better than j; i and j equal give .5.

    Thurstone's model: Φ of the difference over its standard deviation. ``p + p.T`` is 1.

    >>> probability_better(torch.tensor([4.0, 3.0]), torch.tensor([0.6, 0.8]))
    tensor([[0.5000, 0.8413],
            [0.1587, 0.5000]])
    """
    difference = ratings[:, None] - ratings[None, :]
    std = (stds[:, None].square() + stds[None, :].square()).sqrt().clamp_min(1e-6)
    return torch.special.ndtr(difference / std)


def _moments(pyramid: list[Tensor]) -> Tensor:
    found = []
    for features in pyramid:
        features = features.float()
        mean = features.mean((2, 3))
        variance = features.square().mean((2, 3)) - mean.square()
        found += [mean, (variance.clamp_min(0) + 1e-4).sqrt()]
    return torch.cat(found, 1)


def _log_rms(values: Tensor) -> Tensor:
    return (values.square().mean((2, 3)) + 1e-6).log() / 2


def _on_grid(degraded: Tensor, candidate: Tensor) -> Tensor:
    """The input, enlarged to the candidates' grid and repeated for each."""
    check_batch(degraded)
    if len(degraded) not in (1, len(candidate)):
        raise ValueError(
            f"expected one degraded input or one per candidate ({len(candidate)}), "
            f"got {len(degraded)}"
        )
    size, own = candidate.shape[-2:], degraded.shape[-2:]
    factor = size[0] // own[0]
    if factor < 1 or tuple(side * factor for side in own) != tuple(size):
        raise ValueError(
            f"the degraded input must have the candidate's size {tuple(size)} or be smaller by an "
            f"integer factor, got {tuple(own)}; resize it first"
        )
    if factor > 1:
        degraded = functional.interpolate(degraded, size, mode="bicubic").clamp(0, 1)
    return degraded.expand(len(candidate), -1, -1, -1)


def _tiles(images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tiles of equal size, image after image: (B · rows · columns, 3, h, w).

    Tiles of up to ``TILE`` px overlap as much as they must to cover the image with whole tiles. Of
    more than ``MAX_TILES``, evenly spread ones are taken.
    """
    height, width = images.shape[-2:]
    rows, columns = (-(-side // TILE) for side in (height, width))
    while rows * columns > MAX_TILES:
        rows, columns = (n - 1 if n == max(rows, columns) else n for n in (rows, columns))
    tall, wide = min(height, TILE), min(width, TILE)
    tops = [round(i * (height - tall) / max(1, rows - 1)) for i in range(rows)]
    lefts = [round(i * (width - wide) / max(1, columns - 1)) for i in range(columns)]
    tiles = torch.stack(
        [images[..., top : top + tall, left : left + wide] for top in tops for left in lefts], 1
    )
    return tiles.flatten(0, 1), (rows, columns)
