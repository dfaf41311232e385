"""The differentiable proxy judge: rating, uncertainty and quality map in one forward pass."""

from __future__ import annotations

from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy

__all__ = ["ProxyOutput", "QualityProxy"]
