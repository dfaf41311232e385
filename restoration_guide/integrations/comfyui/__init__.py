"""ComfyUI nodes that rate images, draw quality maps, pick the best of a batch, gate and prompt.

Put this folder, or a link to it, into ComfyUI's ``custom_nodes``; its path is

    python -c "import restoration_guide.integrations.comfyui as pack; print(pack.__path__[0])"
"""

from __future__ import annotations

from typing import Any

__all__ = ["comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """The extension; ComfyUI calls this when it loads the folder."""
    from .nodes import ZoomIQAExtension

    return ZoomIQAExtension()
