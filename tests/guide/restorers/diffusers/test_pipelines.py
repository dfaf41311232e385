"""Every kind of pipeline: what works, printed as a table, and what its contract declares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from restoration_guide.restorers import Candidate, load_restorer
from restoration_guide.restorers.diffusers.contract import SHRINKING, Contract, read_contract
from restoration_guide.restorers.diffusers.restorer import PipelineRestorer
from tests.guide import tiny_pipelines
from tests.guide.restorers.diffusers.pipeline_features import (
    FEATURES,
    HalfObserver,
    as_markdown,
    check,
    picture,
)
from zoomiqa_core import load_scorer

# the schedulers' own: NumPy's protocols of before 2.0
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning:diffusers")

ROWS: list[dict[str, str]] = []


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest):
    """Prints the table once all pipelines were tried, also without `-s`."""
    yield
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + as_markdown(ROWS))


@pytest.fixture(scope="module")
def judge() -> Any:
    return load_scorer("proxy")


@pytest.mark.parametrize("name", tiny_pipelines.NAMES)
def test_features(name: str, judge: Any) -> None:
    found = check(name, judge)
    ROWS.append(found)
    assert set(found) == {"class", *FEATURES}
    assert found["best of N"] == found["same bytes"] == found["previews, ended early"] == "yes"
    if name in CONTRACTS:
        declared = CONTRACTS[name]
        assert (found["prompt"] == "yes") == declared.prompt
        assert (found["batch shrinks"] == "yes") == declared.shrinks


CONTRACTS = {
    "flux_img2img": Contract(("image",), "step_end", multiple=4),
    "ldm_super_resolution": Contract(
        ("image",),
        "none",
        prompt=False,
        negative_prompt=False,
        signed=True,
        scale=2,
        multiple=4,
    ),
    "qwen_img2img": Contract(("image",), "step_end", multiple=4),
    "sd3_img2img": Contract(("image",), "step_end", multiple=4),
    "sd_controlnet": Contract(("image",), "step_end", shrinks=True, multiple=4),
    "sd_controlnet_img2img": Contract(
        ("image", "control_image"), "step_end", shrinks=True, multiple=4
    ),
    "sd_img2img": Contract(("image",), "step_end", shrinks=True, multiple=4),
    "sd_instruct_pix2pix": Contract(("image",), "step_end", shrinks=True, multiple=4),
    "sd_upscale": Contract(("image",), "legacy", scale=4),
    "sdxl_img2img": Contract(("image",), "step_end", shrinks=True, multiple=4),
}


def test_contracts() -> None:
    built = {name: tiny_pipelines.build(name) for name in CONTRACTS}
    assert {name: read_contract(pipe) for name, pipe in built.items()} == CONTRACTS
    tried = {type(pipe).__name__ for name, pipe in built.items() if CONTRACTS[name].shrinks}
    assert tried == SHRINKING  # no class is in the table that was not tried


@pytest.mark.parametrize("name", ["flux_img2img", "sd3_img2img"])
def test_what_is_declared_not_to_shrink_does_not(name: str) -> None:
    restorer = made(name, contract=replace(CONTRACTS[name], shrinks=True))
    restorer.group_limit = lambda size: size
    whole = {one.index: one.image for one in restorer.restore(picture(), n=4, seed=0)}
    try:
        half = run(restorer, n=4, batch_size=4, observer=HalfObserver())
    except RuntimeError:
        return  # rows of one tensor no longer fit those of another
    assert any(not torch.allclose(one.image, whole[one.index], atol=1e-4) for one in half)


def test_words_of_a_restorer_can_be_exchanged() -> None:
    first = made("sd_img2img", prompt="a photo", negative_prompt="noise")
    second = first.with_prompts("a sharp photo")
    assert first.config["prompt"] == "a photo" and first.config["negative_prompt"] == "noise"
    assert second.config["prompt"] == "a sharp photo" and second.config["negative_prompt"] == ""
    assert second.adapter.pipe is first.adapter.pipe and second.plan == first.plan


def test_words_that_would_be_ignored_are_noted() -> None:
    (upscaled,) = run(made("ldm_super_resolution", prompt="sharp", negative_prompt="blur"))
    assert "the pipeline takes no prompt: left out" in upscaled.notes
    assert "the pipeline takes no negative prompt: left out" in upscaled.notes
    (guided,) = run(made("flux_img2img", negative_prompt="blur"))
    assert any("true_cfg_scale 4" in note for note in guided.notes)
    options = tiny_pipelines.options("flux_img2img")
    for scale, said in ((2.0, False), (1.0, True)):
        given = {**options, "true_cfg_scale": scale}
        (chosen,) = run(made("flux_img2img", negative_prompt="blur", options=given))
        assert ("guidance 1: the negative prompt has no effect" in chosen.notes) == said
    plain = made("sd_img2img", negative_prompt="blur", plan=[{"guidance_scale": 1.0}])
    assert "guidance 1: the negative prompt has no effect" in run(plain)[0].notes


def test_plan_cycles_and_reports_settings_by_name() -> None:
    plan = [{"strength": 0.5}, {"strength": 1.0, "guidance_scale": 3.0}]
    restorer = made("sd_img2img", plan=plan)
    found = sorted(run(restorer, n=4), key=lambda one: one.index)
    assert [one.settings_dict for one in found] == plan * 2
    assert [one.nfe for one in found] == [2, 4, 2, 4]  # of 4 steps the strength's share
    default = PipelineRestorer(restorer.adapter.pipe)
    assert [set(entry) for entry in default.plan] == [{"strength"}] * 4


def test_a_call_leaves_the_pipeline_as_it_was() -> None:
    restorer = made("sd_img2img")
    pipe: Any = restorer.adapter.pipe
    scheduler, state = pipe.scheduler, dict(vars(pipe.scheduler))
    held, random = set(vars(pipe)), torch.get_rng_state()
    run(restorer, n=2, observer=HalfObserver())

    def failing(previews: Any) -> Any:
        raise RuntimeError("the observer fails")

    with pytest.raises(RuntimeError, match="the observer fails"):
        run(restorer, n=2, observer=failing)
    assert pipe.scheduler is scheduler and vars(scheduler).keys() == state.keys()
    assert all(vars(scheduler)[key] is value for key, value in state.items())
    assert set(vars(pipe)) == held and torch.equal(random, torch.get_rng_state())


def made(name: str, **more: Any) -> Any:
    arguments = {"options": tiny_pipelines.options(name), "plan": [{}], **more}
    return load_restorer(tiny_pipelines.build(name), **arguments)


def run(restorer: Any, n: int = 1, **more: Any) -> list[Candidate]:
    return list(restorer.restore(picture(), n=n, **more))
