"""Predicted clean images: every parametrisation against a network that knows the answer."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from restoration_guide.restorers.diffusers.previews import (
    _packed_grid,
    decode_latents,
    predicted_clean,
    shows_clean,
)
from restoration_guide.restorers.diffusers.stepping import StepWatch
from tests.guide import tiny_pipelines

# the schedulers' own: NumPy's protocols of before 2.0
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning:diffusers")

diffusers: Any = importlib.import_module("diffusers")


def draw(seed: int) -> Tensor:
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


CLEAN, NOISE = draw(0), draw(1)
DETERMINISTIC = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
STOCHASTIC = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "LCMScheduler",
)
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def shown(scheduler: Any, steps: int, network: Any, start: Tensor) -> list[Tensor]:
    """Predicted x0 after every step but the last of a run."""
    seen: list[Tensor] = []

    def pause(watch: StepWatch) -> list[int]:
        assert watch.clean is not None
        seen.append(watch.clean)
        return [0, 1]

    assert shows_clean(scheduler)
    watch = StepWatch(scheduler, [torch.Generator().manual_seed(k) for k in (5, 6)], pause)
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
    assert watch.done == watch.steps == len(scheduler.timesteps) and len(seen) == watch.steps - 1
    return seen


@pytest.mark.parametrize("kind", DETERMINISTIC + STOCHASTIC)
def test_noise_prediction(kind: str) -> None:
    more = {"clip_sample": False} if kind in ("DDIMScheduler", "DDPMScheduler") else {}
    more |= {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, kind)(beta_schedule="scaled_linear", **more)
    scheduler.set_timesteps(6)
    first = scheduler.timesteps[:1]
    start = scheduler.add_noise(CLEAN, NOISE, first.repeat(2))
    found = shown(scheduler, 6, lambda x, t: NOISE, start)
    # with x = α x0 + σ ε and a network that says ε, a deterministic sampler stays on that line
    if kind in DETERMINISTIC and kind != "PNDMScheduler":  # whose second step looks back
        for clean in found:
            torch.testing.assert_close(clean, CLEAN, atol=2e-3, rtol=1e-3)
    tolerance = 0.03 if kind == "LCMScheduler" else 2e-3  # LCM mixes a little of the sample in
    torch.testing.assert_close(found[0], CLEAN, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_velocity_and_sample_prediction(kind: str) -> None:
    for prediction in ("v_prediction", "sample"):
        scheduler = getattr(diffusers, kind)(prediction_type=prediction)
        scheduler.set_timesteps(4)
        t = int(scheduler.timesteps[0])
        product = scheduler.alphas_cumprod[t]
        alpha, sigma = product.sqrt(), (1 - product).sqrt()
        output = alpha * NOISE - sigma * CLEAN if prediction == "v_prediction" else CLEAN
        sample = alpha * CLEAN + sigma * NOISE
        stepped = SimpleNamespace()  # as if the scheduler had kept its own prediction to itself
        scheduler.step(output, scheduler.timesteps[0], sample)
        found = predicted_clean(scheduler, stepped, output, t, sample)
        torch.testing.assert_close(found, CLEAN, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", FLOW)
def test_flow_prediction(kind: str) -> None:
    scheduler = getattr(diffusers, kind)()
    scheduler.set_timesteps(4)
    sigma = scheduler.sigmas[0]
    start = (1 - sigma) * CLEAN + sigma * NOISE
    for clean in shown(scheduler, 4, lambda x, t: NOISE - CLEAN, start):
        torch.testing.assert_close(clean, CLEAN, atol=1e-4, rtol=1e-4)


def test_flow_by_other_solvers() -> None:
    for kind in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        scheduler = getattr(diffusers, kind)(
            prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero"
        )
        scheduler.set_timesteps(4)
        sigma = scheduler.sigmas[0]
        start = (1 - sigma) * CLEAN + sigma * NOISE
        for clean in shown(scheduler, 4, lambda x, t: NOISE - CLEAN, start):
            torch.testing.assert_close(clean, CLEAN, atol=1e-4, rtol=1e-4)


def test_a_start_in_the_middle_counts_the_steps_that_are_left() -> None:
    for kind in ("DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"):
        scheduler = getattr(diffusers, kind)()
        scheduler.set_timesteps(6)
        begin = 3 * scheduler.order
        if hasattr(scheduler, "set_begin_index"):  # as image-to-image pipelines do
            scheduler.set_begin_index(begin)
        watch = StepWatch(scheduler, [torch.Generator()] * 2)
        for t in scheduler.timesteps[begin:]:
            scheduler.step(NOISE, t, CLEAN)
        assert watch.steps == watch.done == len(scheduler.timesteps) - begin


def test_unknown_parametrisation_is_refused() -> None:
    scheduler = diffusers.DDIMScheduler()
    scheduler.register_to_config(prediction_type="odd")
    with pytest.raises(ValueError, match="predicts 'odd', from which no clean image"):
        predicted_clean(scheduler, SimpleNamespace(), NOISE, 3, CLEAN)
    assert not shows_clean(diffusers.EDMDPMSolverMultistepScheduler())
    assert not shows_clean(None)


def test_the_grid_of_packed_latents_by_hand() -> None:
    # width over height is 1.67: 6 / 4 = 1.5 comes closer than 8 / 3 = 2.67
    assert _packed_grid(24, (60, 100)) == (4, 6)
    assert _packed_grid(90, (80, 72)) == (10, 9)


LATENT_OUTPUT = [
    name for name in tiny_pipelines.NAMES if name not in ("builtin", "ldm_super_resolution")
]


@pytest.mark.parametrize("name", LATENT_OUTPUT)
def test_latents_are_decoded_as_the_pipeline_does_it(name: str) -> None:
    pipe: Any = tiny_pipelines.build(name)
    image = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(2))
    given: dict[str, Any] = {"prompt": "", "image": image, **tiny_pipelines.options(name)}
    if name == "sd_controlnet_img2img":
        given["control_image"] = image
    if name in ("flux_img2img", "qwen_img2img", "sd3_img2img"):
        given |= {"height": 24, "width": 32}

    def output(kind: str) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return pipe(**given, generator=generator, output_type=kind).images

    torch.testing.assert_close(
        decode_latents(pipe, output("latent"), (24, 32)), output("pt"), atol=1e-6, rtol=0
    )
