"""Tiny restorers that learn, and a judge with exact figures."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.finetune.lora import TunedNetwork
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from zoomiqa_core.proxy.model import ProxyOutput
from zoomiqa_core.training.policy import LoraSettings


class BrightJudge:
    """Rates 1 + 4 · brightness, cell by cell."""

    def __call__(self, images: Tensor) -> ProxyOutput:
        cells = 1 + 4 * functional.avg_pool2d(images.mean(1, keepdim=True), 16, ceil_mode=True)
        rating = cells.mean((1, 2, 3))
        ones = torch.ones_like(cells)
        return ProxyOutput(rating, torch.full_like(rating, 0.1), cells, ones, ones)


@pytest.fixture
def judge() -> BrightJudge:
    return BrightJudge()


@pytest.fixture
def own_pipe(pipe: TinyRestorationPipeline) -> TinyRestorationPipeline:
    """A pipeline of this test alone, whose network may be changed."""
    own = TinyRestorationPipeline(copy.deepcopy(pipe.unet), pipe.scheduler, sigma_data=0.55)
    own.set_progress_bar_config(disable=True)
    return own


@pytest.fixture
def tuned(own_pipe: TinyRestorationPipeline) -> TunedNetwork:
    """Its network with adapters that already do something."""
    network = TunedNetwork(own_pipe.unet, LoraSettings(2, 4, ".*"), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.fixture
def degraded() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(2, 3, 5, 6, generator=generator)
    return functional.interpolate(coarse, (16, 24), mode="bicubic").clamp(0.1, 0.9)
