"""A copy of a convolutional judge that gives the same ratings in less time."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


def for_inference(model: Model) -> Model:
    """Copy a judge with its batch norms folded into the convolutions, channels last.

    Ratings differ by rounding only (2.4e-7 for the proxy on random images of 512²), and the proxy
    takes .119 s instead of .205 s for 512² on one thread. Backbones other than timm's EfficientNet
    family are copied without folding.

    Args:
        model: a judge with a ``backbone``, on any device; it is not changed.

    >>> from zoomiqa_core.proxy.model import QualityProxy
    >>> proxy = QualityProxy.from_pretrained()
    >>> image = torch.rand(1, 3, 64, 64)
    >>> bool((for_inference(proxy)(image).rating - proxy(image).rating).abs() < 1e-5)
    True
    """
    from timm.layers import BatchNormAct2d
    from timm.models.efficientnet import EfficientNetFeatures

    copied = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(backbone := getattr(copied, "backbone", None), EfficientNetFeatures):
        for parent in list(backbone.modules()):
            children = list(parent.named_children())
            for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                    fused = fuse_conv_bn_eval(conv, norm)  # pyright: ignore[reportArgumentType]
                    setattr(parent, conv_name, fused)
                    setattr(parent, norm_name, norm.act)
    return copied.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
