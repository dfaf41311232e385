"""Stopping hopeless runs in real pipelines with random weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from restoration_guide.gate.callback import StopHopeless
from tests.guide.tiny_pipelines import build, options
from zoomiqa_core.assessment import Assessment


class Says:
    """A judge that always says the same; keeps what it saw."""

    name = "says"

    def __init__(self, rating: Any) -> None:
        self.rating, self.seen = rating, []

    def assess(self, images):
        self.seen.append(images)
        if isinstance(self.rating, Exception):
            raise self.rating
        return Assessment(self.rating, 0.1)


def watch(rating: Any, **settings: Any) -> Any:
    scorer: Any = Says(rating)
    return StopHopeless(scorer, **settings)


def call(pipe, callback, name, n=8, strength=0.75):
    """A run on a 32² picture; returns the number of network evaluations and the images."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    count, original = [0], network.forward

    def counted(*args, **kwargs):
        count[0] += 1
        return original(*args, **kwargs)

    network.forward = counted
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    arguments = {"prompt": "", "image": image, **options(name)}
    arguments |= {"num_inference_steps": n, "output_type": "pt"}
    if "strength" in arguments:
        arguments["strength"] = strength
    if hasattr(pipe, "transformer"):
        arguments |= {"height": 32, "width": 32}  # not the image's by default
    arguments["generator"] = torch.Generator().manual_seed(0)
    try:
        return count, pipe(**arguments, callback_on_step_end=callback).images
    finally:
        network.forward = original


@pytest.mark.parametrize(
    "name", ["sd_img2img", "sdxl_img2img", "sd3_img2img", "flux_img2img", "qwen_img2img"]
)
def test_a_hopeless_run_is_stopped_half_way(name) -> None:
    pipe = build(name)
    size = (32, 32)
    callback = watch(1.5, size=size)
    (count,), images = call(pipe, callback, name)
    assert callback.stopped and callback.hopeless and images.shape == (1, 3, *size)
    assert count == 3  # 6 of 8 steps at strength .75: looked at after the third
    assert callback.scorer.seen[0].shape == (3, *size)
    assert "step 3 of 6, predicted images: best of 1 rated 1.50" in callback.note
    assert "step" not in vars(pipe.scheduler)  # left as it was
    hopeful = watch(2.0, size=size)
    (count,), _ = call(pipe, hopeful, name)
    assert count == 6 and not hopeful.stopped and hopeful.assessments[0].rating == 2.0


def test_a_pipeline_that_cannot_be_interrupted_says_so() -> None:
    callback = watch(1.0)
    (count,), _ = call(build("sd_instruct_pix2pix"), callback, "sd_instruct_pix2pix", n=4)
    assert callback.hopeless and not callback.stopped and count == 4
    assert "StableDiffusionInstructPix2PixPipeline cannot be interrupted" in callback.note


def test_watching_changes_no_pixel_and_x0_is_the_samplers_own() -> None:
    pipe = build("sdxl_img2img")
    seen = []

    def keep(pipeline, latents):
        seen.append(latents.clone())
        return torch.zeros(1, 3, 8, 8)

    _, alone = call(pipe, lambda *given: given[-1], "sdxl_img2img")
    _, watched = call(pipe, watch(5.0, preview=keep), "sdxl_img2img")
    assert torch.equal(alone, watched)
    # By hand, Euler's own formula: x0 = x − σ · ε, from the latents around the step
    around = []

    def remember(pipeline, i, t, tensors):
        around.append((pipeline.scheduler.sigmas[i + 2 : i + 4], tensors["latents"].clone()))
        return tensors

    call(pipe, remember, "sdxl_img2img")
    (_, (_, before), (_, after), *_), sigmas = around, pipe.scheduler.sigmas
    first = len(sigmas) - 7
    now, then = sigmas[first + 2], sigmas[first + 3]
    epsilon = (after - before) / (then - now)
    torch.testing.assert_close(seen[0], before - now * epsilon, rtol=1e-4, atol=1e-4)


def test_nan_has_no_hope_and_a_failed_judge_stops_nothing() -> None:
    pipe = build("sd_img2img")
    nan = watch(5.0, preview=lambda *_: torch.full((2, 3, 8, 8), math.nan))
    (count,), _ = call(pipe, nan, "sd_img2img")
    assert nan.stopped and count == 3 and not nan.scorer.seen
    failing = watch(RuntimeError("out of memory"))
    (count,), _ = call(pipe, failing, "sd_img2img")
    assert count == 6 and not failing.hopeless
    assert failing.assessments[0].error == "judge_error"


def test_where_no_clean_image_is_shown_the_latents_are_judged(monkeypatch) -> None:
    def refuse(*_):
        raise ValueError("no such parametrisation")

    monkeypatch.setattr("restoration_guide.gate.callback.predicted_clean", refuse)
    callback = watch(1.0)
    (count,), _ = call(build("sd_img2img"), callback, "sd_img2img")
    assert count == 3 and callback.stopped and "of 6, latents:" in callback.note


def test_one_image_with_hope_lets_the_batch_go_on() -> None:
    callback = watch(1.0, preview=lambda *_: torch.zeros(2, 3, 8, 8))
    ratings = iter([1.0, 4.0])
    callback.scorer.assess = lambda image: Assessment(next(ratings), 0.1)
    (count,), _ = call(build("sd_img2img"), callback, "sd_img2img")
    assert count == 6 and not callback.hopeless


def test_short_runs_and_the_next_run() -> None:
    pipe, callback = build("sd_img2img"), watch(1.0)
    (count,), _ = call(pipe, callback, "sd_img2img", n=2, strength=1.0)
    assert count == 2 and not callback.stopped and callback.hopeless  # nothing left to save
    assert callback.note.startswith("step 2 of 2, results:")
    callback.scorer.rating = 5.0
    (count,), _ = call(pipe, callback, "sd_img2img", n=4)
    assert count == 3 and not callback.stopped
    (count,), _ = call(pipe, callback, "sd_img2img", n=1, strength=1.0)
    assert count == 1 and not callback.hopeless and callback.assessments[0].rating == 5
    assert callback.note.startswith("step 1 of 1, results:")


def test_an_early_look_judges_the_predicted_image_not_noise() -> None:
    callback = watch(1.0, at=0.01)
    (count,), _ = call(build("sd_img2img"), callback, "sd_img2img")
    assert count == 2 and callback.note.startswith("step 2 of 6, predicted images:")


def test_a_run_that_breaks_leaves_no_tap_behind() -> None:
    pipe, callback = build("sd_img2img"), watch(5.0)

    def break_after_tap(*given):
        callback(*given)
        if given[1] == 1:
            raise RuntimeError("broken")
        return given[-1]

    with pytest.raises(RuntimeError, match="broken"):
        call(pipe, break_after_tap, "sd_img2img")
    (count,), _ = call(pipe, callback, "sd_img2img")
    assert count == 6 and "step" not in vars(pipe.scheduler)


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ValueError, match=r"size=\(height, width\)"):
        call(build("flux_img2img"), watch(1.0), "flux_img2img", n=4)
    with pytest.raises(ValueError, match="at a share"):
        watch(1.0, at=1.0)
    with pytest.raises(ValueError, match="below is a rating"):
        watch(1.0, below=40)
