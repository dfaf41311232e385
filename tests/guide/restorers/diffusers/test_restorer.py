"""What goes wrong with pipelines, memory, sizes and tiles; a small pipeline of our own class."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from restoration_guide import BestOfN
from restoration_guide.restorers import Restorer, candidate_generator, load_restorer
from restoration_guide.restorers.diffusers.adapter import PipelineAdapter
from restoration_guide.restorers.diffusers.contract import read_contract
from restoration_guide.restorers.diffusers.restorer import PipelineRestorer
from tests.guide import tiny_pipelines
from tests.guide.own_pipeline import OwnPipeline, build_own_pipeline
from zoomiqa_core.images.sources import to_pil
from zoomiqa_core.scorer import load_scorer


@pytest.fixture
def own() -> Any:
    return build_own_pipeline()


def image(height: int = 21, width: int = 30) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def batching(restorer: Any) -> Any:
    restorer.group_limit = lambda size: size  # as on an accelerator
    return restorer


def test_a_class_of_ones_own(own: Any) -> None:
    restorer: Any = load_restorer(own, plan=[{}, {"gain": 0.2}])
    contract = restorer.contract
    assert restorer.name == "OwnPipeline"
    assert contract.images == ("image",) and contract.callback == "none"
    assert not contract.prompt and contract.gradients and contract.previews
    first, second = restorer.restore(image(), n=2)
    assert first.image.shape == (3, 21, 30) and first.nfe == 3
    assert (first.image - image()[0]).abs().max() < (second.image - image()[0]).abs().max()
    seen: list[Tensor] = []

    def look(previews: Any) -> list[int]:
        seen.extend(shown.image for shown in previews)
        return [shown.index for shown in previews]

    assert len(list(restorer.restore(image(), n=2, observer=look))) == 2
    assert [shown.shape for shown in seen] == [(3, 21, 30)] * 4  # two steps of three
    assert isinstance(restorer, Restorer)


def test_batches_hold_equal_settings(own: Any) -> None:
    sizes: list[int] = []
    own.unet.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    restorer = batching(load_restorer(own, plan=[{}, {"gain": 0.2}]))
    made = list(restorer.restore(image(), n=5, batch_size=2))
    assert sorted(one.index for one in made) == [0, 1, 2, 3, 4]
    assert sizes[::3] == [2, 2, 1]  # 0 and 2, 1 and 3, 4
    alone = {
        one.index: one.image
        for one in PipelineRestorer(own, plan=restorer.plan).restore(image(), n=5)
    }
    for one in made:
        torch.testing.assert_close(one.image, alone[one.index], atol=1e-5, rtol=0)


def test_a_batch_too_large_for_the_memory_is_halved(own: Any) -> None:
    sizes: list[int] = []

    def full(_: Any, given: Any) -> None:
        sizes.append(len(given[0]))
        if len(given[0]) > limit:
            raise torch.OutOfMemoryError("full")

    own.unet.register_forward_pre_hook(full)
    limit = 2
    restorer = batching(load_restorer(own))
    made = list(restorer.restore(image(), n=8, batch_size=8))
    assert [one.index for one in made] == list(range(8))
    assert sizes == [8, 4, *[2] * 12]
    whole = list(PipelineRestorer(own).restore(image(), n=8))
    for one, other in zip(made, whole, strict=True):
        torch.testing.assert_close(one.image, other.image, atol=1e-5, rtol=0)
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(restorer.restore(image(), n=2, batch_size=2))


def test_observed_batches_are_halved_too() -> None:
    pipe: Any = tiny_pipelines.build("sd_img2img")
    options = tiny_pipelines.options("sd_img2img")
    restorer = batching(load_restorer(pipe, options=options, plan=[{}]))
    whole = {one.index: one.image for one in restorer.restore(image(), n=4)}
    sizes: list[int] = []

    def full(_: Any, given: Any) -> None:
        sizes.append(len(given[0]) // 2)  # guidance doubles the rows
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("full")

    pipe.unet.register_forward_pre_hook(full)
    first_of_each = list(restorer.restore(image(), n=4, batch_size=4, observer=even))
    assert sizes == [4, 2, 2, 1, 1]  # four halved; one of each half goes on
    for one in first_of_each:
        torch.testing.assert_close(one.image, whole[one.index], atol=1e-5, rtol=0)


def even(previews: Any) -> list[int]:
    return [shown.index for shown in previews if shown.index % 2 == 0]


def test_what_a_search_sees_of_bad_candidates(own: Any, stubs: Any) -> None:
    made: list[Tensor] = []

    def spoil(good: Tensor) -> Tensor:
        made.append(good)
        spoilt = {
            2: torch.full_like(good, float("nan")),
            3: torch.zeros_like(good),
            4: torch.rand(1, 3, 8, 64, generator=candidate_generator(0, 0)),
        }
        if len(made) == 5:
            raise RuntimeError("the pipeline crashes")
        return spoilt.get(len(made), good)

    own.after = spoil
    search = BestOfN(load_restorer(own), stubs.Scorer(), n=8)
    result = search(image()[0], seed=0)
    statuses = [row.status for row in result.rows[2:]]
    assert statuses[:3] == ["not_finite", "constant", "wrong_size"]
    assert result.error == "RuntimeError: the pipeline crashes"
    assert [row.index for row in result.rows[1:]] == [0, 1, 2, 3, 5, 6, 7]  # all but the crash


def test_a_flagged_candidate_says_so(own: Any, stubs: Any) -> None:
    class Flagging(OwnPipeline):
        def __call__(self, image: Tensor, **more: Any) -> Any:
            return SimpleNamespace(images=torch.zeros_like(image), nsfw_content_detected=[True])

    restorer = load_restorer(Flagging(own.unet, own.scheduler))
    (candidate,) = restorer.restore(image(), n=1)
    assert "the safety checker flagged it" in candidate.notes
    result = BestOfN(restorer, stubs.Scorer(), n=1)(image()[0])
    assert result.rows[1].status == "constant" and "flagged" in result.rows[1].detail


def test_a_crash_among_observed_candidates_leaves_the_others(own: Any) -> None:
    count = [0]

    def crash(good: Tensor) -> Tensor:
        count[0] += 1
        if count[0] == 1:
            raise RuntimeError("crash")
        return good

    own.after = crash
    finished = []
    with pytest.raises(RuntimeError, match="crash"):
        for one in load_restorer(own).restore(image(), n=3, observer=keep_all):
            finished.append(one.index)
    assert finished == [1, 2]


def keep_all(previews: Any) -> list[int]:
    return [shown.index for shown in previews]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_calls(own: Any) -> None:
    before, calls = threading.active_count(), []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    own.unet.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(load_restorer(own).restore(image(), n=3, observer=keep_all))
    assert threading.active_count() == before and len(calls) == 5


def test_a_search_that_is_left_ends_its_calls(own: Any) -> None:
    before = threading.active_count()
    stream = load_restorer(own).restore(image(), n=3, observer=keep_all)
    next(iter(stream))
    del stream  # as Ctrl-C leaves it
    assert threading.active_count() == before


def test_tiles(own: Any) -> None:
    restorer: Any = load_restorer(own, tile=32, options={"gain": 0.0})
    (made,) = restorer.restore(image(40, 90), n=1)
    torch.testing.assert_close(made.image, image(40, 90)[0], atol=1e-6, rtol=0)  # no seams
    assert made.notes == ("in tiles of 32×32",) and made.nfe == 3 * 2 * 4
    restorer = load_restorer(own, tile=32)
    assert restorer.limits.max_pixels > load_restorer(own).limits.max_pixels
    one, two = (list(restorer.restore(image(40, 90), n=n)) for n in (1, 2))
    assert torch.equal(one[0].image, two[0].image)
    assert not torch.equal(two[0].image, two[1].image)
    (small,) = restorer.restore(image(30, 30), n=1)
    assert "in tiles" not in " ".join(small.notes)
    with pytest.raises(ValueError, match="because it works in tiles: search without"):
        restorer.restore(image(40, 90), n=1, observer=keep_all)
    assert next(restorer.restore(image(30, 30), n=1, observer=keep_all)).index == 0
    with pytest.raises(ValueError, match="because it works in tiles"):  # whatever image comes
        BestOfN(restorer, load_scorer("proxy"), deadline_s=60)


def test_settings_are_recorded_as_they_are_and_lists_become_tuples(own: Any) -> None:
    class Sized(OwnPipeline):
        def __call__(
            self, image: Any, generator: Any = None, size: tuple[int, int] = (8, 8)
        ) -> Any:
            assert isinstance(size, tuple)  # micro-conditions are tuples, joined by +
            return SimpleNamespace(images=image)

    pipe = Sized(own.unet, own.scheduler)
    restorer: Any = load_restorer(pipe, options={"size": [4, 6]}, plan=[{"size": [2, 2]}])
    assert restorer.config["options"] == {"size": (4, 6)}
    assert restorer.config["plan"] == [{"size": (2, 2)}]
    assert next(restorer.restore(image(), n=1)).index == 0


def test_images_for_pipelines_that_take_pil(own: Any) -> None:
    class QwenImageEditLikePipeline(OwnPipeline):
        def __call__(self, image: Any, generator: Any = None) -> Any:
            assert image.size == (32, 24)
            return SimpleNamespace(images=torch.full((1, 3, 48, 64), 0.5))

    restorer: Any = load_restorer(QwenImageEditLikePipeline(own.unet, own.scheduler))
    assert restorer.contract.as_pil and not restorer.contract.gradients
    assert restorer.group_limit(8) == 1
    (made,) = restorer.restore(image(), n=1)
    assert made.image.shape == (3, 21, 30)
    assert "came as 64×48, resized to 32×24" in made.notes
    with pytest.raises(ValueError, match="gives no gradients"):
        restorer.adapter.call(image(), {}, [candidate_generator(0, 0)], grad=True)


def test_a_call_that_gives_pil_images(own: Any) -> None:
    own.after = lambda good: [to_pil(one) for one in good]
    (made,) = load_restorer(own, options={"gain": 0.0}).restore(image(), n=1)
    torch.testing.assert_close(made.image, image()[0], atol=0.6 / 255, rtol=0)


def test_gradients_switched_off_are_named(own: Any) -> None:
    restorer: Any = load_restorer(own)
    given = (image(), {}, [candidate_generator(0, 0)])
    with torch.no_grad(), pytest.raises(RuntimeError, match="Gradients are switched off"):
        restorer.adapter.call(*given, grad=True)
    own.unet.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not depend on anything that requires"):
        restorer.adapter.call(*given, grad=True)


def test_rejections_teach_the_fix(own: Any) -> None:
    restorer: Any = load_restorer(own)
    with pytest.raises(ValueError, match="Expected one image"):
        restorer.restore(image()[0], n=1)
    with pytest.raises(ValueError, match="n and batch_size must be at least 1"):
        restorer.restore(image(), n=0)
    with pytest.raises(ValueError, match="plan needs at least one"):
        load_restorer(own, plan=[])
    with pytest.raises(ValueError, match="tile must be at least 32 px"):
        load_restorer(own, tile=8)
    with pytest.raises(ValueError, match=r"candidates \[7\], but was shown \[0, 1\]"):
        list(restorer.restore(image(), n=2, observer=lambda previews: [7]))
    with pytest.raises(ValueError, match="one generator per image"):
        restorer.adapter.call(image(), {}, [])
    with pytest.raises(ValueError, match=r"has no gian; it has image, generator, gain\."):
        load_restorer(own, plan=[{}, {"gian": 0.1}])
    with pytest.raises(ValueError, match="has no strenght"):  # a call with **kwargs
        load_restorer(tiny_pipelines.build("sd_img2img"), options={"strenght": 0.1})
    own.after = lambda good: good[0]
    with pytest.raises(TypeError, match=r"OwnPipeline gave \(3, 24, 32\) instead of images"):
        list(restorer.restore(image(), n=1))
    own.unet.is_cache_enabled = True
    with pytest.raises(ValueError, match="a cache keeps one call's state"):
        restorer.restore(image(), n=1, observer=keep_all)
    own.scheduler = None
    silent: Any = load_restorer(own)
    with pytest.raises(ValueError, match="shows no previews, because of its scheduler"):
        silent.restore(image(), n=1, observer=keep_all)


def test_one_bad_entry_of_the_plan_leaves_the_others(own: Any) -> None:
    own.after = lambda good: good
    restorer, made = load_restorer(own, plan=[{}, {"gain": "much"}, {"gain": 0.1}]), []
    with pytest.raises(TypeError):
        for candidate in restorer.restore(image(), n=6):
            made.append(candidate.index)
    assert made == [0, 2, 3, 5]


@pytest.mark.parametrize("observed", [False, True])
def test_a_batch_that_did_not_fit_is_freed_before_the_halves_run(observed: bool) -> None:
    pipe: Any = tiny_pipelines.build("sd_img2img")
    restorer = batching(
        load_restorer(pipe, options=tiny_pipelines.options("sd_img2img"), plan=[{}])
    )
    held: list[weakref.ref[Tensor]] = []
    left: list[int] = []

    def full(_: Any, given: Any) -> None:
        left.append(sum(tensor() is not None for tensor in held))
        big = torch.zeros(8)
        held.append(weakref.ref(big))
        if len(given[0]) > 4:
            raise torch.OutOfMemoryError("full")
        del big

    pipe.unet.register_forward_pre_hook(full)
    gc.disable()  # memory must not wait for the collector of reference cycles
    try:
        observer = keep_all if observed else None
        made = list(restorer.restore(image(), n=4, batch_size=4, observer=observer))
    finally:
        gc.enable()
    assert len(made) == 4 and len(left) > 2 and not any(left)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("generator", torch.Generator()),
        ("latents", torch.zeros(1, 4, 8, 8)),
        ("num_images_per_prompt", 2),
        ("output_type", "latent"),
    ],
)
@pytest.mark.parametrize("where", ["options", "plan"])
def test_what_seed_and_n_determine_is_no_option(name: str, value: Any, where: str) -> None:
    pipe: Any = tiny_pipelines.build("sd_img2img")
    given: Any = {name: value}
    with pytest.raises(ValueError, match=f"{name} is no option of a restorer"):
        load_restorer(pipe, **{where: [given] if where == "plan" else given})  # pyright: ignore


def restored(pipe: Any, count: int = 1, **more: Any) -> list[Tensor]:
    options = {**tiny_pipelines.options("sd_img2img"), **more.pop("options", {})}
    restorer = batching(load_restorer(pipe, options=options, **{"plan": [{}], **more}))
    return [c.image for c in restorer.restore(image(), n=count, batch_size=count)]


def test_prompts_of_options_and_plan_reach_the_call() -> None:
    pipe: Any = tiny_pipelines.build("sd_img2img")
    (asked,) = restored(pipe, prompt="sharp", negative_prompt="blur")
    (plain,) = restored(pipe)
    assert not torch.equal(asked, plain)
    words = {"prompt": "sharp", "negative_prompt": "blur"}
    assert torch.equal(restored(pipe, options=words)[0], asked)
    assert torch.equal(restored(pipe, plan=[words])[0], asked)
    assert torch.equal(restored(pipe, options=words, plan=[{"prompt": "sharp"}])[0], asked)
    restorer: Any = load_restorer(pipe, options=words).with_prompts("other")  # type: ignore[attr-defined]
    assert restorer.adapter.prompt == "other" and not restorer.adapter.options


def test_prompts_may_come_embedded() -> None:
    pipe: Any = tiny_pipelines.build("sd_img2img")
    embeds, negative = pipe.encode_prompt("sharp", "cpu", 1, True, "blur")
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    asked = restored(pipe, 2, prompt="sharp", negative_prompt="blur")
    for one, other in zip(restored(pipe, 2, options=given), asked, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sd_controlnet", "sd_controlnet_img2img"])
def test_several_controlnets_each_get_the_image(name: str) -> None:
    pipe: Any = tiny_pipelines.build(name)
    options = tiny_pipelines.options(name)
    scale = {"controlnet_conditioning_scale": 1.0}
    alone = load_restorer(pipe, options={**options, **scale}, plan=[{}])
    single = list(alone.restore(image(), n=2))
    two = type(pipe)(
        **{**pipe.components, "controlnet": [pipe.controlnet, tiny_pipelines.controlnet()]},
        requires_safety_checker=False,
    )
    scales = {"controlnet_conditioning_scale": [1.0, 0.0]}  # the second without effect
    several = batching(load_restorer(two, options={**options, **scales}, plan=[{}]))
    made = list(several.restore(image(), n=2, batch_size=2))
    for one, other in zip(made, single, strict=True):
        torch.testing.assert_close(one.image, other.image, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        "SanaImageToVideoPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "QwenImageControlNetInpaintPipeline",
        "FluxPriorReduxPipeline",
        "DiffusionGemmaPipeline",
        "KandinskyV22PriorEmb2EmbPipeline",
        "StableDiffusionImageVariationPipeline",
        "ShapEImg2ImgPipeline",
    ],
)
def test_diffusers_pipelines_that_do_not_restore_are_refused(name: str) -> None:
    kind = getattr(importlib.import_module("diffusers"), name)
    with pytest.raises(TypeError, match=r"which a restorer does not have|is not supported: it"):
        read_contract(kind.__new__(kind))


def test_flux2_has_no_previews() -> None:
    class Flux2OwnPipeline(OwnPipeline):
        pass

    assert read_contract(build_own_pipeline()).previews
    assert not read_contract(object.__new__(Flux2OwnPipeline)).previews


def test_compiled_networks_are_not_watched_on_cuda(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer: Any = load_restorer(own)
    own.unet._compiled_call_impl = lambda *_: None  # as `unet.compile()` leaves it
    assert restorer.unobservable is None
    monkeypatch.setattr(PipelineAdapter, "device", torch.device("cuda"))
    assert "CUDA graphs of a compiled network" in (restorer.unobservable or "")


def test_pipelines_that_are_no_restorers(own: Any) -> None:
    def with_call(name: str, call: Any) -> Any:
        return type(name, (OwnPipeline,), {"__call__": call})(own.unet, own.scheduler)

    inpaint = with_call("InpaintPipeline", lambda self, image, mask_image=None: None)
    with pytest.raises(TypeError, match="InpaintPipeline needs a mask of what to repaint"):
        read_contract(inpaint)
    assert read_contract(inpaint, {"mask_image": 1}).images == ("image",)
    with pytest.raises(TypeError, match="it makes videos"):
        read_contract(with_call("ClipPipeline", lambda self, image, num_frames=8: None))
    with pytest.raises(TypeError, match="IFStagePipeline is not supported"):
        read_contract(with_call("IFStagePipeline", lambda self, image: None))
    with pytest.raises(TypeError, match="takes no image"):
        load_restorer(with_call("WordsPipeline", lambda self, prompt: None))
    guided = with_call("PAGPipeline", lambda self, image: None)
    assert not read_contract(guided).previews
