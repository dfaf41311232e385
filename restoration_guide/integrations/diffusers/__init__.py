"""Blocks of Modular Diffusers and a community pipeline that judge what a pipeline makes.

Each is a folder or a file that diffusers loads by its path, with the user's ``trust_remote_code``::

    from diffusers import DiffusionPipeline, ModularPipelineBlocks
    from restoration_guide.integrations.diffusers import BEST_OF_N, PICK_BEST, QUALITY_GATE

    gate = ModularPipelineBlocks.from_pretrained(QUALITY_GATE, trust_remote_code=True)
    pick = ModularPipelineBlocks.from_pretrained(PICK_BEST, trust_remote_code=True)
    pipe = DiffusionPipeline.from_pretrained(
        MODEL, custom_pipeline=BEST_OF_N, trust_remote_code=True
    )
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["BEST_OF_N", "PICK_BEST", "QUALITY_GATE"]

_FOLDER = Path(__file__).parent

QUALITY_GATE = str(_FOLDER / "quality_gate")
"""Folder of the block that adds a verdict per image."""
PICK_BEST = str(_FOLDER / "pick_best")
"""Folder of the block that picks the best image."""
BEST_OF_N = str(_FOLDER / "best_of_n_img2img.py")
"""Pipeline that restores an image N ways and returns the best."""
