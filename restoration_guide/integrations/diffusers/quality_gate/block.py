"""The quality gate as a block of Modular Diffusers."""

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

from restoration_guide.gate.gate import QualityGate


class QualityGateBlock(ModularPipelineBlocks):
    """Adds ``verdicts`` to a modular pipeline: one per image of ``images``, against ``image``.

    >>> import zoomiqa_core as zi
    >>> pipe = QualityGateBlock().init_pipeline()
    >>> pipe.update_components(quality_gate=QualityGate(zi.load_scorer("restoration")))
    >>> photo = torch.rand(3, 64, 64)
    >>> (verdict,) = pipe(image=photo, images=[photo * 0], output="verdicts")
    >>> verdict.action, verdict.defect
    ('retry', 'constant')

    In a pipeline that restores, put it after the decoder::

        blocks.sub_blocks.insert("quality_gate", QualityGateBlock(), len(blocks.sub_blocks))

    Images that were not finite reach it as the pipeline gives them: ask for ``output_type="pt"``
    where that matters, since an 8-bit picture cannot be NaN (it is black, and named so).
    """

    _requirements: ClassVar[dict[str, str]] = {"zoomiqa-restoration-guide": ">=0.1.0"}

    @property
    def description(self) -> str:
        """What the block does, for the pipeline's documentation."""
        return "Judges each result against the input image: accept, retry, keep_input or reject."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """The gate, which the user gives: it is not saved with the pipeline."""
        return [ComponentSpec("quality_gate", QualityGate)]

    @property
    def inputs(self) -> list[InputParam]:
        """The degraded input, and the results of the decoder."""
        return [
            InputParam("image", required=True, description="The degraded input, one image."),
            InputParam("images", required=True, description="Results: a list, or (B, 3, H, W)."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """The verdicts."""
        return [OutputParam("verdicts", type_hint=list, description="One verdict per result.")]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Judge.

        Raises:
            ValueError: the pipeline was not given a gate, or got several input images.
        """
        block: Any = self.get_block_state(state)
        gate = getattr(components, "quality_gate", None)
        if gate is None:
            raise ValueError(
                "no quality gate: call pipe.update_components(quality_gate=QualityGate(scorer))."
            )
        before = block.image
        if isinstance(before, list | tuple) or (isinstance(before, Tensor) and before.ndim == 4):
            if len(before) != 1:
                raise ValueError(f"expected one input image to judge against, got {len(before)}.")
            before = before[0]
        block.verdicts = [gate(before, after) for after in block.images]
        self.set_block_state(state, block)
        return components, state
