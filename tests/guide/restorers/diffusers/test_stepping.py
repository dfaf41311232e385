"""Calls that pause after every step; batches that shrink; noise from the candidates' generators."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from restoration_guide.restorers.diffusers.stepping import PausedCall, StepWatch

# the schedulers' own: NumPy's protocols of before 2.0
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning:diffusers")

diffusers: Any = importlib.import_module("diffusers")


def test_a_call_pauses_goes_on_and_ends() -> None:
    heard: list[Any] = []

    def work(pause: Any) -> str:
        for number in range(2):
            heard.append(pause(number))
        return "done"

    call = PausedCall(work)
    assert call.advance() == 0 and not heard
    assert call.advance("first") == 1 and heard == ["first"]
    assert call.advance("second") == "done" and call.finished
    with pytest.raises(RuntimeError, match="already ended"):
        call.advance()


def test_a_closed_call_unwinds_and_leaves_no_thread() -> None:
    cleaned: list[str] = []

    def work(pause: Any) -> None:
        try:
            pause(0)
        except Exception:
            cleaned.append("caught")
        finally:
            cleaned.append("cleaned")

    before = threading.active_count()
    call = PausedCall(work)
    call.advance()
    call.close()
    call.close()
    assert cleaned == ["cleaned"] and threading.active_count() == before
    PausedCall(work).close()  # never started


def test_an_error_comes_out_where_the_call_is_advanced() -> None:
    def work(pause: Any) -> None:
        pause(0)
        raise KeyError("inside")

    call = PausedCall(work)
    call.advance()
    with pytest.raises(KeyError, match="inside"):
        call.advance()


def test_the_thread_keeps_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        call = PausedCall(lambda pause: torch.ones(2, 2) @ torch.ones(2, 2))
        assert call.advance().dtype == torch.bfloat16


def sampled(scheduler: Any, seeds: list[int], leave: dict[int, list[int]], **more: Any) -> Tensor:
    """Six steps of a stand-in network; after step k the rows `leave[k]` go on."""
    scheduler.set_timesteps(6)
    start = [torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(s)) for s in seeds]
    x = torch.stack(start) * scheduler.init_noise_sigma
    going_on: list[list[int]] = []

    def pause(watch: StepWatch) -> list[int]:
        positions = leave.get(watch.done, list(range(len(watch.generators))))
        going_on.append(positions)
        return positions

    watch = StepWatch(scheduler, [torch.Generator().manual_seed(9 + s) for s in seeds], pause)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(0.5 * scaled, t, x, **more).prev_sample
        if going_on and len(going_on[-1]) < len(x):
            x = watch.shrink_call(None, 0, t, {"latents": x})["latents"]
    return x


@pytest.mark.parametrize(
    "kind",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_rows_that_stay_are_what_they_would_have_been(kind: str) -> None:
    more = {"eta": 1.0} if kind == "DDIMScheduler" else {}
    whole = sampled(getattr(diffusers, kind)(), [1, 2, 3], {}, **more)
    part = sampled(getattr(diffusers, kind)(), [1, 2, 3], {2: [0, 2], 4: [1]}, **more)
    torch.testing.assert_close(part, whole[2:], atol=1e-5, rtol=1e-5)


def test_guidance_stacks_are_shrunk_group_by_group() -> None:
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(3)
    watch = StepWatch(scheduler, [torch.Generator()] * 3, lambda watch: [0, 2])
    scheduler.step(torch.zeros(3, 1, 2, 2), scheduler.timesteps[0], torch.zeros(3, 1, 2, 2))
    stacked = torch.arange(6).view(6, 1)
    given = {"latents": torch.arange(3), "prompt_embeds": stacked, "nothing": None}
    left = watch.shrink_call(None, 0, 0, given)
    assert left["latents"].tolist() == [0, 2]
    assert left["prompt_embeds"].flatten().tolist() == [0, 2, 3, 5]
    assert left["nothing"] is None
    assert watch.shrink_call(None, 1, 0, given) is given


def test_noise_comes_from_the_generators_where_the_pipeline_forgets_them() -> None:
    def run() -> Tensor:
        scheduler = diffusers.DDPMScheduler()
        scheduler.set_timesteps(3)
        StepWatch(scheduler, [torch.Generator().manual_seed(1)])
        one = torch.ones(1, 4, 3, 3)
        return scheduler.step(one, scheduler.timesteps[0], one, return_dict=False)[0]

    before = torch.get_rng_state()
    assert torch.equal(run(), run()) and torch.equal(before, torch.get_rng_state())
