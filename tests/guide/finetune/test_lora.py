"""What is trained: adapters, the network they leave alone, and what plain libraries load."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNet2DModel
from peft import PeftModel

from restoration_guide.finetune.lora import TunedNetwork, adapted_layers
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from zoomiqa_core.training.policy import LoraSettings

LORA = LoraSettings(2, 4, ".*")


def restored(network) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.rand(1, 36, 8, 12, generator=torch.Generator().manual_seed(0)), 500.0)[
            0
        ]


@pytest.mark.parametrize("settings", [LORA, LoraSettings(0, 4, ".*")], ids=["lora", "full"])
def test_the_reference_is_the_network_before_training(own_pipe, settings):
    network = own_pipe.unet
    before = restored(network)
    tuned = TunedNetwork(network, settings)
    torch.testing.assert_close(restored(network), before)  # new adapters do nothing
    with torch.no_grad():
        for parameter in tuned.parameters:
            parameter.add_(0.05)
    after = restored(network)
    assert float((after - before).abs().max()) > 1e-3
    with tuned.reference():
        assert not torch.is_grad_enabled()
        torch.testing.assert_close(restored(network), before)
    assert torch.equal(restored(network), after)


@pytest.mark.parametrize("rank", [0, 2])
def test_half_the_strength_changes_every_weight_by_half(own_pipe, rank):
    start = {name: value.clone() for name, value in own_pipe.unet.state_dict().items()}
    tuned = TunedNetwork(own_pipe.unet, LoraSettings(rank, 4, ".*"))
    generator = torch.Generator().manual_seed(1)
    learned = [p + 0.1 * torch.randn(p.shape, generator=generator) for p in tuned.parameters]

    def change(strength: float) -> dict[str, torch.Tensor]:
        with tuned.use_weights(tuned.scaled(learned, strength)):
            merged = tuned.merged().state_dict()
        return {name: merged[name] - start[name] for name in start}

    whole, half = change(1.0), change(0.5)
    assert sum(float(delta.abs().max()) > 1e-3 for delta in whole.values()) > 10
    for name, delta in whole.items():
        torch.testing.assert_close(half[name], delta / 2, atol=1e-6, rtol=1e-4)


def test_adapters_alone_learn_and_are_seeded(own_pipe):
    networks = [copy.deepcopy(own_pipe.unet) for _ in range(3)]
    states = [
        TunedNetwork(n, LORA, seed=s).state() for n, s in zip(networks, (0, 0, 1), strict=True)
    ]
    assert all(".lora_" in name for name in states[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    frozen = [p for n, p in networks[0].named_parameters() if ".lora_" not in n]
    assert len(frozen) > 40 and not any(p.requires_grad for p in frozen)


def test_making_adapters_leaves_the_global_generator_alone(own_pipe):
    state = torch.get_rng_state()
    TunedNetwork(own_pipe.unet, LORA)
    assert torch.equal(state, torch.get_rng_state())


def test_a_state_brings_the_weights_back_and_others_are_refused(own_pipe, tuned):
    kept, images = tuned.state(), restored(own_pipe.unet)
    with torch.no_grad():
        tuned.parameters[0].zero_()
    tuned.load(kept)
    assert torch.equal(restored(own_pipe.unet), images)
    with pytest.raises(ValueError, match="weights of another adapter"):
        tuned.load({**kept, "more": torch.zeros(1)})


def test_plain_diffusers_loads_the_merged_pipeline(own_pipe, tuned, tmp_path):
    before = restored(own_pipe.unet)
    merged = TinyRestorationPipeline(tuned.merged(), own_pipe.scheduler, sigma_data=0.55)
    merged.save_pretrained(tmp_path)
    plain = UNet2DModel.from_pretrained(tmp_path / "unet")
    torch.testing.assert_close(restored(plain), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(restored(own_pipe.unet), before)  # still an adapter
    assert tuned.state()


def test_plain_peft_loads_the_adapter(own_pipe, pipe, tuned, tmp_path):
    tuned.save_adapter(tmp_path)
    base = copy.deepcopy(pipe.unet)
    PeftModel.from_pretrained(base, str(tmp_path))
    assert torch.equal(restored(base), restored(own_pipe.unet))


def test_targets_choose_layers(own_pipe):
    inner = adapted_layers(own_pipe.unet)
    assert len(inner) > 30 and "conv_in" in inner and "conv_out" not in inner
    assert adapted_layers(own_pipe.unet, r"conv_(in|out)") == ["conv_in", "conv_out"]
    with pytest.raises(ValueError, match=r"'attn.*' match none"):
        adapted_layers(own_pipe.unet, "attn.*")


def test_full_weights_have_no_adapter_to_save(own_pipe, tmp_path):
    tuned = TunedNetwork(own_pipe.unet, LoraSettings(0, 4, ".*"))
    with pytest.raises(ValueError, match="rank 0 trains the whole network"):
        tuned.save_adapter(tmp_path)


def test_full_weights_in_bfloat16_have_float32_masters(own_pipe):
    own_pipe.unet.bfloat16()
    tuned = TunedNetwork(own_pipe.unet, LoraSettings(0, 4, ".*"))
    assert {weight.dtype for weight in tuned.masters} == {torch.float32}
    start = tuned.parameters[0].detach().clone()
    step = 1e-4 * start.float().abs()  # bfloat16 has 8 bits and rounds it away
    assert torch.equal(start + step.bfloat16(), start)
    for _ in range(100):  # a hundred of them show
        tuned.masters[0] += step
        tuned.from_masters()
    assert not torch.equal(tuned.parameters[0], start)
    torch.testing.assert_close(tuned.masters[0], start.float() + 100 * step)
    state = tuned.state()
    tuned.masters[0].zero_()
    tuned.load(state)
    assert torch.equal(tuned.parameters[0], state[tuned.names[0]].bfloat16())
    with tuned.reference():
        assert torch.equal(tuned.parameters[0], start)


def test_full_weights_in_float16_are_refused_and_adapters_are_float32(own_pipe):
    own_pipe.unet.half()
    with pytest.raises(ValueError, match="gradients of float16 weights underflow"):
        TunedNetwork(own_pipe.unet, LoraSettings(0, 4, ".*"))
    tuned = TunedNetwork(own_pipe.unet, LoraSettings(2, 4, ".*"))
    assert {weight.dtype for weight in tuned.parameters} == {torch.float32}
    assert all(a is b for a, b in zip(tuned.parameters, tuned.masters, strict=True))
