"""RestorationJudge: rates a restoration with the degraded input in view."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.alarm.reference import opponent
from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.proxy.preprocess import check_batch, pad
from zoomiqa_core.proxy.pretrained import PretrainedModel

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
    """(B,) > 0: expected error of the rating; of two candidates' difference
    :func:`difference_std` makes it a standard deviation."""
    gain: Tensor
    """(B,) rating of the candidate − rating of the degraded input; 0 when they are equal, or when
    there is no input."""
    gain_std: Tensor
    """(B,) ≥ 0: standard deviation of the gain; 0 when candidate and input are equal."""
    map: Tensor
    """(B, 1, rows, columns) in [1, 5]: rating of each tile of about ``TILE`` px."""
    gain_map: Tensor
    """(B, 1, rows, columns): gain of each tile."""


class SeenInput(NamedTuple):
    """What :meth:`RestorationJudge.look_at` keeps of degraded inputs."""

    tiles: Tensor
    """(B · tiles, 3, h, w)."""
    pyramid: list[Tensor]
    """Their features."""
    base: Tensor
    """(members, B · tiles, 2) judgements of the inputs themselves."""
    stride: int
    """Distance between tiles in px."""


class RestorationJudge(
    PretrainedModel,
    library_name="zoomiqa_core",
    tags=["image-quality-assessment", "image-restoration"],
    license="apache-2.0",
):
    """Rating of a restoration as full-reference metrics would give it, without the clean photo.

    Frozen ImageNet features at strides 2–16 of candidate and degraded input are summarised by
    channel: mean and standard deviation of the candidate's, of the input's and of their absolute
    difference, and the correlation of the two. Colour and period statistics are added. A small
    committee of MLPs maps all of them to a utility and to its error. The rating is a logistic curve
    of the utility. The gain is the difference of two ratings under the same input, so it is exactly
    0 for the input itself and antisymmetric between candidates.

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

    bundled = BUNDLED_WEIGHTS
    mean: Tensor
    std: Tensor
    centre: Tensor
    spread: Tensor
    scale: Tensor
    backbone: Any

    def __init__(
        self, backbone: str = "tf_efficientnet_lite0", width: int = 192, members: int = 3
    ) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(
            backbone, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3)
        )
        if isinstance(blocks := getattr(self.backbone, "blocks", None), nn.Sequential):
            self.backbone.blocks = blocks[:5]  # the others only make the features at stride 32
        config = self.backbone.pretrained_cfg
        for name in ("mean", "std"):
            value = torch.tensor(config[name]).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        channels = sum(self.backbone.feature_info.channels())
        self.own = 2 * channels + COLOURS
        """The first columns of :meth:`statistics`, which need no input."""
        count = 7 * channels + 3 * COLOURS
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("scale", torch.ones(()))  # of the standard deviation
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(0.05),
                nn.Linear(count + 1, width),
                nn.SiLU(),
                nn.Dropout(0.05),
                nn.Linear(width, 2),
            )
            for _ in range(members)
        )
        self.requires_grad_(False)
        self.members.requires_grad_(True)
        self.train(False)

    def train(self, mode: bool = True) -> RestorationJudge:
        """Switch training mode; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(
        self, candidate: Tensor, degraded: Tensor | None = None, stride: int = TILE
    ) -> RestorationOutput:
        """Judge candidates.

        Args:
            candidate: (B, 3, H, W) RGB in [0, 1].
            degraded: (B, 3, H, W) or (1, 3, H, W) input of all of them, or smaller by an integer
                factor on both sides; None when it is not known: the gain is then 0.
            stride: distance between tiles in px; less than ``TILE`` gives a finer map.

        Raises:
            TypeError, ValueError: not such batches.
        """
        check_batch(candidate)
        if degraded is None:
            tiles, grid = _tiles(candidate, stride)
            judged = base = self.judgements(self.statistics(tiles, None))
            return self._pooled(judged, base, len(candidate), grid)
        return self.judge(candidate, self.look_at(on_grid(degraded, candidate), stride))

    def look_at(self, degraded: Tensor, stride: int = TILE) -> SeenInput:
        """What is needed of (B, 3, H, W) inputs to judge candidates of their size."""
        tiles, _ = _tiles(degraded, stride)
        pyramid = self.features(tiles)
        base = self.judgements(self.statistics(tiles, tiles, pyramid, pyramid))
        return SeenInput(tiles, pyramid, base, stride)

    def judge(self, candidate: Tensor, seen: SeenInput) -> RestorationOutput:
        """Judge candidates of inputs that were looked at already, one each."""
        tiles, grid = _tiles(candidate, seen.stride)
        judged = self.judgements(self.statistics(tiles, seen.tiles, seen.pyramid))
        return self._pooled(judged, seen.base, len(candidate), grid)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the frozen backbone at strides 2–16."""
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
        colours = colour_statistics(candidate)
        parts = [_moments(own), colours]
        if degraded is None:
            parts.append(colours.new_zeros(len(colours), len(self.centre) - self.own))
        else:
            seen = self.features(degraded) if input_pyramid is None else input_pyramid
            pairs = list(zip(own, seen, strict=True))
            theirs = colour_statistics(degraded)
            parts += [_moments(seen), _moments([(a - b).abs() for a, b in pairs])]
            parts += [_correlation(a.float(), b.float()) for a, b in pairs]
            parts += [theirs, colours - theirs]
        flag = colours.new_full((len(colours), 1), float(degraded is not None))
        return torch.cat([*parts, flag], 1)

    def judgements(self, statistics: Tensor) -> Tensor:
        """(members, B, 2): utility and logarithm of its error, of (B, count + 1) statistics."""
        values, flag = statistics[:, :-1], statistics[:, -1:]
        values = 3 * torch.tanh((values - self.centre) / self.spread / 3)
        known = torch.arange(values.shape[1], device=values.device) < self.own
        values = torch.where(known | (flag > 0), values, 0.0)
        rows = torch.cat([values, flag], 1)
        return torch.stack([member(rows) for member in self.members])

    def _pooled(
        self, judged: Tensor, base: Tensor, batch: int, grid: tuple[int, int]
    ) -> RestorationOutput:
        def by_tile(values: Tensor) -> Tensor:
            return values.view(len(values), batch, 1, *grid)

        ratings, inputs = (by_tile(to_rating(u[..., 0])) for u in (judged, base))
        stds, input_stds = (
            self.scale * by_tile(errors(u)[None]).mean((0, 2, 3, 4)) for u in (judged, base)
        )
        rating, gain = ratings.mean((0, 2, 3, 4)), (ratings - inputs).mean((0, 2, 3, 4))
        gain_std = difference_std(gain.detach(), stds, input_stds)
        return RestorationOutput(
            rating, stds, gain, gain_std, ratings.mean(0), (ratings - inputs).mean(0)
        )


def errors(judged: Tensor) -> Tensor:
    """(B,) expected error of a rating: what members foresee, and their spread; rating units.

    Args:
        judged: (members, B, 2) of :meth:`RestorationJudge.judgements`.
    """
    foreseen = judged[..., 1].clamp(-4, 2).exp().square().mean(0)
    spread = to_rating(judged[..., 0]).detach().var(0, correction=0)
    return (foreseen + spread).sqrt()


ALIKE = 0.3
"""Difference in rating below which the errors of two candidates' ratings are largely shared."""


def difference_std(difference: Tensor, std: Tensor, other: Tensor) -> Tensor:
    """Standard deviation of the difference of two ratings of restorations of one input.

    Candidates that are rated alike mostly are alike, and share their errors: √(a² + b²) is
    multiplied by √(1 − exp(−|difference| / ALIKE)), which is 0 for the input against itself.
    """
    shared = torch.exp(-difference.abs() / ALIKE)
    variance = (std.square() + other.square()) * (1 - shared)
    return torch.where(variance > 0, variance.clamp_min(1e-12).sqrt(), 0.0)  # finite gradient at 0


NOISE = 18
"""Columns of :func:`noise_statistics`."""
COLOURS = 14 + NOISE
"""Columns of :func:`colour_statistics`."""


def noise_statistics(channels: Tensor) -> Tensor:
    """(B, 18): logarithm of the local contrast that 10, 50 and 90 % of an image stay below.

    Noise raises all three, texture and edges the last: their means cannot be told apart. Contrast
    is the standard deviation in windows of 5 px, of each of the (B, 3, H, W) channels at full and
    at half size.
    """
    found = []
    for size in (channels, functional.avg_pool2d(channels, 2)):
        window = min(5, *size.shape[-2:])
        mean, square = (functional.avg_pool2d(x, window, 2) for x in (size, size.square()))
        contrast = ((square - mean.square()).clamp_min(0) + 1e-6).log().flatten(2) / 2
        ordered = contrast.sort(dim=2).values
        last = ordered.shape[2] - 1
        found += [ordered[..., round(share * last)] for share in (0.1, 0.5, 0.9)]
    return torch.cat(found, 1)


def colour_statistics(images: Tensor) -> Tensor:
    """(B, 32): colour, noise and periodic patterns, which features of a photo network miss.

    Mean and standard deviation of the three opponent channels; logarithm of the RMS detail of each;
    logarithm of the RMS of what repeats with a period of 2 px, 4 px and 8 px in the luma, and of
    the luma's extreme detail; mean of the opponent colours' magnitude; :func:`noise_statistics`.
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
    found.append(noise_statistics(channels))
    return torch.cat(found, 1)


def to_rating(utility: Tensor) -> Tensor:
    """Logistic curve from an unbounded utility to [1, 5]; 0 is 3."""
    return MIN_RATING + (MAX_RATING - MIN_RATING) * torch.sigmoid(utility)


def probability_better(ratings: Tensor, stds: Tensor) -> Tensor:
    """(N, N) probability that candidate i is better than j; i and j equal give .5.

    Thurstone's model: Φ of the difference over its standard deviation. ``p + p.T`` is 1.

    >>> probability_better(torch.tensor([4.0, 2.0]), torch.tensor([1.2, 1.6]))
    tensor([[0.5000, 0.8415],
            [0.1585, 0.5000]])
    """
    difference = ratings[:, None] - ratings[None, :]
    std = difference_std(difference, stds[:, None], stds[None, :])
    return torch.special.ndtr(difference / std.clamp_min(1e-6))


def _moments(pyramid: list[Tensor]) -> Tensor:
    found = []
    for features in pyramid:
        features = features.float()
        mean = features.mean((2, 3))
        variance = features.square().mean((2, 3)) - mean.square()
        found += [mean, (variance.clamp_min(0) + 1e-4).sqrt()]
    return torch.cat(found, 1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(B, C) correlation of two feature maps over their positions."""
    a, b = (x - x.mean((2, 3), keepdim=True) for x in (a, b))
    shared = (a * b).mean((2, 3))
    return (shared + 1e-4) / (a.square().mean((2, 3)) * b.square().mean((2, 3)) + 1e-8).sqrt()


def _log_rms(values: Tensor) -> Tensor:
    return (values.square().mean((2, 3)) + 1e-6).log() / 2


def on_grid(degraded: Tensor, candidate: Tensor) -> Tensor:
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


def _tiles(images: Tensor, stride: int = TILE) -> tuple[Tensor, tuple[int, int]]:
    """Tiles of equal size, image after image: (B · rows · columns, 3, h, w).

    Tiles of up to ``TILE`` px lie at most ``stride`` apart and cover the image with whole tiles. Of
    more than ``MAX_TILES`` (at a smaller stride, as many times more), evenly spread ones are taken.
    """
    height, width = images.shape[-2:]
    tall, wide = min(height, TILE), min(width, TILE)
    rows, columns = (
        1 - (-(side - TILE) // stride) for side in (max(height, TILE), max(width, TILE))
    )
    while rows * columns > MAX_TILES * (TILE / stride) ** 2:
        rows, columns = (n - 1 if n == max(rows, columns) else n for n in (rows, columns))
    tops = [round(i * (height - tall) / max(1, rows - 1)) for i in range(rows)]
    lefts = [round(i * (width - wide) / max(1, columns - 1)) for i in range(columns)]
    tiles = torch.stack(
        [images[..., top : top + tall, left : left + wide] for top in tops for left in lefts], 1
    )
    return tiles.flatten(0, 1), (rows, columns)
