"""On a CUDA device the models say and make what they do on the CPU: `make test-gpu`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from restoration_guide.restorers import Settings
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline, tiny_unet
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from tests.core.judges import BROKEN, CROP, FINAL, picture
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm, teach_replies
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.sampling import Sampling

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 rounds to ten bits, and the comparison is of the code, not of that rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def photo(height: int = 72, width: int = 104) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def make_restorer(device: str) -> BuiltinRestorer:
    torch.manual_seed(0)  # the network's weights
    unet = tiny_unet((8, 16, 24), 1).eval()
    pipe = TinyRestorationPipeline(unet, FlowMatchEulerDiscreteScheduler(), sigma_data=0.55)
    pipe.set_progress_bar_config(disable=True)
    plan = tuple(Settings(3, s, 0.8, churn) for s, churn in ((1.0, False), (0.7, False), (1, True)))
    return BuiltinRestorer(pipe.to(device), plan=plan)


def test_the_judge_on_cuda_agrees_with_the_cpu() -> None:
    here = QualityProxy(width=32).eval()
    there = copy.deepcopy(here).cuda()
    with torch.no_grad():
        expected, found = here(photo()), there(photo().cuda())
    for name, values in expected._asdict().items():
        on_cuda = getattr(found, name)
        assert on_cuda.is_cuda
        torch.testing.assert_close(on_cuda.cpu(), values, atol=1e-3, rtol=1e-3)


def test_gradients_of_the_judge_arrive_on_cuda() -> None:
    image = photo().cuda().requires_grad_()
    QualityProxy(width=32).eval().cuda()(image).rating.sum().backward()
    assert image.grad is not None and image.grad.is_cuda
    assert bool(image.grad.isfinite().all()) and bool(image.grad.any())


def test_candidates_on_cuda_do_not_depend_on_the_batch() -> None:
    restorer = make_restorer("cuda")
    assert restorer.group_limit(4) == 4
    one = list(restorer.restore(photo(), n=6, seed=3, batch_size=1))
    four = list(restorer.restore(photo(), n=6, seed=3, batch_size=4))
    for a, b in zip(one, four, strict=True):
        assert a.image.device.type == "cpu"
        torch.testing.assert_close(b.image, a.image, atol=1e-4, rtol=0)


def test_candidates_on_cuda_agree_with_the_cpu() -> None:
    here, there = (
        list(make_restorer(device).restore(photo(), n=3, seed=3)) for device in ("cpu", "cuda")
    )
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.image, a.image, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_zoom_iqa_model_judges_on_cuda_whatever_the_batch(dtype: torch.dtype) -> None:
    model: Any
    model, processor = build_tiny_vlm()
    teach_replies(model, processor, {FINAL: 8.0, CROP: 8.7, BROKEN: 7.0}, end=8.5)
    model = model.to("cuda", dtype)
    sampling = Sampling(max_new_tokens=6, top_p=1, top_k=0)

    def judge(batch_size: int) -> ZoomIQA:
        backend = LocalVLM(model, processor, sampling=sampling, batch_size=batch_size)
        return ZoomIQA(backend, config=JudgeConfig(samples=8))

    images = [picture(96, 64), picture(64, 128)]
    one, many = (judge(size).assess(images) for size in (1, 16))
    assert all(said.valid and said.chains.zoom_share for said in many)
    if (
        dtype == torch.float32
    ):  # in bfloat16 a batch rounds otherwise, and a draw may fall otherwise
        assert [said.chains.ratings for said in one] == [said.chains.ratings for said in many]
