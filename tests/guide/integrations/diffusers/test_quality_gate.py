"""The gate as a block, in a real modular pipeline with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLAutoBlocks

from restoration_guide.gate.gate import QualityGate
from restoration_guide.integrations.diffusers.quality_gate.block import QualityGateBlock
from tests.guide.tiny_pipelines import build
from zoomiqa_core.images.sources import to_pil


@pytest.fixture
def alone(stubs) -> Any:
    """A pipeline of the block alone."""
    pipe = QualityGateBlock().init_pipeline()
    pipe.update_components(quality_gate=QualityGate(stubs.Scorer(), 3.0))
    return pipe


def test_at_the_end_of_sdxl(photo, stubs) -> None:
    blocks = StableDiffusionXLAutoBlocks()
    blocks.sub_blocks.insert("quality_gate", QualityGateBlock(), len(blocks.sub_blocks))
    pipe: Any = blocks.init_pipeline()
    parts = {name: part for name, part in build("sdxl_img2img").components.items() if part}
    gate = QualityGate(stubs.Scorer(), 4.9)
    parts = {name: part for name, part in parts.items() if name in pipe.component_names}
    pipe.update_components(quality_gate=gate, **parts)
    assert pipe.quality_gate is gate  # not a copy of the judge's weights
    pipe.set_progress_bar_config(disable=True)
    size = {"height": photo.shape[1], "width": photo.shape[2]}
    run = pipe(
        image=photo[None], prompt="", num_inference_steps=4, strength=0.5, output_type="pt",
        generator=torch.Generator().manual_seed(0), output=["images", "verdicts"], **size,
    )  # fmt: skip
    (verdict,) = run["verdicts"]
    assert verdict.action == "retry" and verdict.defect is None  # random weights
    assert verdict.to_dict() == gate(photo, run["images"][0]).to_dict()


def test_one_verdict_per_image(alone, photo, stubs) -> None:
    good = stubs.smooth(photo, torch.Generator())
    images = [good, photo * 0, photo[:, :-1], to_pil(good), photo * torch.nan]
    found = alone(image=photo, images=images, output="verdicts")
    assert [verdict.action for verdict in found] == ["accept", "retry", "reject", "accept", "retry"]
    assert [v.defect for v in found] == [None, "constant", "wrong_size", None, "not_finite"]
    (one,) = alone(image=[photo], images=good[None], output="verdicts")
    assert one.accepted


def test_what_is_missing_is_said(alone, photo) -> None:
    with pytest.raises(ValueError, match=r"update_components\(quality_gate="):
        QualityGateBlock().init_pipeline()(image=photo, images=[photo])
    with pytest.raises(ValueError, match="one input image to judge against, got 2"):
        alone(image=[photo, photo], images=[photo])
    with pytest.raises(ValueError, match="'images' is missing"):
        alone(image=photo)


def test_the_block_documents_itself() -> None:
    block = QualityGateBlock()
    assert block.input_names == ["image", "images"] and block.output_names == ["verdicts"]
    assert "keep_input" in block.doc
