"""Training of the proxy: rates, frozen modules, averaging, losses and start weights."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

from zoomiqa_core.proxy.batches import Evidence
from zoomiqa_core.proxy.losses import evidence_losses
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy
from zoomiqa_core.proxy.training import (
    ProxyTraining,
    ProxyTrainingConfig,
    load_start,
    moving_average,
    parameter_groups,
)


def test_rates_by_hand():
    config = ProxyTrainingConfig(steps=1000, head_lr=1.0, backbone_lr=2.0, head_steps=150)
    training = ProxyTraining(QualityProxy(width=8), config)

    def rates(step: int) -> list[float]:
        training.begin_step(step)
        return [group["lr"] for group in training._optimizer.param_groups]

    assert rates(0) == pytest.approx([0, 0.01])  # the first of 100 steps of warm-up
    backbone = training._groups[0]["params"][0]
    assert not backbone.requires_grad  # only the heads learn
    half = (1 + math.cos(0.15 * math.pi)) / 2
    assert rates(150) == pytest.approx([0.01 * 2 * half, half])
    assert backbone.requires_grad
    assert rates(500) == pytest.approx([1, 0.5])
    assert rates(1000) == pytest.approx([0, 0])


def test_moving_average_by_hand():
    # count 8: decay 9/18 = ½; count 10⁶: the ceiling .9
    old, new = torch.tensor([1.0]), torch.tensor([3.0])
    assert moving_average(old, new, 8, 0.9).item() == pytest.approx(2)
    assert moving_average(old, new, 10**6, 0.9).item() == pytest.approx(1.2)


def test_frozen_modules_are_in_no_group():
    proxy = QualityProxy(width=8)
    backbone, heads = parameter_groups(proxy, ProxyTrainingConfig())
    learning = {id(p) for group in (backbone, heads) for p in group["params"]}
    assert id(proxy.backbone.conv_stem.weight) not in learning
    assert id(proxy.backbone.blocks[3][0].conv_dw.weight) not in learning
    assert id(proxy.backbone.blocks[3][0].conv_pw.weight) in learning
    assert id(proxy.rating_head.weight) in learning
    proxy.requires_grad_(True)
    backbone, _ = parameter_groups(proxy, ProxyTrainingConfig(frozen_depthwise=False))
    assert id(proxy.backbone.blocks[3][0].conv_dw.weight) in {id(p) for p in backbone["params"]}


def test_a_step_changes_what_learns_alone_and_the_average_less():
    torch.manual_seed(0)
    proxy = QualityProxy(width=8)
    before = {name: value.clone() for name, value in proxy.state_dict().items()}
    training = ProxyTraining(proxy, ProxyTrainingConfig(steps=10, head_steps=0, head_lr=0.1))
    training.begin_step(0)
    training.forward(torch.rand(2, 3, 64, 64)).rating.sum().backward()
    training.end_step()
    stem, head = "backbone.conv_stem.weight", "rating_head.weight"
    assert torch.equal(proxy.state_dict()[stem], before[stem])
    moved = (proxy.state_dict()[head] - before[head]).abs().max()
    averaged = (training.averaged.state_dict()[head] - before[head]).abs().max()
    assert moved > 0
    # AveragedModel copies the weights at its first update
    assert averaged == moved


def test_evidence_losses_by_hand():
    out = ProxyOutput(
        rating=torch.tensor([3.0, 2.0]),
        rating_std=torch.tensor([1.0, 1.0]),
        map=torch.full((2, 1, 1, 1), 2.0),
        weight=torch.ones(2, 1, 1, 1),
        map_std=torch.ones(2, 1, 1, 1),
    )
    nothing = torch.full((2,), math.nan)
    evidence = Evidence(
        torch.rand(2, 3, 16, 16),
        torch.tensor([4.0, math.nan]),
        nothing,
        torch.zeros(2),
        torch.stack([torch.full((1, 16, 16), math.nan), torch.full((1, 16, 16), 3.0)]),
    )
    terms = evidence_losses(out, evidence, ranking_weight=5.0, map_weight=2.0)
    assert terms["regression"].item() == pytest.approx(1 - 0.25 / 2)  # smooth L1 of 3 and 4
    assert terms["ranking"].item() == 0  # nothing is ordered
    assert terms["error"].item() == pytest.approx(0.5)  # log 1 + 1² / 2
    assert terms["map"].item() == pytest.approx(1 - 0.25 / 2)  # of the one image with a map
    assert terms["total"].item() == pytest.approx(0.875 + 0.5 + 2 * 0.875)
    unmapped = evidence._replace(rating_map=torch.full((2, 1, 16, 16), math.nan))
    assert "map" not in evidence_losses(out, unmapped, ranking_weight=1, map_weight=1)


def test_parts_that_a_trained_proxy_lacks_start_anew_and_unknown_ones_are_refused(tmp_path):
    proxy = QualityProxy()
    stored = {n: torch.full_like(v, 2) for n, v in proxy.state_dict().items() if "whole" not in n}
    save_file(stored, tmp_path / "model.safetensors")
    before = proxy.get_parameter("whole.1.weight").clone()
    load_start(proxy, tmp_path)
    assert bool((proxy.rating_head.weight == 2).all())
    assert torch.equal(proxy.get_parameter("whole.1.weight"), before)
    save_file({"another.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"another\.weight"):
        load_start(proxy, tmp_path)
