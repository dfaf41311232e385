"""The community pipeline, loaded from its file onto a saved pipeline with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline

from restoration_guide import pick_best
from restoration_guide.integrations.diffusers import BEST_OF_N
from tests.guide.tiny_pipelines import build
from zoomiqa_core.images.sources import to_pil

CALL: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.5, "guidance_scale": 1.0}


@pytest.fixture
def pipe(tmp_path) -> Any:
    build("sd_img2img").save_pretrained(tmp_path / "model")
    loaded = DiffusionPipeline.from_pretrained(
        str(tmp_path / "model"), custom_pipeline=BEST_OF_N, trust_remote_code=True
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_picks_among_its_own_runs(pipe, photo, stubs) -> None:
    judge = stubs.Scorer()
    result = pipe(photo, n=2, judge=judge, seed=3, **CALL)
    runs = []
    for seed in (3, 4):
        generator = torch.Generator().manual_seed(seed)
        given = {"image": photo[None], "generator": generator, "output_type": "pt", **CALL}
        made: Any = StableDiffusionImg2ImgPipeline.__call__(pipe, "", **given)
        runs.append(made.images[0])
    expected = pick_best(photo, runs, judge)
    selection = result.selection
    assert selection.choice == expected.choice == "input"  # random weights
    assert [row.rating for row in selection.rows] == [row.rating for row in expected.rows]
    assert result.images[0].tobytes() == to_pil(photo).tobytes()


def test_results_of_another_size_are_named(pipe, photo, stubs) -> None:
    result = pipe(photo[:, :60, :77], n=1, judge=stubs.Scorer(), **CALL)
    assert result.selection.skipped == {"wrong_size": 1}
    with pytest.raises(ValueError, match="expected images to choose from"):
        pipe(photo, n=0, **CALL)
