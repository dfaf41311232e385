"""The pick of the best image as a block of Modular Diffusers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers.modular_pipelines import (
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
)
from torch import Tensor

from restoration_guide.search.pick import pick_best
from zoomiqa_core.images.sources import to_pil
from zoomiqa_core.scorer import Scorer


class PickBestBlock(ModularPipelineBlocks):
    """Adds ``best`` and ``selection`` to a modular pipeline: the best of ``images``.

    Where the pipeline has an input ``image``, images that are unfaithful to it or not better are
    left out, and the input is kept when none is left.

    >>> pipe = PickBestBlock().init_pipeline()
    >>> photo = torch.rand(3, 64, 64)
    >>> found = pipe(image=photo, images=[photo * 0, photo * torch.nan], output="selection")
    >>> found.choice, found.skipped
    ('input', {'constant': 1, 'not_finite': 1})

    In a pipeline that makes several images, put it after the decoder::

        blocks.sub_blocks.insert("pick_best", PickBestBlock(), len(blocks.sub_blocks))
        pipe = blocks.init_pipeline()
        pipe.update_components(judge=judge, unet=…)
        best = pipe(image=image, prompt="", num_images_per_prompt=4, output="best")

    Without a judge it takes the bundled restoration judge, or without an input image the proxy.
    """

    _requirements: ClassVar[dict[str, str]] = {"zoomiqa-restoration-guide": ">=0.1.0"}

    @property
    def description(self) -> str:
        """What the block does, for the pipeline's documentation."""
        return "Picks the best of the images, or keeps the input image when none is better."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """The judge, which the user may give: it is not saved with the pipeline."""
        return [ComponentSpec("judge", Scorer)]

    @property
    def inputs(self) -> list[InputParam]:
        """The results of the decoder, and the degraded input where there is one."""
        return [
            InputParam("images", required=True, description="Results: a list, or (B, 3, H, W)."),
            InputParam("image", description="The degraded input, one image; None without one."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """The best image, and every figure behind the choice."""
        return [
            OutputParam("best", description="The best image as a PIL image."),
            OutputParam("selection", description="Ratings, ranking and reasons."),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Pick.

        Raises:
            ValueError: several input images.
            NoCandidateError: without an input image, when no image could be judged.
        """
        block: Any = self.get_block_state(state)
        source = block.image
        if isinstance(source, list | tuple) or (isinstance(source, Tensor) and source.ndim == 4):
            if len(source) != 1:
                raise ValueError(f"expected one input image to pick for, got {len(source)}.")
            source = source[0]
        judge = getattr(components, "judge", None)
        block.selection = pick_best(source, list(block.images), judge)
        block.best = to_pil(block.selection.best)
        self.set_block_state(state, block)
        return components, state
