"""Zoom-IQA for restoration: judge image quality, region by region, with gradients."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoomiqa_core.assessment import (
    Assessment,
    Chains,
    RegionScore,
    Round,
    rating_to_score,
    score_to_rating,
)

if TYPE_CHECKING:
    from zoomiqa_core.ensemble import EnsembleScorer
    from zoomiqa_core.images.sources import ImageError, read_image
    from zoomiqa_core.interop.direction import check_direction
    from zoomiqa_core.interop.judge_metric import JudgeMetric
    from zoomiqa_core.interop.loss import as_loss
    from zoomiqa_core.interop.metric_scorer import MetricScorer
    from zoomiqa_core.interop.torchmetrics_scorer import torchmetrics_scorer
    from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy
    from zoomiqa_core.proxy.scorer import ProxyScorer
    from zoomiqa_core.scorer import Scorer, load_scorer
    from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA

__version__ = "0.1.0"

__all__ = [
    "Assessment",
    "Chains",
    "EnsembleScorer",
    "ImageError",
    "JudgeConfig",
    "JudgeMetric",
    "MetricScorer",
    "ProxyOutput",
    "ProxyScorer",
    "QualityProxy",
    "RegionScore",
    "Round",
    "Scorer",
    "ZoomIQA",
    "as_loss",
    "check_direction",
    "load_scorer",
    "rating_to_score",
    "read_image",
    "score_to_rating",
    "torchmetrics_scorer",
]

_LAZY = {
    "EnsembleScorer": "zoomiqa_core.ensemble",
    "JudgeMetric": "zoomiqa_core.interop.judge_metric",
    "MetricScorer": "zoomiqa_core.interop.metric_scorer",
    "as_loss": "zoomiqa_core.interop.loss",
    "check_direction": "zoomiqa_core.interop.direction",
    "torchmetrics_scorer": "zoomiqa_core.interop.torchmetrics_scorer",
    "ImageError": "zoomiqa_core.images.sources",
    "JudgeConfig": "zoomiqa_core.zoom_iqa.judge",
    "read_image": "zoomiqa_core.images.sources",
    "ProxyOutput": "zoomiqa_core.proxy.model",
    "QualityProxy": "zoomiqa_core.proxy.model",
    "ProxyScorer": "zoomiqa_core.proxy.scorer",
    "Scorer": "zoomiqa_core.scorer",
    "ZoomIQA": "zoomiqa_core.zoom_iqa.judge",
    "load_scorer": "zoomiqa_core.scorer",
}


def __getattr__(name: str) -> Any:
    """Import the parts that need torch and timm when they are first asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
