"""A copy of the proxy that gives the same ratings in less time."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoomiqa_core.proxy.model import QualityProxy


def for_inference(proxy: QualityProxy) -> QualityProxy:
    """Copy a proxy with its batch norms folded into the convolutions, channels last.

    Ratings differ from the proxy's by rounding only (2.4e-7 on random images of 512²) and one
    thread takes .119 s instead of .205 s for 512². Backbones other than timm's EfficientNet family
    are copied without folding.

    Args:
        proxy: on any device; it is not changed.

    >>> proxy = QualityProxy.from_pretrained()
    >>> image = torch.rand(1, 3, 64, 64)
    >>> bool((for_inference(proxy)(image).rating - proxy(image).rating).abs() < 1e-5)
    True
    """
    from timm.layers import BatchNormAct2d
    from timm.models.efficientnet import EfficientNetFeatures

    copied = copy.deepcopy(proxy).eval().requires_grad_(False)
    if isinstance(copied.backbone, EfficientNetFeatures):
        for parent in list(copied.backbone.modules()):
            children = list(parent.named_children())
            for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                    fused = fuse_conv_bn_eval(conv, norm)  # pyright: ignore[reportArgumentType]
                    setattr(parent, conv_name, fused)
                    setattr(parent, norm_name, norm.act)
    return copied.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
