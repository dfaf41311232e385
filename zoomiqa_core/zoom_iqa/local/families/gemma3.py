"""Gemma 3 (arXiv 2503.19786): attention in both directions within an image."""

from __future__ import annotations

from torch import Tensor

from zoomiqa_core.zoom_iqa.local.families.base import Family


class Gemma3(Family):
    """Gemma 3; its prompts mark image tokens, which see each other."""

    model_types = ("gemma3",)
    control_tokens = ("image_token_id", "boi_token_id", "eoi_token_id")

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """1 on image tokens."""
        return {"token_type_ids": (ids == self.image_token_id).long()}
