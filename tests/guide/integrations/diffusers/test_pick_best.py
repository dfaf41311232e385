"""The picker as a block, in a real modular pipeline with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLAutoBlocks

from restoration_guide import pick_best
from restoration_guide.integrations.diffusers.pick_best.block import PickBestBlock
from tests.guide.tiny_pipelines import build
from zoomiqa_core.images.sources import to_pil


@pytest.fixture
def alone(stubs) -> Any:
    """A pipeline of the block alone."""
    pipe = PickBestBlock().init_pipeline()
    pipe.update_components(judge=stubs.Scorer())
    return pipe


def test_at_the_end_of_sdxl(photo, stubs) -> None:
    blocks = StableDiffusionXLAutoBlocks()
    blocks.sub_blocks.insert("pick_best", PickBestBlock(), len(blocks.sub_blocks))
    pipe: Any = blocks.init_pipeline()
    parts = {name: part for name, part in build("sdxl_img2img").components.items() if part}
    parts = {name: part for name, part in parts.items() if name in pipe.component_names}
    judge = stubs.Scorer()
    pipe.update_components(judge=judge, **parts)
    assert pipe.judge is judge
    pipe.set_progress_bar_config(disable=True)
    size = {"height": photo.shape[1], "width": photo.shape[2]}
    given: dict[str, Any] = {
        "prompt": "", "num_inference_steps": 4, "output_type": "pt", "num_images_per_prompt": 2,
        "output": ["images", "best", "selection"], **size,
    }  # fmt: skip
    run = pipe(image=photo[None], strength=0.5, generator=torch.Generator().manual_seed(0), **given)
    expected = pick_best(photo, list(run["images"]), judge)
    assert run["selection"].choice == expected.choice == "input"  # random weights
    assert run["selection"].reason == expected.reason and len(run["images"]) == 2
    run = pipe(generator=torch.Generator().manual_seed(0), **given)  # text to image
    best = max(range(2), key=lambda i: judge.assess(run["images"][i]).rating)
    assert run["selection"].choice == best and run["selection"].input is None
    assert run["best"].tobytes() == to_pil(run["images"][best]).tobytes()


def test_pil_images_and_several_inputs(alone, photo, stubs) -> None:
    good = stubs.smooth(photo, torch.Generator())
    images = [to_pil(photo), to_pil(good)]
    best = alone(image=[to_pil(photo)], images=images, output="best")
    assert best.tobytes() == images[1].tobytes()
    with pytest.raises(ValueError, match="one input image to pick for, got 2"):
        alone(image=[photo, photo], images=images)
    with pytest.raises(ValueError, match="'images' is missing"):
        alone(image=photo)


def test_without_a_judge_the_bundled_ones_are_asked(photo) -> None:
    pipe: Any = PickBestBlock().init_pipeline()
    images = [photo, photo * torch.nan]
    assert pipe(image=photo, images=images, output="selection").scorer.name == "restoration"
    found = pipe(images=images, output="selection")
    assert found.scorer.name == "proxy" and found.choice == 0 and found.skipped == {"not_finite": 1}
